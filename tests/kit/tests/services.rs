//! Real services run on hosts, and restart and reload as they do at home.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::Result;
use testkit::{
    Host, Load, LoadReport, Pair, SERVER, SERVER6,
    services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve},
    wait_until,
};

const SOON: Duration = Duration::from_secs(5);

/// Twenty requests to each address of the server.
fn ask(pair: &Pair) -> Result<LoadReport> {
    let ask = |address: String| {
        Load::to(address)
            .rate(200)
            .duration(Duration::from_millis(100))
            .start(&pair.client)?
            .finish()
    };
    let report = ask(format!("{SERVER}:80"))?;
    assert_eq!((report.ok, report.failed()), (20, 0), "{report}");
    let report = ask(format!("[{SERVER6}]:80"))?;
    assert_eq!((report.ok, report.failed()), (20, 0), "{report}");
    Ok(report)
}

/// Who runs under that name: pids as the host sees them.
fn pids(host: &Host, name: &str) -> BTreeSet<String> {
    let ran = host.sh(&format!("pgrep -x {name}")).unwrap();
    ran.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn haproxy_by_debians_init_script() -> Result<()> {
    let pair = Pair::new()?;
    let config = HaproxyConfig::port(80);
    let haproxy = Haproxy::debian_init(&pair.server, &config)?;
    haproxy.start()?;
    ask(&pair)?;

    let first = pids(&pair.server, "haproxy");
    assert!(!first.is_empty());
    haproxy.restart()?;
    let second = pids(&pair.server, "haproxy");
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
    ask(&pair)?;

    haproxy.reload()?;
    wait_until(SOON, "the old process to be gone", || {
        second.is_disjoint(&pids(&pair.server, "haproxy"))
    })?;
    ask(&pair)?;

    haproxy.stop()?;
    assert!(pids(&pair.server, "haproxy").is_empty());
    assert!(!pair.server.listens(80));
    Ok(())
}

/// The control for everything that syngate promises.
#[test]
fn a_bare_restart_is_noticed() -> Result<()> {
    let pair = Pair::new()?;
    let haproxy = Haproxy::debian_init(&pair.server, &HaproxyConfig::port(80))?;
    haproxy.start()?;
    let mut load = Load::to(format!("{SERVER}:80")).start(&pair.client)?;
    load.wait_flowing()?;
    haproxy.restart()?;
    let report = load.stop()?;
    assert!(report.refused > 0, "{report}");
    Ok(())
}

#[test]
fn haproxy_before_a_slow_backend() -> Result<()> {
    let pair = Pair::new()?;
    let slow = Serve::on("127.0.0.1:8080").delay(Duration::from_millis(50));
    let _backend = slow.start(&pair.server)?;
    let config = HaproxyConfig::port(80).backend("127.0.0.1:8080");
    Haproxy::debian_init(&pair.server, &config)?.start()?;
    let report = ask(&pair)?;
    assert!(report.total.min_ms >= 50.0, "{report}");
    Ok(())
}

#[test]
fn nginx_restarts_reloads_and_changes() -> Result<()> {
    let pair = Pair::new()?;
    let config = NginxConfig {
        workers: 4,
        reuseport: true,
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(&pair.server, &config)?;
    nginx.start()?;
    ask(&pair)?;
    let listeners = || pair.server.must(["ss", "-Hltn4"]).lines().count();
    assert_eq!(listeners(), 4);

    let fewer = NginxConfig {
        workers: 2,
        ..config
    };
    nginx.configure(&fewer)?;
    nginx.reload()?;
    wait_until(SOON, "the surplus listeners to close", || listeners() == 2)?;
    ask(&pair)?;

    let master = fs::read_to_string(nginx.pid_file())?;
    nginx.restart()?;
    assert_ne!(fs::read_to_string(nginx.pid_file())?, master);
    ask(&pair)?;

    nginx.stop()?;
    assert!(pids(&pair.server, "nginx").is_empty());
    Ok(())
}

#[test]
fn serve_restarts_in_the_background() -> Result<()> {
    let pair = Pair::new()?;
    let server = Serve::on("0.0.0.0:80")
        .and_on("[::]:80")
        .start_daemon(&pair.server)?;
    ask(&pair)?;
    let first = pids(&pair.server, "testkit");
    pair.server.must(server.restart_argv());
    // Init goes by that name, too.
    let both = &pids(&pair.server, "testkit") & &first;
    assert_eq!(both, BTreeSet::from(["1".to_owned()]));
    ask(&pair)?;
    Ok(())
}
