//! What is restarted: real programs from Debian, and plain servers with one trouble each.

mod apps;
mod haproxy;
mod nginx;
mod plain;
mod service;

use std::time::Duration;

use anyhow::Result;
use testkit::Host;

use crate::ways::{RELOAD, Way};
use plain::plain;
pub use service::Service;

/// A service, and how it is restarted.
pub struct Subject {
    /// Its name in the results.
    pub name: &'static str,
    /// What happens to it, in a few words.
    pub about: &'static str,
    /// The ways that fit it.
    pub ways: &'static [Way],
    /// Whether clients that keep their connections are tried as well.
    pub keep_alive: bool,
    /// More options for syngate.
    pub options: &'static str,
    /// What its clients ask: see [`testkit::Load::ask`].
    pub ask: &'static str,
    /// Requests a second: the usual rate, and others, at which only bare and gates are tried.
    pub rates: &'static [u32],
    /// How long something may still happen when the command has ended.
    pub tail: Duration,
    /// Starts it on a host, port 80, IPv4 and IPv6.
    pub start: Start,
}

type Start = for<'a> fn(&'a Host) -> Result<Box<dyn Service + 'a>>;

/// What a restart is measured against in which connections wait: no gate can be better than none.
pub const PAUSED: &str = "haproxy, paused";
/// A restart in which no connection has to move: the service's own start, and what the machine does meanwhile.
pub const KEPT: &str = "haproxy, its socket kept";
const HTTP: &str = "http";
const USUAL: &[u32] = &[1_000];
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_millis(800);

use Way::{Bare, Drop, Flip, Folk, FolkNoSleep, Handover, Hold, Park, Plug, Redirect};

const RESTARTED: &[Way] = &[Bare, FolkNoSleep, Drop, Hold, Park];

/// All of them, in the order of the tables.
pub const SUBJECTS: &[Subject] = &[
    Subject {
        name: "haproxy restart",
        about: "`service haproxy restart`: stops at once, starts anew",
        // Divert has a third host, and so a net of its own.
        ways: &[
            Bare,
            Folk,
            FolkNoSleep,
            Flip,
            Plug,
            Drop,
            Hold,
            Park,
            Handover,
            Redirect,
            Way::Divert,
        ],
        keep_alive: true,
        options: "",
        ask: HTTP,
        rates: &[1_000, 5_000],
        tail: SHORT,
        start: |host| haproxy::init(host, "restart"),
    },
    Subject {
        name: PAUSED,
        about: "the process is stopped by a signal for 150 ms, and goes on: connections wait in its own queue",
        ways: &[Bare],
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: &[1_000, 5_000],
        tail: SHORT,
        start: haproxy::paused,
    },
    Subject {
        name: KEPT,
        about: "the same restart, but another process keeps its socket open, and haproxy inherits it: connections \
                wait in the queue of that",
        ways: &[Bare],
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: &[1_000, 5_000],
        tail: SHORT,
        start: haproxy::kept,
    },
    Subject {
        name: "haproxy reload (-sf)",
        about: "`service haproxy reload`: the old process hands its sockets on and finishes",
        ways: &[Bare, FolkNoSleep, Plug, Drop, Hold, Handover],
        keep_alive: true,
        options: RELOAD,
        ask: HTTP,
        rates: USUAL,
        tail: SHORT,
        start: |host| haproxy::init(host, "reload"),
    },
    Subject {
        name: "haproxy -st",
        about: "a new process that ends the old one at once",
        ways: &[Bare, FolkNoSleep, Drop, Hold, Handover],
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: USUAL,
        tail: SHORT,
        start: haproxy::st,
    },
    Subject {
        name: "haproxy master-worker",
        about: "USR2 to the master, `expose-fd listeners`",
        ways: &[Bare, Drop, Hold, Handover],
        keep_alive: false,
        options: RELOAD,
        ask: HTTP,
        rates: USUAL,
        tail: LONG,
        start: haproxy::master_worker,
    },
    Subject {
        name: "haproxy, 50 ms backend",
        about: "`service haproxy restart` before a server that takes 50 ms to answer",
        ways: &[Bare, Folk, FolkNoSleep, Flip, Drop, Hold, Park, Redirect],
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: USUAL,
        tail: SHORT,
        start: haproxy::with_backend,
    },
    Subject {
        name: "nginx restart",
        about: "stop and start, as Debian's init script does it",
        ways: &[Bare, Folk, FolkNoSleep, Flip, Drop, Hold, Park, Redirect],
        keep_alive: true,
        options: "",
        ask: HTTP,
        rates: USUAL,
        tail: SHORT,
        start: |host| nginx::start(host, false, |nginx| nginx.restart_argv()),
    },
    Subject {
        name: "nginx reload",
        about: "`nginx -s reload`, one socket for all workers",
        ways: &[Bare, FolkNoSleep, Drop, Hold, Handover],
        keep_alive: true,
        options: RELOAD,
        ask: HTTP,
        rates: USUAL,
        tail: LONG,
        start: |host| nginx::start(host, false, |nginx| nginx.reload_argv()),
    },
    Subject {
        name: "nginx reload, reuseport",
        about: "`nginx -s reload` from 4 workers to 2, and back to 4, with a socket each",
        ways: &[Bare, FolkNoSleep, Drop, Hold, Handover],
        keep_alive: false,
        options: RELOAD,
        ask: HTTP,
        rates: &[3_000],
        tail: LONG,
        start: |host| nginx::start(host, true, |nginx| nginx.reload_argv()),
    },
    Subject {
        name: "nginx binary upgrade",
        about: "USR2, WINCH and QUIT to the master",
        ways: &[Bare, Drop, Hold, Handover],
        keep_alive: false,
        options: RELOAD,
        ask: HTTP,
        rates: USUAL,
        tail: LONG,
        start: |host| nginx::start(host, false, nginx::upgrade_argv),
    },
    Subject {
        name: "redis restart",
        about: "stop and start, as Debian's init script does it; each client sends PING",
        ways: RESTARTED,
        keep_alive: false,
        options: "",
        ask: "redis",
        rates: USUAL,
        tail: SHORT,
        start: apps::redis,
    },
    Subject {
        name: "PostgreSQL restart",
        about: "`pg_ctl restart`; each client asks SELECT 1. It listens before it lets clients in, so syngate \
                asks `pg_isready`",
        ways: RESTARTED,
        keep_alive: false,
        options: "--ready-check 'pg_isready -q -h /run/pg -p 80'",
        ask: "postgres",
        rates: &[50],
        tail: SHORT,
        start: apps::postgres,
    },
    Subject {
        name: "node restart",
        about: "a server of a few lines, killed and started again",
        ways: RESTARTED,
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: &[500],
        tail: SHORT,
        start: apps::node,
    },
    Subject {
        name: "gunicorn restart",
        about: "two workers, stopped and started again",
        ways: RESTARTED,
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: &[200],
        tail: SHORT,
        start: apps::gunicorn,
    },
    Subject {
        name: "sshd, back after 3 s",
        about: "killed, and started again 3 s later; each client asks for its version",
        ways: RESTARTED,
        keep_alive: false,
        options: "--release-rate 40",
        ask: "ssh",
        rates: &[20],
        tail: Duration::from_secs(8),
        start: apps::sshd,
    },
    Subject {
        name: "plain server",
        about: "killed and started again, no SO_REUSEPORT",
        ways: &[Bare, Folk, FolkNoSleep, Flip, Drop, Hold, Park, Redirect],
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: USUAL,
        tail: SHORT,
        start: |host| plain::start(host, plain(80)),
    },
    Subject {
        name: "slow starter",
        about: "killed, and listens again 3 s later",
        ways: &[Bare, Folk, FolkNoSleep, Drop, Hold, Park, Redirect],
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: USUAL,
        tail: SHORT,
        start: |host| plain::start(host, plain(80).start_delay(Duration::from_secs(3))),
    },
    Subject {
        name: "slow acceptor",
        about: "killed and started again; accepts 2,000 a second, backlog 128",
        ways: &[Bare, Folk, FolkNoSleep, Drop, Hold, Park],
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: USUAL,
        tail: SHORT,
        start: |host| plain::start(host, plain(80).accept_rate(2_000).backlog(128)),
    },
    Subject {
        name: "socket activation",
        about: "the plain server behind `systemd-socket-activate`: the socket outlives it",
        ways: &[Bare],
        keep_alive: false,
        options: "",
        ask: HTTP,
        rates: USUAL,
        tail: SHORT,
        start: plain::activated,
    },
];

/// The subject of that name.
pub fn named(name: &str) -> Option<&'static Subject> {
    SUBJECTS.iter().find(|subject| subject.name == name)
}
