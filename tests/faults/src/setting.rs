//! What syngate is told to do while it is hit.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use testkit::{Host, VIP, slow};

use crate::subject::Subject;

/// A backend, and what happens to SYNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its name in the results.
    pub name: &'static str,
    /// `--backend`; of neighbours only, if connections wait in rooms.
    pub backend: &'static str,
    /// `--syn`, or `keep`.
    pub syn: &'static str,
    /// A fault that debug builds have on demand: what this kernel is to lack.
    pub lacking: Option<&'static str>,
    /// The service sets SO_REUSEPORT.
    pub shares_port: bool,
}

/// `--max-closed`: more than a run needs on a busy machine, and longer than what is left of one is waited
/// for; it is short for a run that will be kept from ending before.
pub fn max_closed(is_met: bool) -> Duration {
    Duration::from_secs(if is_met { 5 } else { 30 }) * slow()
}

/// `--max-wait` of a keep, in s: its guard stays for so long when it was killed, and nobody has restarted the service
/// since.
const LONGEST_WAIT: u32 = 3;

/// The file of who restarts a service that is kept. It counts as COMMAND, by its name.
pub const BESIDE: &str = "restart-beside";

const NO_OWNER: Option<&str> = Some("no-owner-tables");

const fn setting(name: &'static str, backend: &'static str, syn: &'static str) -> Setting {
    Setting {
        name,
        backend,
        syn,
        lacking: None,
        shares_port: false,
    }
}

const fn redirecting(name: &'static str, backend: &'static str) -> Setting {
    setting(name, backend, "redirect=8080")
}

const fn diverting(name: &'static str) -> Setting {
    setting(name, "nft", "divert=10.79.0.2")
}

const fn with_rooms(name: &'static str, syn: &'static str) -> Setting {
    setting(name, "nft", syn)
}

const fn sharing(setting: Setting) -> Setting {
    Setting {
        shares_port: true,
        ..setting
    }
}

const fn plain(setting: Setting) -> Setting {
    Setting {
        lacking: NO_OWNER,
        ..setting
    }
}

impl Setting {
    /// Whether new connections go to a standby.
    pub fn redirects(&self) -> bool {
        self.syn.starts_with("redirect")
    }

    /// Whether new connections go to the other host of a pair.
    pub fn diverts(&self) -> bool {
        self.syn.starts_with("divert")
    }

    /// Whether new connections wait in rooms, and there is no rule.
    pub fn has_rooms(&self) -> bool {
        self.syn == "park" || self.hands_over()
    }

    /// Whether they wait only while nobody listens.
    pub fn hands_over(&self) -> bool {
        self.syn == "handover" || self.keeps()
    }

    /// Whether it is no run, but a keep, and somebody else restarts the service.
    pub fn keeps(&self) -> bool {
        self.syn == "keep"
    }

    /// Whether that tells something new here. With rules, the kernel does not move connections, and those of COMMAND wait
    /// as all others do.
    pub fn suits(&self, subject: Subject) -> bool {
        match subject {
            Subject::Plain => true,
            Subject::HasManyPorts => self.has_rooms(),
            Subject::Follows => self.keeps(),
            // Without SO_REUSEPORT haproxy has a gap, in which it can't connect to itself without syngate either.
            Subject::AsksItself | Subject::BringsProgram => {
                self.has_rooms() && !self.keeps() && self.shares_port
            }
            _ => self.has_rooms() && !self.keeps(),
        }
    }

    /// Whether a run that nothing hits may end so.
    pub fn may_end_with(&self, code: i32, subject: Subject) -> bool {
        let second = subject.is_two() && !self.shares_port;
        code == 0 || code == 124 && (subject.moves() || second)
    }

    /// The options that say how connections are kept from the service.
    fn options(&self) -> Vec<&'static str> {
        let backend = ["--backend", self.backend];
        let backend = backend.into_iter().filter(|_| !self.has_rooms());
        backend.chain(["--syn", self.syn]).collect()
    }

    /// The same for another run, which need not do it in that way.
    pub fn of_another_run(&self) -> String {
        match self.has_rooms() {
            true => "--syn park".to_owned(),
            false => format!("--backend {}", self.backend),
        }
    }

    /// Whether the SYNs of clients on this host, or of others, are dropped while the gate is closed.
    pub fn drops(&self, of_host: bool) -> bool {
        self.syn == "drop" || self.diverts() && of_host
    }

    /// The variant of iptables that the host has rules of, and syngate too, if it uses any.
    pub fn iptables(&self) -> &'static str {
        match self.backend.starts_with("iptables") {
            true => self.backend,
            false => "iptables-nft",
        }
    }
}

/// All of them.
pub const SETTINGS: [Setting; 20] = [
    setting("nft, drop", "nft", "drop"),
    setting("nft, hold", "nft", "hold"),
    redirecting("nft, redirect", "nft"),
    diverting("nft, divert"),
    plain(setting("nft without owner, drop", "nft", "drop")),
    plain(setting("nft without owner, hold", "nft", "hold")),
    plain(redirecting("nft without owner, redirect", "nft")),
    plain(diverting("nft without owner, divert")),
    setting("iptables-nft, drop", "iptables-nft", "drop"),
    setting("iptables-nft, hold", "iptables-nft", "hold"),
    redirecting("iptables-nft, redirect", "iptables-nft"),
    setting("iptables-legacy, drop", "iptables-legacy", "drop"),
    setting("iptables-legacy, hold", "iptables-legacy", "hold"),
    redirecting("iptables-legacy, redirect", "iptables-legacy"),
    with_rooms("park", "park"),
    with_rooms("handover", "handover"),
    sharing(with_rooms("park, SO_REUSEPORT", "park")),
    sharing(with_rooms("handover, SO_REUSEPORT", "handover")),
    with_rooms("keep", "keep"),
    sharing(with_rooms("keep, SO_REUSEPORT", "keep")),
];

/// The setting of that name.
pub fn named(name: &str) -> Option<Setting> {
    SETTINGS.into_iter().find(|setting| setting.name == name)
}

/// The setting of that name, for the command line.
pub fn asked(name: &str) -> Result<Setting, String> {
    let names: Vec<String> = SETTINGS.iter().map(|s| format!("'{}'", s.name)).collect();
    named(name).ok_or_else(|| format!("there are: {}", names.join(", ")))
}

/// A setting, what is restarted, and how far away the clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scene {
    pub setting: Setting,
    pub subject: Subject,
    /// The way to the service and back takes so long, in ms.
    pub rtt_ms: u32,
}

impl Scene {
    /// The options that depend on the action, and on how long clients need.
    fn options(&self) -> Vec<String> {
        let need = |trips: u32| format!("{}ms", 300 + trips * self.rtt_ms);
        // A handshake and a request are two round trips, and each may just have begun.
        let mut words = Vec::new();
        if !self.setting.hands_over() {
            words.extend(["--drain".to_owned(), need(4)]);
        }
        if self.setting.redirects() {
            words.extend(["--standby-timeout", "10s"].map(str::to_owned));
        }
        if self.setting.diverts() {
            words.extend(["--to", VIP].map(str::to_owned));
        }
        if self.setting.redirects() || self.setting.diverts() {
            words.extend(["--linger".to_owned(), need(6)]);
        }
        words
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting.name)?;
        if self.subject != Subject::Plain {
            write!(f, ", {}", self.subject)?;
        }
        match self.rtt_ms {
            0 => Ok(()),
            ms => write!(f, ", clients {ms} ms away"),
        }
    }
}

/// Files and programs of one host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// A folder for all files.
    pub folder: String,
    /// The syngate that is hit.
    pub syngate: String,
    /// The server that it restarts.
    pub testkit: String,
    /// A control group for a service that is not in COMMAND's.
    pub group: String,
}

impl Place {
    /// The address of the service, for clients on its host.
    pub fn service(setting: &Setting) -> SocketAddr {
        let address = match setting.diverts() {
            true => VIP.parse().expect("it is one"),
            false => Ipv4Addr::LOCALHOST,
        };
        SocketAddr::new(address.into(), 80)
    }

    /// With the files and programs of that host.
    ///
    /// # Errors
    /// A program is not there.
    pub fn on(host: &Host, syngate: &Path, group: &Path) -> Result<Place> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let syngate = syngate.canonicalize().with_context(|| text(syngate))?;
        Ok(Place {
            folder: text(host.dir()),
            syngate: text(&syngate),
            testkit: text(&testkit::bin()?),
            group: text(group),
        })
    }

    /// A file of that name.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// Where the report goes: into a folder of its own.
    pub fn report(&self) -> String {
        self.file("report/report.json")
    }

    /// The whole call.
    pub fn call(&self, scene: &Scene, max_closed: Duration, more: &[&str]) -> Vec<String> {
        let setting = &scene.setting;
        if setting.keeps() {
            return self.keep(scene, more);
        }
        let report = self.report();
        let max_closed = format!("{}s", max_closed.as_secs());
        let moment = format!("{}s", 2 * slow());
        let standby = format!("{} serve --listen 0.0.0.0:8080", self.testkit);
        let mut words = vec![
            self.syngate.as_str(),
            "-v",
            "--port",
            scene.subject.ports(),
            "--max-closed",
            &max_closed,
            "--ready-timeout",
            &moment,
            "--report-file",
            &report,
        ];
        words.extend(setting.options());
        let options = scene.options();
        words.extend(options.iter().map(String::as_str));
        words.extend(more);
        if setting.redirects() {
            words.extend(["--standby", &standby]);
        }
        let restart = self.file("restart");
        words.extend(["--", "sh", &restart]);
        words.into_iter().map(str::to_owned).collect()
    }

    /// The same where it stands by: somebody restarts the service, and then ends it.
    fn keep(&self, scene: &Scene, more: &[&str]) -> Vec<String> {
        let beside = ["sh", "-c", "sh $0 $$ & exec \"$@\"", &self.file(BESIDE)].map(str::to_owned);
        let more = more.iter().map(|word| (*word).to_owned());
        beside
            .into_iter()
            .chain(self.keep_of(scene))
            .chain(more)
            .collect()
    }

    /// A keep alone.
    pub fn keep_of(&self, scene: &Scene) -> Vec<String> {
        let wait = format!("{}s", LONGEST_WAIT * slow());
        let mut words = vec![
            self.syngate.as_str(),
            "keep",
            "--port",
            scene.subject.ports(),
        ];
        words.extend(["--max-wait", &wait]);
        if !scene.setting.shares_port {
            words.push("--any");
        }
        words.into_iter().map(str::to_owned).collect()
    }
}

/// When COMMAND was there, in ms of CLOCK_MONOTONIC, by what it has written down: the first number of /proc/uptime,
/// which counts 10 ms.
pub fn ran_ms(written: &str) -> Option<f64> {
    let up: f64 = written.lines().next()?.parse().ok()?;
    Some(up * 1e3)
}
