//! Waiting rooms as the actions use them. A run makes rooms for the listeners that are there. A guard process holds
//! them too. The run hands the connections in them over to the listeners that come.
//!
//! The files, in the order of a run:
//!
//! **What there is.** `groups`: the run's rooms, by SO_REUSEPORT group, and how a group parks connections. `options`:
//! the options of the command line. `choice`: which action `--syn auto` takes, and how large rooms are. `able`,
//! `looked`: whether this host and the service can do it.
//!
//! **Closing.** `make`: makes the rooms. `note`, `left`: a file tells what a killed run would leave on listeners,
//! and the next run takes that back. `hook`: gives SO_REUSEPORT to sockets that are bound later. `remarks`: what the
//! run tells beforehand. `backend`: the rooms as a gate, which opens and closes them. `prefer`, `preferred`: the
//! service's listeners come before the rooms, with `--syn handover` and `syngate keep`.
//!
//! **While COMMAND runs.** `passes`: COMMAND's own connections, and those of `--ready-check`, never wait. `let_in`:
//! they reach a new listener before the others. `old_listener`, `old_listeners`: with `--syn handover`, a listener that the service closes
//! stays until its handshakes are over. `admit`, `admitted`: the service may come back as another user.
//! `in_the_way`: it may come back on another address. `gap`: where nobody listened during `--syn handover`.
//!
//! **The release.** `stand_by`: the run hands the waiting connections over, and keeps the rooms in case the new
//! listener closes again. `handshakes`: those that are under way end first. `letting_go`, `portions`: it hands over
//! for good, room by room, as the service has place. `backlog`, `raised`: the service has a longer queue meanwhile.
//! `own_program`: the service has attached a program of its own. `progress`, `moving`: whether all connections have
//! arrived, and the handshakes too. `policy`: how long the run waits for that.
//!
//! **The end.** `give_back`: takes back what syngate has changed on the listeners. `account`, `figures`, `waits`,
//! `unmoved`: what became of the connections that waited. `departed`: how many of their clients had left. `second`:
//! whether COMMAND has started a second instance.
//!
//! **If the run dies.** `guard`: the process that then hands over. `watch`: the run's side of it. `early_guard`: acts
//! until the guard is there. `again`: tries again what the kernel has refused.
//!
//! **`syngate keep`.** `resident`: rooms that come and go with the listeners. `leaving`: keep gives up some rooms,
//! and the others stay. `keep_any`, `bound`: services without SO_REUSEPORT. `moved`: whether the service has gone
//! elsewhere; `guard_moved`: the same, for the guard of a dead keep. `taken_over`: the next keep takes over the rooms
//! of a dead one.
//!
//! # A gate without rules
//!
//! `--syn park` needs no rules. New connections are established and wait in a listening socket of syngate's
//! own, a room, which is a member of the service's SO_REUSEPORT group. A program of the group sends them there.
//! When a room is closed, the kernel moves its connections to the listener that the program then chooses.
//!
//! To the run this is a gate as any other: it closes, opens port by port, stands or not, has a deadline, and
//! opens when it is dropped. So `Gate` and `Backend` are not about rules. An action says by `Action::means` how it
//! keeps new connections from the service. For `Means::Rules` the run looks for a backend that puts them into the
//! kernel. `Means::Own` is a backend of the action's own. A backend is made with all that it needs (rules, or rooms),
//! and `install` gets the ports only. `Steer` stays what it says: where *rules* send a SYN; a run without rules has
//! none. Not taken: a `Steer::None`, which the backends for rules would have to refuse; and rooms beside an empty
//! gate, where closing, opening and undoing would have two places.
//!
//! | | rules | rooms |
//! |---|---|---|
//! | it closes in one step | a transaction | the program of each group (`Group::park`) |
//! | it opens ports | elements of a set | group by group (`Rooms::hand_over`) |
//! | the run is killed | the owner's socket, or a watchdog | a guard process holds the rooms too, and hands over when the service listens (`guard.rs`) |
//! | the guard is killed, stopped, or hangs | the run starts another watchdog (`process/attended.rs`) | the same |
//! | the run hangs | the kernel's deadline | the guard hands over when the service listens, and at the deadline; it tells the run what it has done |
//! | both are killed | the kernel's deadline | the kernel closes the rooms: waiting connections go to a listener, or are reset |
//! | others can remove it | by `nft flush ruleset`, which is looked for | by a program of their own in the group |
//!
//! What makes it safe:
//!
//! - Rooms are bound in `begin`, and listen in `install`: what can't be done shows before anything has changed.
//!   Dropping `Rooms` takes back what was lent (SO_REUSEPORT).
//! - shutdown(2) makes a room leave its group, no matter who holds copies of it. So the run need not wait until the
//!   guard has closed its copies.
//! - Looks at the sockets leave rooms out (`Looks::hide_rooms`). They know other runs' rooms by the command lines of
//!   their guards (`kernel/room/known.rs`). They also leave out connections in rooms: the drain need not wait for
//!   them.
//! - The program of the hand-over chooses new listeners, and old ones only where there are no new ones. After it
//!   syngate attaches a program that leaves the choice to the kernel and still moves connections. That one stays
//!   until the handshakes that were under way in a room are over (`policy.rs`).
//! - A service that comes back in another group can't have the waiting connections. Where the kernel would go on
//!   giving new connections to the rooms, these are closed as soon as the new listener is there (`in_the_way.rs`).
//!   Not taken: to bind such rooms to no device, in order to reset nobody if the service comes back in its own group
//!   after all. A listener that comes then would not join the group of such rooms.
//! - Rooms lie as descriptors in the queue of a Unix socket that the run and its guard both have
//!   (`kernel/room/shelf.rs`). No process has them among its files, so a COMMAND that kills the processes that
//!   listen on the port does not find syngate.
//! - A note in the directory of the locks says which listeners were there and which have SO_REUSEPORT from the run
//!   (`action/rooms/note.rs`, `left.rs`). The run and its guard hold a lock on it. Once that is free, and the note still there,
//!   the next run and `clear` take back what the kernel does not. Before the note is written, a process starts that
//!   does the same at once if the run is killed before its guard is there (`early_guard.rs`).
//! - `status` and `clear` find rooms by their guards (`gate/rooms.rs`). A guard whose run has died hands over when it
//!   is told to, or the next run has come.
//! - COMMAND is in a control group of its own, whose connections reach the old process: an order to stop must not
//!   wait for the new one.
//! - A trial in a network namespace of its own shows whether this kernel moves a queue and wakes the service.

pub(crate) mod able;
mod account;
mod admit;
mod admitted;
mod again;
mod backend;
mod backlog;
pub(crate) mod bound;
pub(crate) mod choice;
mod departed;
pub(crate) mod early_guard;
pub(crate) mod figures;
pub(crate) mod gap;
mod give_back;
pub(crate) mod groups;
pub(crate) mod guard;
mod guard_moved;
pub(crate) mod handshakes;
mod hook;
pub(crate) mod in_the_way;
mod keep_any;
pub(crate) mod leaving;
pub(crate) mod left;
mod let_in;
pub(crate) mod letting_go;
pub(crate) mod looked;
pub(crate) mod make;
pub(crate) mod moved;
mod moving;
mod note;
mod old_listener;
pub(crate) mod old_listeners;
pub(crate) mod options;
mod own_program;
pub(crate) mod passes;
pub(crate) mod policy;
mod portions;
pub(crate) mod prefer;
pub(crate) mod preferred;
mod progress;
mod raised;
pub(crate) mod remarks;
pub(crate) mod resident;
mod second;
mod stand_by;
pub(crate) mod taken_over;
mod unmoved;
mod waits;
pub(crate) mod watch;

pub(crate) use self::backend::{RoomGate, SharedRooms, Told, account};
pub(crate) use self::groups::First;
