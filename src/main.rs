//! The program. The library has all of it, so that tests can reach its parts.

use std::process::ExitCode;

fn main() -> ExitCode {
    syngate::main()
}
