//! What is restarted: real programs from Debian, and plain servers with one trouble each.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Result;
use testkit::{
    Host, Running, bin,
    services::{Haproxy, HaproxyConfig, Nginx, NginxConfig, Serve},
    wait_until,
};

use crate::ways::{STANDBY, Way, quoted};

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
    /// How long something may still happen when the command has ended.
    pub tail: Duration,
    /// Starts it on a host, port 80, IPv4 and IPv6.
    pub start: Start,
}

type Start = for<'a> fn(&'a Host) -> Result<Box<dyn Service + 'a>>;

/// A [`Subject`] that runs.
pub trait Service {
    /// Before each restart: for a service that changes by it.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// The command that restarts it.
    fn restart(&self) -> String;

    /// Starts the second instance, on [`STANDBY`].
    fn start_standby(&mut self) -> Result<()>;
}

const RELOAD: &str = "--drain-until handshakes";
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_millis(800);
const SOON: Duration = Duration::from_secs(10);

use Way::{Bare, Drop, Flip, Folk, FolkNoSleep, Handover, Hold, Park, Plug, Redirect};

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
            Redirect,
            Way::Divert,
        ],
        keep_alive: true,
        options: "",
        tail: SHORT,
        start: |host| HaproxyService::init(host, &web(), "service haproxy restart"),
    },
    Subject {
        name: "haproxy reload (-sf)",
        about: "`service haproxy reload`: the old process hands its sockets on and finishes",
        ways: &[Bare, FolkNoSleep, Plug, Drop, Hold, Handover],
        keep_alive: true,
        options: RELOAD,
        tail: SHORT,
        start: |host| HaproxyService::init(host, &web(), "service haproxy reload"),
    },
    Subject {
        name: "haproxy -st",
        about: "a new process that ends the old one at once",
        ways: &[Bare, FolkNoSleep, Drop, Hold, Handover],
        keep_alive: false,
        options: "",
        tail: SHORT,
        start: haproxy_st,
    },
    Subject {
        name: "haproxy master-worker",
        about: "USR2 to the master, `expose-fd listeners`",
        ways: &[Bare, Drop, Hold, Handover],
        keep_alive: false,
        options: RELOAD,
        tail: LONG,
        start: haproxy_master_worker,
    },
    Subject {
        name: "haproxy, 50 ms backend",
        about: "`service haproxy restart` before a server that takes 50 ms to answer",
        ways: &[Bare, Folk, FolkNoSleep, Flip, Drop, Hold, Park, Redirect],
        keep_alive: false,
        options: "",
        tail: SHORT,
        start: haproxy_with_backend,
    },
    Subject {
        name: "nginx restart",
        about: "stop and start, as Debian's init script does it",
        ways: &[Bare, Folk, FolkNoSleep, Flip, Drop, Hold, Park, Redirect],
        keep_alive: true,
        options: "",
        tail: SHORT,
        start: |host| NginxService::start(host, false, |nginx| nginx.restart_argv()),
    },
    Subject {
        name: "nginx reload",
        about: "`nginx -s reload`, one socket for all workers",
        ways: &[Bare, FolkNoSleep, Drop, Hold, Handover],
        keep_alive: true,
        options: RELOAD,
        tail: LONG,
        start: |host| NginxService::start(host, false, |nginx| nginx.reload_argv()),
    },
    Subject {
        name: "nginx reload, reuseport",
        about: "`nginx -s reload` from 4 workers to 2, with a socket each",
        ways: &[Bare, FolkNoSleep, Drop, Hold, Handover],
        keep_alive: false,
        options: RELOAD,
        tail: LONG,
        start: |host| NginxService::start(host, true, |nginx| nginx.reload_argv()),
    },
    Subject {
        name: "nginx binary upgrade",
        about: "USR2, WINCH and QUIT to the master",
        ways: &[Bare, Drop, Hold, Handover],
        keep_alive: false,
        options: RELOAD,
        tail: LONG,
        start: |host| NginxService::start(host, false, upgrade_argv),
    },
    Subject {
        name: "plain server",
        about: "killed and started again, no SO_REUSEPORT",
        ways: &[Bare, Folk, FolkNoSleep, Flip, Drop, Hold, Park, Redirect],
        keep_alive: false,
        options: "",
        tail: SHORT,
        start: |host| PlainService::start(host, plain(80)),
    },
    Subject {
        name: "slow starter",
        about: "killed, and listens again 3 s later",
        ways: &[Bare, Folk, FolkNoSleep, Drop, Hold, Park, Redirect],
        keep_alive: false,
        options: "",
        tail: SHORT,
        start: |host| PlainService::start(host, plain(80).start_delay(Duration::from_secs(3))),
    },
    Subject {
        name: "slow acceptor",
        about: "killed and started again; accepts 2,000 a second, backlog 128",
        ways: &[Bare, Folk, FolkNoSleep, Drop, Hold, Park],
        keep_alive: false,
        options: "",
        tail: SHORT,
        start: |host| PlainService::start(host, plain(80).accept_rate(2_000).backlog(128)),
    },
    Subject {
        name: "socket activation",
        about: "the plain server behind `systemd-socket-activate`: the socket outlives it",
        ways: &[Bare],
        keep_alive: false,
        options: "",
        tail: SHORT,
        start: Activated::start,
    },
];

/// The subject of that name.
pub fn named(name: &str) -> Option<&'static Subject> {
    SUBJECTS.iter().find(|subject| subject.name == name)
}

fn web() -> HaproxyConfig {
    HaproxyConfig::port(80)
}

fn plain(port: u16) -> Serve {
    Serve::on(format!("0.0.0.0:{port}")).and_on(format!("[::]:{port}"))
}

// haproxy -----------------------------------------------------------------------------------------

struct HaproxyService<'a> {
    host: &'a Host,
    restart: String,
    standby: HaproxyConfig,
    /// What it hands requests on to.
    _backend: Option<Running>,
}

impl<'a> HaproxyService<'a> {
    /// As Debian's init script runs it.
    fn init(
        host: &'a Host,
        config: &HaproxyConfig,
        restart: &str,
    ) -> Result<Box<dyn Service + 'a>> {
        Haproxy::debian_init(host, config)?.start()?;
        Ok(Box::new(Self {
            host,
            restart: restart.to_owned(),
            standby: HaproxyConfig::port(STANDBY),
            _backend: None,
        }))
    }

    /// By its own command line.
    fn by_hand(host: &'a Host, config: &HaproxyConfig, flags: &str) -> Result<HaproxyFiles> {
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

fn haproxy_st(host: &Host) -> Result<Box<dyn Service + '_>> {
    let HaproxyFiles { start, pid } = HaproxyService::by_hand(host, &web(), "")?;
    Ok(Box::new(HaproxyService {
        host,
        restart: format!("{start} -st $(cat {})", pid.display()),
        standby: HaproxyConfig::port(STANDBY),
        _backend: None,
    }))
}

fn haproxy_master_worker(host: &Host) -> Result<Box<dyn Service + '_>> {
    let stats = host.dir().join("stats.sock");
    let config = web().global(format!(
        "stats socket {} expose-fd listeners",
        stats.display()
    ));
    let HaproxyFiles { pid, .. } = HaproxyService::by_hand(host, &config, "-W")?;
    // The pid file is written by the master, perhaps after the start has returned.
    wait_until(SOON, "the master's pid", || pid.exists())?;
    Ok(Box::new(HaproxyService {
        host,
        restart: format!("kill -USR2 $(cat {})", pid.display()),
        standby: HaproxyConfig::port(STANDBY),
        _backend: None,
    }))
}

fn haproxy_with_backend(host: &Host) -> Result<Box<dyn Service + '_>> {
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

// nginx -------------------------------------------------------------------------------------------

struct NginxService<'a> {
    host: &'a Host,
    nginx: Nginx<'a>,
    config: NginxConfig,
    restart: String,
}

impl<'a> NginxService<'a> {
    fn start(
        host: &'a Host,
        reuseport: bool,
        restart: fn(&Nginx) -> Vec<String>,
    ) -> Result<Box<dyn Service + 'a>> {
        let config = NginxConfig {
            reuseport,
            ..NginxConfig::default()
        };
        let nginx = Nginx::new(host, &config)?;
        nginx.start()?;
        let restart = in_words(&restart(&nginx));
        Ok(Box::new(Self {
            host,
            nginx,
            config,
            restart,
        }))
    }
}

impl Service for NginxService<'_> {
    /// With a socket for each worker there are four, of which the reload will close two.
    fn prepare(&mut self) -> Result<()> {
        if !self.config.reuseport {
            return Ok(());
        }
        self.config.workers = 4;
        self.nginx.configure(&self.config)?;
        self.nginx.reload()?;
        let listeners = || {
            let listed = self.host.run(["ss", "-Hltn4", "sport = :80"]);
            listed.map_or(0, |listed| listed.lines().count())
        };
        wait_until(SOON, "four listeners", || listeners() == 4)?;
        // The old workers go a moment after they have closed their listeners.
        let workers = || {
            let listed = self.host.run(["pgrep", "-cf", "nginx: worker process"]);
            listed.is_ok_and(|count| count.trim() == "4")
        };
        wait_until(SOON, "four workers", workers)?;
        self.config.workers = 2;
        self.nginx.configure(&self.config)
    }

    fn restart(&self) -> String {
        self.restart.clone()
    }

    fn start_standby(&mut self) -> Result<()> {
        let config = NginxConfig {
            port: STANDBY,
            ..self.config.clone()
        };
        Nginx::new(self.host, &config)?.start()
    }
}

/// As nginx's documentation has it ("Upgrading Executable on the Fly").
fn upgrade_argv(nginx: &Nginx) -> Vec<String> {
    let pid = nginx.pid_file();
    let pid = pid.display();
    let script = format!(
        "old=$(cat {pid}); kill -USR2 $old
         timeout 10 sh -c 'until [ -s {pid}.oldbin ] && [ -s {pid} ]; do sleep 0.01; done'
         kill -WINCH $old; kill -QUIT $old
         timeout 10 sh -c 'while [ -e {pid}.oldbin ]; do sleep 0.01; done'"
    );
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

/// As a shell reads them.
fn in_words(argv: &[String]) -> String {
    let words = argv
        .iter()
        .map(|word| match word.contains([' ', '\n', '$']) {
            true => quoted(word),
            false => word.clone(),
        });
    words.collect::<Vec<_>>().join(" ")
}

// Plain servers -----------------------------------------------------------------------------------

struct PlainService<'a> {
    host: &'a Host,
    restart: String,
}

impl<'a> PlainService<'a> {
    fn start(host: &'a Host, server: Serve) -> Result<Box<dyn Service + 'a>> {
        let restart = in_words(&server.start_daemon(host)?.restart_argv());
        Ok(Box::new(Self { host, restart }))
    }
}

impl Service for PlainService<'_> {
    fn restart(&self) -> String {
        self.restart.clone()
    }

    fn start_standby(&mut self) -> Result<()> {
        let pid = self.host.dir().join("standby.pid");
        self.host.run(plain(STANDBY).daemon_argv(&pid)?).map(drop)
    }
}

/// A server whose sockets are somebody else's, who starts it again whenever it has ended.
struct Activated {
    pid: PathBuf,
    _activator: Running,
}

impl Activated {
    fn start(host: &Host) -> Result<Box<dyn Service + '_>> {
        let pid = host.dir().join("activated.pid");
        let server = bin()?;
        let (file, server) = (pid.display(), server.display());
        // Who gets the sockets is told by pid.
        let serve = format!("export LISTEN_PID=$$; exec {server} serve --inherit");
        let keeper = format!(
            "while :; do sh -c '{serve}' >/dev/null & echo $! >{file}.new; mv {file}.new {file}; wait $!; done"
        );
        let keeper = host.write("keeper.sh", keeper);
        let mut activator = host.command("systemd-socket-activate");
        activator.args(["-l", "0.0.0.0:80", "sh"]).arg(keeper);
        activator.stderr(fs::File::create(host.dir().join("activator.log"))?);
        let activator = host.spawn(&mut activator)?;
        host.wait_listen(80)?;
        Ok(Box::new(Self {
            pid,
            _activator: activator,
        }))
    }
}

impl Service for Activated {
    /// It is another process afterwards; that one has the same sockets.
    fn restart(&self) -> String {
        let pid = self.pid.display();
        format!(
            "old=$(cat {pid}); kill $old; export old
             timeout 10 sh -c 'until [ $(cat {pid}) != $old ]; do sleep 0.01; done'"
        )
    }

    fn start_standby(&mut self) -> Result<()> {
        anyhow::bail!("it needs none")
    }
}
