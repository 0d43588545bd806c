//! Waiting rooms as the actions use them: made for the listeners that are there, guarded by a process of
//! their own, and handed over to the listeners that come.
//!
//! The files, in the order of a run:
//!
//! **What there is.** `groups`: the rooms of a run, by SO_REUSEPORT group, and how they park. `options`: what the command
//! line says of them. `choice`: what `--syn auto` takes, and how large rooms are. `able`, `looked`: whether this host can, and
//! a service on it.
//!
//! **Closing.** `make`: makes the rooms for the listeners that are there. `note`, `left`: what a run would leave if it were
//! killed, as a file, and how it is taken back. `hook`: sockets that come get SO_REUSEPORT. `remarks`: what the run tells
//! beforehand. `backend`: the rooms as a gate, which opens and closes them. `prefer`, `preferred`: the service comes first,
//! with `--syn handover` and `syngate keep`.
//!
//! **While COMMAND runs.** `passes`: its own connections, and those of `--ready-check`, never wait. `let_in`: they reach a
//! new listener before the others. `admit`, `admitted`: the service may come back as another user.
//! `in_the_way`: or on another address. `gap`: where `--syn handover` had nobody who listens.
//!
//! **The release.** `stand_by`: the waiting connections go to the new listener, and the rooms stay, should it close
//! again. `letting_go`, `portions`: for good, room by room, as the service has place. `backlog`, `raised`: it has a
//! longer queue meanwhile. `own_program`: the service has one. `progress`, `moving`: whether all have arrived, and
//! the handshakes too. `policy`: how long the run waits for that.
//!
//! **The end.** `give_back`: nothing of syngate's is left. `account`, `figures`, `waits`, `unmoved`: what became of
//! the connections that waited. `second`: whether COMMAND has started a second instance.
//!
//! **If the run dies.** `guard`: the process that hands over then. `watch`: the run's side of it. `early_guard`: the one
//! before it. `again`: what the kernel refuses is tried again.
//!
//! **`syngate keep`.** `resident`: rooms that come and go with the listeners. `leaving`: some go, and the others stay.
//! `keep_any`, `bound`: services without SO_REUSEPORT. `moved`: has the service gone elsewhere; `guard_moved`: the same for the
//! guard of a dead keep. `taken_over`: the rooms of a dead keep are the next one's.
//!
//! # A gate without rules
//!
//! `--syn park` needs no rules. New connections are established and wait in a listening socket of syngate's
//! own, a room, which is a member of the service's SO_REUSEPORT group. A program of the group sends them there.
//! When a room is closed, the kernel moves those that wait to the listener that the program then chooses.
//!
//! To the run this is a gate as any other: it closes, opens port by port, stands or not, has a deadline, and
//! opens when it is dropped. So `Gate` and `Backend` are not about rules. An action says by `Action::means` how
//! it keeps new connections from the service: by `Means::Rules`, and the run looks for a backend that puts them
//! into the kernel; or by `Means::Own`, a backend of its own. A backend is made with all that it needs (rules,
//! or rooms), and `install` gets the ports only. `Steer` stays what it says: where *rules* send a SYN; a run
//! without rules has none. Not taken: a `Steer::None`, which the backends for rules would have to refuse; and
//! rooms beside an empty gate, where closing, opening and undoing would have two places.
//!
//! | | rules | rooms |
//! |---|---|---|
//! | it closes in one step | a transaction | the program of each group (`Group::park`) |
//! | it opens ports | elements of a set | group by group (`Rooms::hand_over`) |
//! | the run is killed | the owner's socket, or a watchdog | a guard process holds the rooms too, and hands over when the service listens (`guard.rs`) |
//! | the guard is killed, stopped, or hangs | the run starts another watchdog (`process/attended.rs`) | the same |
//! | the run hangs | the kernel's deadline | nobody asks the guard whether it is there: it hands over when the service listens, and at the deadline, and tells the run what it has done |
//! | both are killed | the kernel's deadline | the kernel closes the rooms: who waits goes to who listens, or is reset |
//! | others can remove it | by `nft flush ruleset`, which is looked for | by a program of their own in the group |
//!
//! What makes it safe:
//!
//! - Rooms are bound in `begin`, and listen in `install`: what can't be done shows before anything has changed.
//!   Dropping `Rooms` takes back what was lent (SO_REUSEPORT).
//! - shutdown(2) makes a room leave its group, no matter who holds copies of it. So the run need not wait for the
//!   guard to close its own.
//! - Looks at the sockets do not see rooms (`Looks::hide_rooms`; other runs' by the command lines of their guards,
//!   `kernel/room/known.rs`), nor connections that no process has accepted:
//!   these wait, and the drain need not wait for them.
//! - The program of the hand-over chooses new listeners, and old ones only where there are no new ones. Behind it
//!   comes one that leaves the choice to the kernel and still moves connections. It stays until the handshakes
//!   that were under way in a room are over (`policy.rs`).
//! - A service that comes back in another group can't have the waiting connections. Where the kernel would go on
//!   giving new connections to the rooms, these are closed as soon as the new listener is there (`in_the_way.rs`).
//!   Not taken: to bind such rooms to no device, so that nobody would be reset should the service come back in its
//!   own group after all. A listener that comes then would not join theirs.
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
pub(crate) mod early_guard;
pub(crate) mod figures;
pub(crate) mod gap;
mod give_back;
pub(crate) mod groups;
pub(crate) mod guard;
mod guard_moved;
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
