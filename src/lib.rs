//! The program syngate. This library is no API: what is public here is for the program and its tests, and may change
//! with each release. Scripts have the command line, the exit statuses and the JSON reports.
//!
//! # The life of a gate
//!
//! syngate runs a command that restarts a TCP service, behind a closed gate:
//!
//! 1. **Plan** (`run::plan`): checks the arguments and finds COMMAND. Nothing has been changed.
//! 2. **Lock** (`process::lock`): runs for the same port take turns.
//! 3. **Precheck** (`run::prepare`): runs the user's own test, with the gate open.
//! 4. **Snapshot** (`kernel::sockets`): lists the listeners of the gated ports.
//! 5. **Close** (`gate`): one atomic change stops new SYNs, and syngate reads it back.
//! 6. **Drain** (`decide::drain`): handshakes, accept queues and requests finish.
//! 7. **Run** (`process::child`): runs COMMAND.
//! 8. **Ready** (`decide::service`): waits until the service listens again.
//! 9. **Settle** (`decide::service`): waits until its listeners no longer change.
//! 10. **Open**: the very next thing after the decision.
//! 11. **Linger** (`action::linger`): connections to a standby or a peer finish there. Then comes the
//!     report (`run::report`).
//!
//! `run` carries out these steps. `decide` holds the decisions, without a clock or a kernel. The gate is
//! gone when the process is gone: the kernel removes it (`gate::nft`), or a watchdog
//! (`gate::watchdog`).

#![warn(unreachable_pub)]

pub(crate) mod action;
pub(crate) mod cli;
pub(crate) mod commands;
pub(crate) mod decide;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod gate;
pub(crate) mod guards;
pub(crate) mod kernel;
mod limits;
pub(crate) mod process;
pub(crate) mod run;
pub(crate) mod tell;
pub(crate) mod words;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

pub use crate::action::redirect::standby::Standby;
pub use crate::action::redirect::wire::Stop;
pub use crate::cli::Args;
pub use crate::limits::limits;
pub use crate::tell::journal::VARIABLE as JOURNAL_VARIABLE;
pub use crate::words::ended::CommandExit;
pub use crate::words::env::{ENV_PREFIX, LOCK_DIR_VARIABLE, RUN_VARIABLE};
pub use crate::words::exit::{NOT_EXECUTABLE, NOT_FOUND, NOT_KEPT, NOT_RUN};

use crate::cli::Parsed;
use crate::process::signals::Signals;
use crate::tell::say::{Level, Say, styled};
use crate::words::exit::Exit;

/// The whole program: parses the arguments, carries them out, and returns the exit status.
pub fn main() -> ExitCode {
    let started = Instant::now();
    kernel::sys::ignore_here();
    if let Some(why) = process::rlimits::too_small() {
        Say::new(Level::Errors, started).error(&why);
        return ExitCode::from(NOT_RUN);
    }
    // Comes before syngate reads its arguments, which an untrusted user may have written.
    if let Some(how) = kernel::caps::gained_by_file() {
        Say::new(Level::Errors, started).error(how);
        return process::leave::leave(Exit::Status(NOT_RUN));
    }
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(status) = guards::become_command(&args) {
        return ExitCode::from(status);
    }
    if let Some(status) = guards::ask(&args) {
        return ExitCode::from(status);
    }
    if let Some(guard) = guards::work(&args) {
        guard();
        return ExitCode::SUCCESS;
    }
    process::leave::leave(carry_out(cli::parse(args), started))
}

/// A bug must not look like COMMAND's exit status, so panics are caught. A run catches its own panics;
/// this catches those outside of it.
fn carry_out(parsed: Parsed, started: Instant) -> Exit {
    match parsed {
        Parsed::Run(args) => match &args.options.container {
            Some(name) => {
                let run_of = AssertUnwindSafe(|| commands::container::run_of(&args, name, started));
                match catch_unwind(run_of).unwrap_or(Err(Exit::Status(NOT_RUN))) {
                    Ok((long, engine)) => {
                        let is_dry = long.options.dry_run;
                        let exit = carry_out(Parsed::Run(long), started);
                        if !is_dry {
                            tell_after(|| {
                                commands::container::tell_after(name, engine, exit, started);
                            });
                        }
                        exit
                    }
                    Err(exit) => exit,
                }
            }
            None => {
                let run = AssertUnwindSafe(|| run::run(&args, started));
                catch_unwind(run).unwrap_or(Exit::Status(NOT_KEPT))
            }
        },
        Parsed::Named(named) => {
            let run_of = AssertUnwindSafe(|| commands::restart::run_of(&named, started));
            match catch_unwind(run_of).unwrap_or(Err(Exit::Status(NOT_RUN))) {
                Ok((args, aftermath)) => {
                    let exit = carry_out(Parsed::Run(args), started);
                    tell_after(|| aftermath.iter().for_each(|one| one.tell(exit, started)));
                    exit
                }
                Err(exit) => exit,
            }
        }
        Parsed::Other(other) => {
            catch_unwind(|| commands::carry_out(&other, started)).unwrap_or(Exit::Status(NOT_RUN))
        }
        Parsed::Print(text) => {
            let say = Say::new(Level::Errors, started);
            say.print(&styled(&text), Exit::Status(0), NOT_RUN)
        }
        Parsed::Complete(what) => {
            catch_unwind(|| commands::complete(what, started)).unwrap_or(Exit::Status(NOT_RUN))
        }
        Parsed::Wrong(why) => {
            Say::new(Level::Errors, started).error(&why);
            Exit::Status(NOT_RUN)
        }
    }
}

/// What a run's ending means for a service that was named. Neither a bug in that nor a signal changes how the run has
/// ended: a signal ends the questions.
fn tell_after(tell: impl FnOnce()) {
    Signals::block_once_more();
    let _ = catch_unwind(AssertUnwindSafe(tell));
}
