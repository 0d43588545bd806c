//! A service that tells whom it has served, for tests of who goes where.
#![allow(dead_code)] // not every test file asks

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use testkit::services::Serve;
use testkit::{Host, Load, Running};

/// How long a client waits for an answer.
const LONG: Duration = Duration::from_secs(60);

/// An instance that notes whom it has accepted.
pub(crate) struct Instance {
    _process: Running,
    accepted: PathBuf,
}

impl Instance {
    /// Starts one; `name` is its own on the host.
    pub(crate) fn start(host: &Host, name: &str, server: Serve) -> Instance {
        let accepted = host.dir().join(name);
        std::fs::write(&accepted, "").unwrap();
        let process = server.log_accepts(&accepted).start(host).unwrap();
        Instance {
            _process: process,
            accepted,
        }
    }

    /// Whom.
    pub(crate) fn accepted(&self) -> Vec<SocketAddr> {
        let log = std::fs::read_to_string(&self.accepted).unwrap();
        log.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.accepted().len()
    }

    /// How many from these addresses.
    pub(crate) fn count_from(&self, addresses: &[&str]) -> usize {
        let from = |a: &SocketAddr| addresses.contains(&&*a.ip().to_string());
        self.accepted().into_iter().filter(from).count()
    }
}

/// One request and its answer.
pub(crate) fn ask(from: &Host, to: &str) {
    let load = Load::to(to).rate(1_000).timeout(LONG);
    let load = load.duration(Duration::from_millis(1));
    let report = load.start(from).unwrap().finish().unwrap();
    assert_eq!(
        (report.ok, report.failed()),
        (report.sent, 0),
        "{to}: {report}"
    );
    assert!(report.sent > 0);
}
