//! Parse, run, exit.

use std::process::ExitCode;
use std::time::Instant;

use syngate::cli::{Parsed, parse};
use syngate::exit::{Exit, NOT_RUN};
use syngate::say::{Level, Say, print};

fn main() -> ExitCode {
    let started = Instant::now();
    let exit = match parse(std::env::args_os()) {
        Parsed::Run(args) => syngate::run::run(&args, started),
        Parsed::Print(text) => {
            print(&text);
            Exit::Status(0)
        }
        Parsed::Wrong(why) => {
            Say::new(Level::Errors, started).error(&why);
            Exit::Status(NOT_RUN)
        }
    };
    exit.leave()
}
