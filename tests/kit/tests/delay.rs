//! Packets are delayed, and nothing else happens to them.

use std::time::Duration;

use anyhow::Result;
use testkit::{Delay, Load, LoadReport, Pair, SERVER, SERVER6, services::Serve, slow};

const BY: Duration = Duration::from_millis(20);

/// A hundred requests within 200 ms.
fn ask(pair: &Pair, to: &str) -> Result<LoadReport> {
    let report = Load::to(to)
        .rate(500)
        .duration(Duration::from_millis(200))
        .start(&pair.client)?
        .finish()?;
    assert_eq!((report.ok, report.failed()), (100, 0), "{report}");
    Ok(report)
}

#[test]
fn the_way_to_a_host_is_longer() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80")
        .and_on("[::]:80")
        .start(&pair.server)?;
    for to in [format!("{SERVER}:80"), format!("[{SERVER6}]:80")] {
        let delay = Delay::start(&pair.client, BY)?;
        let report = ask(&pair, &to)?;
        assert!(report.connect.min_ms >= 20.0, "{report}");
        assert!(report.total.min_ms >= 40.0, "{report}");
        assert!(report.connect.p50_ms < 40.0 * f64::from(slow()), "{report}");
        let report = delay.stop()?;
        assert_eq!(report.lost, 0, "{report:?}");
        assert!(report.packets >= 300, "{report:?}");
        let report = ask(&pair, &to)?;
        assert!(report.connect.min_ms < 20.0, "{report}");
    }
    Ok(())
}

#[test]
fn its_end_loses_nothing() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let delay = Delay::start(&pair.client, BY)?;
    let mut load = Load::to(format!("{SERVER}:80")).start(&pair.client)?;
    load.wait_flowing()?;
    // Some eighty packets are waiting now.
    let delayed = delay.stop()?;
    let report = load.stop()?;
    assert_eq!((report.ok, report.failed()), (report.sent, 0), "{report}");
    // A lost SYN-ACK would come again after a second.
    assert_eq!((delayed.lost, report.delayed), (0, 0), "{report}");
    Ok(())
}

#[test]
fn a_crowd_is_delayed() -> Result<()> {
    const N: u32 = 5000;
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    let delay = Delay::start(&pair.client, BY)?;
    let report = Load::to(format!("{SERVER}:80"))
        .rate(N * 4)
        .duration(Duration::from_millis(250))
        .sources(pair.client_addresses(N)?)
        .start(&pair.client)?
        .finish()?;
    assert_eq!((report.ok, report.failed()), (N.into(), 0), "{report}");
    assert!(report.connect.min_ms >= 20.0, "{report}");
    let delayed = delay.stop()?;
    assert!(delayed.packets >= u64::from(3 * N), "{delayed:?}");
    assert_eq!(delayed.lost, 0, "{delayed:?}");
    Ok(())
}

#[test]
fn a_drop_ends_it() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    drop(Delay::start(&pair.client, BY)?);
    let rules = pair.client.must(["iptables-save", "-t", "mangle"]);
    assert!(!rules.contains("NFQUEUE"), "{rules}");
    let report = ask(&pair, &format!("{SERVER}:80"))?;
    assert!(report.connect.min_ms < 20.0, "{report}");
    Ok(())
}
