//! An open loop: requests are due at fixed times, also while earlier ones
//! have no answer. A thread is an epoll; there are more of both if told, or if
//! there are more connections at a time than a thread can have files.

mod answer;
mod ask;
mod connection;
mod fresh;
mod keep_alive;
mod line;
mod plan;
mod schedule;
mod standby;
mod tally;

use std::{
    process::{self, Command},
    thread,
};

use anyhow::{Result, ensure};

use super::say;
use fresh::Fresh;
use keep_alive::KeepAlive;
use plan::Plan;
use standby::join;

pub use plan::Args;

/// Prints `flowing` once some requests have been answered, at last the report.
pub fn run(args: &Args) -> Result<()> {
    if args.urgent {
        be_urgent()?;
    }
    let plan = Plan::new(args)?;
    match args.keep_alive {
        Some(connections) => KeepAlive::new(&plan, connections)?.run()?,
        None => run_fresh(&plan)?,
    }
    let tally = plan.tally.into_inner().expect("nobody has panicked");
    say(&serde_json::to_string(&tally.report()?)?)
}

/// Threads that are started later inherit it.
fn be_urgent() -> Result<()> {
    let mut chrt = Command::new("chrt");
    let status = chrt
        .args(["--rr", "--pid", "2", &process::id().to_string()])
        .status()?;
    ensure!(status.success(), "real-time priority: {status}");
    Ok(())
}

fn run_fresh(plan: &Plan) -> Result<()> {
    thread::scope(|scope| {
        // All of them, before one makes a connection: their standbys keep open what is open now.
        let threads: Result<Vec<_>> = (0..plan.threads())
            .map(|first| Fresh::new(plan, scope, first))
            .collect();
        let threads = threads?
            .into_iter()
            .map(|fresh| scope.spawn(move || fresh.run()));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(join)
    })
}
