//! The programs that run on a host of the testkit: its init, the load client
//! and the small servers.

mod tools;

use anyhow::Result;
use clap::{Parser, Subcommand};

use tools::{delay, demo, gaps, hold, init, load, scan, serve};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Be pid 1 of a host; not to be called by hand
    Init(init::Args),
    /// Make requests at a steady rate, and report
    Load(load::Args),
    /// Answer plain HTTP
    Serve(serve::Args),
    /// Send SYNs from addresses that never answer
    Scan(scan::Args),
    /// Watch one established connection for stalls
    Hold(hold::Args),
    /// Watch a port for moments in which nobody listens
    Gaps(gaps::Args),
    /// Let all TCP packets arrive here later
    Delay(delay::Args),
    /// Restart haproxy in five ways under load, and compare
    Demo(demo::Args),
}

fn main() -> Result<()> {
    match Cli::parse().tool {
        Tool::Init(args) => init::run(&args),
        Tool::Load(args) => load::run(&args),
        Tool::Serve(args) => serve::run(&args),
        Tool::Scan(args) => scan::run(&args),
        Tool::Hold(args) => hold::run(&args),
        Tool::Gaps(args) => gaps::run(&args),
        Tool::Delay(args) => delay::run(&args),
        Tool::Demo(args) => demo::run(&args),
    }
}
