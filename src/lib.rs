//! # The life of a gate
//!
//! syngate runs a command that restarts a TCP service, behind a closed gate:
//!
//! 1. **Plan** (`plan`): everything is validated, COMMAND is found. Nothing has been touched.
//! 2. **Lock** (`lock`): two runs for one port take turns.
//! 3. **Precheck**: the user's own test, gate open.
//! 4. **Snapshot** (`sockets`): which listeners do the gated ports have?
//! 5. **Close** (`gate`): one atomic change stops new SYNs, and it is read back that it stands.
//! 6. **Drain** (`sockets::drained`): handshakes, accept queues and requests are let finish.
//! 7. **Run** (`child`): COMMAND.
//! 8. **Ready** (`sockets::ready`): which listeners are there now?
//! 9. **Settle**: until they no longer change.
//! 10. **Open**: the very next thing after the decision.
//! 11. **Linger** (`step::linger`): where new connections went to a standby or a peer meanwhile, they
//!     finish there. Then report (`report`).
//!
//! `run` tells this story, `before` its beginning; `step` holds its decisions, without a clock or a
//! kernel. The gate is gone when the process is gone: the kernel sees to it (`gate::nft`), or a
//! watchdog (`gate::watchdog`).

pub mod action;
pub mod cli;
pub mod commands;
pub mod decide;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
pub mod gate;
pub mod kernel;
pub mod process;
pub mod run;
pub mod tell;
pub mod words;
