//! The demonstration: one haproxy, restarted in five ways under the same load, side by side.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use testkit::{
    Load, LoadReport, Pair, SERVER,
    services::{Haproxy, HaproxyConfig},
};

use super::say;

#[derive(clap::Args)]
pub struct Args {
    /// The syngate to show
    #[arg(long, default_value = "syngate")]
    syngate: PathBuf,
    /// Fresh connections a second
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
}

const FOLK_RECIPE: &str = "iptables -I INPUT -p tcp --dport 80 --syn -j DROP
sleep 1
service haproxy restart
iptables -D INPUT -p tcp --dport 80 --syn -j DROP";

/// Shows all five, and prints a table.
pub fn run(args: &Args) -> Result<()> {
    let syngate = args
        .syngate
        .canonicalize()
        .with_context(|| args.syngate.display().to_string())?;
    let ways = [
        ("bare", "service haproxy restart"),
        ("folk recipe", FOLK_RECIPE),
        ("drop", "syngate --port 80 -- service haproxy restart"),
        (
            "hold",
            "syngate --port 80 --syn hold -- service haproxy restart",
        ),
        (
            "auto (park)",
            "syngate --port 80 --syn auto -- service haproxy restart",
        ),
    ];

    let pair = Pair::new()?;
    let haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80))?;
    haproxy.start()?;
    say(&format!(
        "Two hosts in network namespaces: haproxy on one, {} fresh connections a second from the \
         other.\nhaproxy is restarted, in five ways:\n",
        args.rate
    ))?;
    let mut table = String::new();
    for (name, script) in ways {
        for line in script.lines() {
            say(&format!("    # {line}"))?;
        }
        let script = script.replace("syngate", &syngate.to_string_lossy());
        let report = restart(&pair, args.rate, &script)?;
        say("")?;
        table += &row(name, &report);
    }
    say(&format!(
        "{:12} {:>6} {:>7} {:>8} {:>18} {:>14} {:>13}\n{table}",
        "", "served", "refused", "cut off", "delayed >= 0.9 s", "worst connect", "worst answer"
    ))?;
    Ok(())
}

fn restart(pair: &Pair, rate: u32, script: &str) -> Result<LoadReport> {
    let load = Load::to(format!("{SERVER}:80"))
        .rate(rate)
        .duration(Duration::from_secs(60));
    let mut load = load.start(&pair.client)?;
    load.wait_flowing()?;
    let mut shell: Command = pair.server.command("sh");
    let status = shell
        .args(["-ec", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{script}: {status}");
    load.stop()
}

fn row(name: &str, report: &LoadReport) -> String {
    format!(
        "{name:12} {:>6} {:>7} {:>8} {:>18} {:>11.0} ms {:>10.0} ms\n",
        report.ok,
        report.refused,
        report.reset + report.cut + report.timed_out + report.other,
        report.delayed,
        report.connect.max_ms,
        report.total.max_ms,
    )
}
