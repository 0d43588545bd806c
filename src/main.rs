//! Parse, run, exit.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

use syngate::action::redirect::standby;
use syngate::cli::{Orders, Parsed, parse};
use syngate::gate::backends::watch;
use syngate::process::leave::leave;
use syngate::tell::say::{Level, Say, print_styled};
use syngate::words::exit::{Exit, NOT_KEPT, NOT_RUN};

fn main() -> ExitCode {
    let started = Instant::now();
    // Before anything that a stranger has written is looked at.
    if let Some(how) = syngate::kernel::caps::gained_by_file() {
        Say::new(Level::Errors, started).error(how);
        return leave(Exit::Status(NOT_RUN));
    }
    let exit = match parse(std::env::args_os()) {
        // The run itself survives bugs; this is for what is around it. A bug must not look like
        // COMMAND's exit status.
        Parsed::Run(args) => {
            catch_unwind(|| syngate::run::run(&args, started)).unwrap_or(Exit::Status(NOT_KEPT))
        }
        Parsed::Other(other) => catch_unwind(|| syngate::commands::carry_out(&other, started))
            .unwrap_or(Exit::Status(NOT_RUN)),
        Parsed::Guard(orders) => {
            match orders {
                Orders::Watchdog(orders) => watch(&orders),
                Orders::Standby { line, grace } => standby::guard(&line, grace),
            }
            Exit::Status(0)
        }
        Parsed::Print(text) => {
            print_styled(&text);
            Exit::Status(0)
        }
        Parsed::Listening => {
            catch_unwind(syngate::commands::tell_listening).unwrap_or(Exit::Status(NOT_RUN))
        }
        Parsed::Wrong(why) => {
            Say::new(Level::Errors, started).error(&why);
            Exit::Status(NOT_RUN)
        }
    };
    leave(exit)
}
