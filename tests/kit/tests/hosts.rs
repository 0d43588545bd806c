//! Hosts come, do what hosts do, and leave nothing.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Result;
use nix::sys::signal::Signal;
use testkit::{Host, Load, Pair, SERVER, SERVER6, services::Serve, wait_until};

const SOON: Duration = Duration::from_secs(5);

fn links() -> BTreeSet<String> {
    let dir = fs::read_dir("/sys/class/net").unwrap();
    dir.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn leaves_nothing_behind() -> Result<()> {
    let links_before = links();
    let pair = Pair::new()?;
    let mut sleeper = pair
        .client
        .spawn(pair.client.command("sleep").arg("1000"))?;
    let pids = [pair.server.pid(), pair.client.pid(), sleeper.pid()?];
    let dir = pair.client.dir().to_owned();
    assert!(dir.is_dir());
    assert!(pids.into_iter().all(lives));
    drop(pair);
    // The last one is our own child, not reaped yet.
    sleeper.wait()?;
    assert!(!pids.into_iter().any(lives));
    assert!(!dir.exists());
    assert_eq!(links(), links_before);
    Ok(())
}

#[test]
fn is_its_own_machine() -> Result<()> {
    let host = Host::new()?;
    assert_eq!(host.must(["ls", "/run"]), "lock\n");
    assert_eq!(host.must(["cat", "/proc/1/comm"]), "testkit\n");
    let links = host.must(["ip", "-o", "link"]);
    assert!(links.starts_with("1: lo: <LOOPBACK,UP"), "{links}");
    assert_eq!(links.lines().count(), 1, "{links}");
    Ok(())
}

#[test]
fn commands_see_environment_and_directory() -> Result<()> {
    let host = Host::new()?;
    let output = host
        .command("sh")
        .args(["-c", "echo $GREETING; pwd"])
        .env("GREETING", "hello")
        .output()?;
    let here = std::env::current_dir()?;
    let expected = format!("hello\n{}\n", here.display());
    assert_eq!(String::from_utf8(output.stdout)?, expected);
    Ok(())
}

#[test]
fn tells_how_commands_end() -> Result<()> {
    let host = Host::new()?;
    let ran = host.sh("echo out; echo err >&2; exit 7")?;
    assert_eq!(
        (ran.code(), &*ran.stdout, &*ran.stderr),
        (7, "out\n", "err\n")
    );
    assert_eq!(host.sh("kill -TERM $$")?.code(), 128 + 15);
    let error = host.run(["ls", "/no/such"]).unwrap_err().to_string();
    assert!(error.contains("/no/such"), "{error}");
    Ok(())
}

#[test]
fn signals_reach_the_command() -> Result<()> {
    let host = Host::new()?;
    let script = "trap 'exit 3' USR1; echo up; while :; do sleep 0.01; done";
    let mut command = host.command("sh");
    command.args(["-c", script]).stdout(Stdio::piped());
    let mut running = host.spawn(&mut command)?;
    let mut byte = [0];
    std::io::Read::read_exact(&mut running.stdout().unwrap(), &mut byte)?;
    assert!(running.is_running());
    running.signal(Signal::SIGUSR1)?;
    assert_eq!(running.wait()?.code(), Some(3));
    Ok(())
}

#[test]
fn orphans_are_reaped() -> Result<()> {
    let host = Host::new()?;
    let pid = host.must(["sh", "-c", "sleep 0.05 >/dev/null & echo $!"]);
    let pid = pid.trim();
    wait_until(SOON, "the orphan to vanish", || {
        !host.sh(&format!("test -e /proc/{pid}")).unwrap().ok()
    })
}

#[test]
fn dies_with_the_test() -> Result<()> {
    // Only init's stdin closes when a test is killed.
    let dir = std::env::temp_dir().join(format!("testkit-orphan-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let mut unshare = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--pid", "--mount"])
        .args(["--fork", "--"])
        .arg(testkit::bin()?)
        .arg("init")
        .arg(&dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = unshare.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    let init: u32 = line.trim().strip_prefix("ready ").unwrap().parse()?;
    assert!(lives(init));
    drop(unshare.stdin.take());
    assert!(unshare.wait()?.success());
    assert!(!lives(init) && !dir.exists());
    Ok(())
}

#[test]
fn init_refuses_to_work_elsewhere() -> Result<()> {
    let output = Command::new(testkit::bin()?)
        .args(["init", "/no/such"])
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains("not for you"), "{said}");
    Ok(())
}

#[test]
fn rulesets_are_private_and_comparable() -> Result<()> {
    let pair = Pair::new()?;
    let before = pair.server.ruleset();
    pair.server.must(["nft", "add", "table", "inet", "probe"]);
    assert_ne!(pair.server.ruleset(), before);
    assert_eq!(pair.client.ruleset(), before);
    pair.server
        .must(["nft", "delete", "table", "inet", "probe"]);
    assert_eq!(pair.server.ruleset(), before);
    assert!(pair.server.nft_json()["nftables"][0]["metainfo"].is_object());
    Ok(())
}

#[test]
fn binds_are_private() -> Result<()> {
    let host = Host::new()?;
    let before = fs::read_to_string("/etc/hostname")?;
    let file = host.write("mine", "mine");
    host.bind(&file, "/etc/hostname")?;
    assert_eq!(host.must(["cat", "/etc/hostname"]), "mine");
    assert_eq!(fs::read_to_string("/etc/hostname")?, before);
    Ok(())
}

#[test]
fn a_pair_talks_over_both_families() -> Result<()> {
    let pair = Pair::new()?;
    let server = Serve::on("0.0.0.0:80")
        .and_on("[::]:80")
        .start(&pair.server)?;
    assert!(pair.server.listens(80) && !pair.client.listens(80));
    for address in [format!("{SERVER}:80"), format!("[{SERVER6}]:80")] {
        let report = testkit::Load::to(address)
            .rate(100)
            .duration(Duration::from_millis(100))
            .start(&pair.client)?
            .finish()?;
        assert_eq!((report.ok, report.failed()), (10, 0), "{report}");
    }
    drop(server);
    wait_until(SOON, "the server to be gone", || !pair.server.listens(80))
}

#[test]
fn a_client_has_many_addresses() -> Result<()> {
    const N: u32 = 300;
    let pair = Pair::new()?;
    let log = pair.server.dir().join("accepts");
    let server = Serve::on("0.0.0.0:80").and_on("[::]:80").log_accepts(&log);
    let _server = server.start(&pair.server)?;
    let to = [format!("{SERVER}:80"), format!("[{SERVER6}]:80")];
    let sources = [pair.client_addresses(N)?, pair.client_addresses6(N)?];
    assert_eq!(sources[0][..1], ["10.81.0.1"]);
    assert_eq!(sources[1][255..256], ["fd81::100"]);
    for (to, sources) in to.into_iter().zip(&sources) {
        let report = Load::to(to)
            .rate(N * 5)
            .duration(Duration::from_millis(200))
            .sources(sources)
            .start(&pair.client)?
            .finish()?;
        assert_eq!((report.ok, report.failed()), (N.into(), 0), "{report}");
        assert_eq!(report.delayed, 0, "{report}");
    }
    // Each of them has come once.
    let accepts = fs::read_to_string(log)?;
    let clients: BTreeSet<IpAddr> = accepts.lines().map(address).collect();
    let expected = sources
        .concat()
        .iter()
        .map(|s| s.parse().unwrap())
        .collect();
    assert_eq!(accepts.lines().count(), 2 * N as usize);
    assert_eq!(clients, expected);
    Ok(())
}

/// The address in a line of [`Serve::log_accepts`].
fn address(line: &str) -> IpAddr {
    let client: SocketAddr = line.parse().unwrap();
    client.ip()
}

#[test]
fn addresses_are_limited() -> Result<()> {
    let pair = Pair::new()?;
    assert_eq!(pair.client_addresses(65_534)?[65_533], "10.81.255.254");
    assert!(pair.client_addresses(65_535).is_err());
    Ok(())
}

#[test]
fn tcp_counts() -> Result<()> {
    let pair = Pair::new()?;
    let _server = Serve::on("0.0.0.0:80").start(&pair.server)?;
    assert_eq!(pair.server.tcp_counter("PassiveOpens")?, 0);
    Load::to(format!("{SERVER}:80"))
        .rate(100)
        .duration(Duration::from_millis(100))
        .start(&pair.client)?
        .finish()?;
    assert_eq!(pair.server.tcp_counter("PassiveOpens")?, 10);
    assert_eq!(pair.client.tcp_counter("ActiveOpens")?, 10);
    assert_eq!(pair.server.tcp_counter("ListenOverflows")?, 0);
    assert!(pair.server.tcp_counter("NoSuchThing").is_err());
    Ok(())
}

#[test]
fn a_short_queue_overflows_and_is_served_in_order() -> Result<()> {
    let pair = Pair::new()?;
    let log = pair.server.dir().join("accepts");
    let server = Serve::on("0.0.0.0:80").backlog(4).accept_rate(100);
    let _server = server.log_accepts(&log).start(&pair.server)?;
    let queue = pair.server.must(["ss", "-Hltn"]);
    assert_eq!(queue.split_whitespace().nth(2), Some("4"), "{queue}");
    // As many as fit: the queue holds one more than it is long.
    let sources = pair.client_addresses(5)?;
    let load = |n| {
        Load::to(format!("{SERVER}:80"))
            .rate(1000)
            .duration(Duration::from_millis(n))
            .sources(&sources)
            .start(&pair.client)?
            .finish()
    };
    let report = load(5)?;
    assert_eq!((report.ok, report.failed()), (5, 0), "{report}");
    let accepts = fs::read_to_string(&log)?;
    let clients: Vec<String> = accepts.lines().map(|l| address(l).to_string()).collect();
    assert_eq!(clients, sources);

    let report = load(15)?;
    assert_eq!((report.ok, report.failed()), (15, 0), "{report}");
    assert!(report.delayed > 0, "{report}");
    assert!(pair.server.tcp_counter("ListenOverflows")? > 0);
    Ok(())
}
