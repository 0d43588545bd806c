//! How syngate itself ends.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};

use crate::kernel::sys;
use crate::words::exit::Exit;

/// Ends the process by SIGINT, if that is how it has to end, or returns the status for `main`. Nothing may
/// be left to clean up.
pub(crate) fn leave(exit: Exit) -> ExitCode {
    if exit == Exit::Interrupt {
        sys::set_default(Signal::SIGINT);
        let _ = sigprocmask(
            SigmaskHow::SIG_UNBLOCK,
            Some(&SigSet::from(Signal::SIGINT)),
            None,
        );
        let _ = raise(Signal::SIGINT);
    }
    ExitCode::from(exit.status())
}
