//! haproxy, as Debian's init script runs it, and by its own command line.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use testkit::{
    Host, Running,
    services::{Haproxy, HaproxyConfig, Serve},
    wait_until,
};

use super::service::{SOON, Service};
use crate::ways::STANDBY;

struct HaproxyService<'a> {
    host: &'a Host,
    restart: String,
    standby: HaproxyConfig,
    /// What it hands requests on to, or what keeps its socket.
    _backend: Option<Running>,
}

/// As Debian's init script runs it.
pub fn init<'a>(host: &'a Host, verb: &str) -> Result<Box<dyn Service + 'a>> {
    Haproxy::debian_init(host, &web())?.start()?;
    Ok(Box::new(HaproxyService {
        host,
        restart: format!("service haproxy {verb}"),
        standby: HaproxyConfig::port(STANDBY),
        _backend: None,
    }))
}

/// For 150 ms nobody accepts its connections.
pub fn paused(host: &Host) -> Result<Box<dyn Service + '_>> {
    Haproxy::debian_init(host, &web())?.start()?;
    Ok(Box::new(HaproxyService {
        host,
        restart: "pkill -STOP haproxy; sleep 0.15; pkill -CONT haproxy".to_owned(),
        standby: HaproxyConfig::port(STANDBY),
        _backend: None,
    }))
}

/// A process that keeps a listening socket, and tells its pid and the descriptor in a file.
const KEEPS: &str = "
import os, socket, sys, time
kept = socket.create_server(('', 80), backlog=4096)
with open(sys.argv[1], 'w') as told: print(os.getpid(), kept.fileno(), file=told)
while True: time.sleep(9)
";

/// `service haproxy VERB`, which inherits that socket as descriptor 200. 438 is pidfd_getfd(2).
const WITH_KEPT: &str = "
import ctypes, os, sys
pid, descriptor = map(int, open(sys.argv[1]).read().split())
kept = ctypes.CDLL(None).syscall(438, os.pidfd_open(pid), descriptor, 0)
os.dup2(kept, 200)
os.execvp('service', ['service', 'haproxy', sys.argv[2]])
";

/// It is restarted as by [`init`], and its socket is never closed.
pub fn kept(host: &Host) -> Result<Box<dyn Service + '_>> {
    let told = host.dir().join("kept");
    let mut keeps = host.command("python3");
    let keeps = keeps.arg(host.write("keeps.py", KEEPS)).arg(&told);
    let keeps = host.spawn(keeps)?;
    let is_told = || std::fs::read_to_string(&told).is_ok_and(|told| told.ends_with('\n'));
    wait_until(SOON, "the socket", is_told)?;
    let with_kept = host.write("with-kept.py", WITH_KEPT);
    let call = |verb| format!("python3 {} {} {verb}", with_kept.display(), told.display());
    Haproxy::debian_init(host, &HaproxyConfig::bind("fd@200"))?;
    host.run(["sh", "-c", &call("start")])?;
    Ok(Box::new(HaproxyService {
        host,
        restart: call("restart"),
        standby: HaproxyConfig::port(STANDBY),
        _backend: Some(keeps),
    }))
}

fn web() -> HaproxyConfig {
    HaproxyConfig::port(80)
}

impl HaproxyFiles {
    /// By its own command line.
    fn by_hand(host: &Host, config: &HaproxyConfig, flags: &str) -> Result<HaproxyFiles> {
        let config = host.write("by-hand.cfg", config.text());
        let pid = host.dir().join("by-hand.pid");
        let start = format!(
            "haproxy {flags} -D -f {} -p {}",
            config.display(),
            pid.display()
        );
        host.run(["sh", "-c", &start])?;
        Ok(HaproxyFiles { start, pid })
    }
}

/// How it was started, and where it writes its pid.
struct HaproxyFiles {
    start: String,
    pid: PathBuf,
}

impl Service for HaproxyService<'_> {
    fn restart(&self) -> String {
        self.restart.clone()
    }

    fn start_standby(&mut self) -> Result<()> {
        let config = self.host.write("standby.cfg", self.standby.text());
        let config = config.to_string_lossy();
        self.host.run(["haproxy", "-D", "-f", &config]).map(drop)
    }
}

/// Each time a new process, which ends the old one.
pub fn st(host: &Host) -> Result<Box<dyn Service + '_>> {
    let HaproxyFiles { start, pid } = HaproxyFiles::by_hand(host, &web(), "")?;
    Ok(Box::new(HaproxyService {
        host,
        restart: format!("{start} -st $(cat {})", pid.display()),
        standby: HaproxyConfig::port(STANDBY),
        _backend: None,
    }))
}

/// The master makes new workers.
pub fn master_worker(host: &Host) -> Result<Box<dyn Service + '_>> {
    let stats = host.dir().join("stats.sock");
    let config = web().global(format!(
        "stats socket {} expose-fd listeners",
        stats.display()
    ));
    let HaproxyFiles { pid, .. } = HaproxyFiles::by_hand(host, &config, "-W")?;
    // The pid file is written by the master, perhaps after the start has returned.
    wait_until(SOON, "the master's pid", || pid.exists())?;
    Ok(Box::new(HaproxyService {
        host,
        restart: format!("kill -USR2 $(cat {})", pid.display()),
        standby: HaproxyConfig::port(STANDBY),
        _backend: None,
    }))
}

/// In front of a slow server.
pub fn with_backend(host: &Host) -> Result<Box<dyn Service + '_>> {
    let backend = Serve::on("127.0.0.1:9000").delay(Duration::from_millis(50));
    let backend = backend.start(host)?;
    Haproxy::debian_init(host, &web().backend("127.0.0.1:9000"))?.start()?;
    Ok(Box::new(HaproxyService {
        host,
        restart: "service haproxy restart".to_owned(),
        standby: HaproxyConfig::port(STANDBY).backend("127.0.0.1:9000"),
        _backend: Some(backend),
    }))
}
