//! Waiting rooms as the actions use them: made for the listeners that are there, guarded by a process of
//! their own, and handed over to the listeners that come.
//!
//! The files, in the order of a run:
//!
//! **What there is.** `groups`: the rooms of a run, by SO_REUSEPORT group, and how they park. `options`: what the command
//! line says of them. `choice`: what `--syn auto` takes, and how large rooms are.
//!
//! **Closing.** `make`: makes the rooms for the listeners that are there. `note`, `left`: what a run would leave if it were
//! killed, as a file, and how it is taken back. `hook`: sockets that come get SO_REUSEPORT. `remarks`: what the run tells
//! beforehand. `backend`: the rooms as a gate, which opens and closes them. `prefer`, `preferred`: the service comes first,
//! with `--syn handover` and `syngate keep`.
//!
//! **While COMMAND runs.** `passes`: its own connections, and those of `--ready-check`, never wait. `let_in`: they reach a
//! new listener before the others. `admit`, `admitted`: the service may come back as another user. `gap`: where
//! `--syn handover` had nobody who listens.
//!
//! **The release.** `stand_by`: those who wait go to the new listener, and the rooms stay, should it close again.
//! `letting_go`, `portions`: for good, room by room, as the service has place. `backlog`, `raised`: it has a longer queue
//! meanwhile. `progress`, `moving`: whether all have arrived, and the handshakes too. `policy`: how long the run waits for
//! that.
//!
//! **The end.** `give_back`: nothing of syngate's is left. `account`, `figures`, `unmoved`: what became of those who waited.
//! `second`: whether COMMAND has started a second instance.
//!
//! **If the run dies.** `guard`: the process that hands over then. `watch`: the run's side of it. `early_guard`: the one
//! before it. `again`: what the kernel refuses is tried again.
//!
//! **`syngate keep`.** `resident`: rooms that come and go with the listeners. `leaving`: some go, and the others stay.
//! `keep_any`: services without SO_REUSEPORT.

mod account;
mod admit;
mod admitted;
mod again;
mod backend;
mod backlog;
pub(crate) mod choice;
pub(crate) mod early_guard;
pub(crate) mod figures;
pub(crate) mod gap;
mod give_back;
pub(crate) mod groups;
pub(crate) mod guard;
mod hook;
mod keep_any;
pub(crate) mod leaving;
pub(crate) mod left;
mod let_in;
pub(crate) mod letting_go;
pub(crate) mod make;
mod moving;
mod note;
pub(crate) mod options;
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
mod unmoved;
pub(crate) mod watch;

pub(crate) use self::backend::{RoomGate, SharedRooms, Told, account};
pub(crate) use self::groups::First;
