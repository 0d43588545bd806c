use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::argv::argv;
use crate::{Host, Running, bin, slow};

/// Builds `testkit serve` command lines: a plain HTTP server whose speed is
/// up to the test. SIGTERM ends it at once, connections and all; SIGQUIT when it has answered those that it
/// has accepted. From SIGUSR1 on, each answer is the last one of its connection, and says so.
#[derive(Debug, Clone)]
pub struct Serve {
    arguments: Vec<String>,
}

impl Serve {
    /// Listens on `address:port`.
    pub fn on(address: impl Into<String>) -> Self {
        let arguments = Vec::new();
        Self { arguments }.and_on(address)
    }

    /// Listens on the sockets that it is started with, by the protocol of sd_listen_fds(3): behind
    /// `systemd-socket-activate`, for one.
    pub fn inherited() -> Self {
        let arguments = Vec::new();
        Self { arguments }.flag("--inherit")
    }

    /// Listens on one more `address:port`.
    pub fn and_on(self, address: impl Into<String>) -> Self {
        self.with("--listen", address)
    }

    /// Length of the accept queue; 4096 unless told.
    pub fn backlog(self, backlog: u32) -> Self {
        self.with("--backlog", backlog.to_string())
    }

    /// Accepts at most so many connections a second, so that the accept queue
    /// fills up.
    pub fn accept_rate(self, per_second: u32) -> Self {
        self.with("--accept-rate", (per_second / slow()).max(1).to_string())
    }

    /// Writes down whom it has accepted, in that order and before it does anything for them:
    /// `address:port` lines, added to the file.
    pub fn log_accepts(self, file: &Path) -> Self {
        self.with("--log-accepts", file.to_string_lossy())
    }

    /// Answers each request so long after it has come.
    pub fn delay(self, delay: Duration) -> Self {
        self.with("--delay", format!("{}us", delay.as_micros()))
    }

    /// Listens only so long after its start.
    pub fn start_delay(self, delay: Duration) -> Self {
        self.with("--start-delay", format!("{}us", delay.as_micros()))
    }

    /// Sends a byte when it has accepted a connection.
    pub fn greeting(self) -> Self {
        self.flag("--greeting")
    }

    /// Sets SO_REUSEPORT.
    pub fn reuseport(self) -> Self {
        self.flag("--reuseport")
    }

    /// Does so if `shares`.
    pub fn reuseport_if(self, shares: bool) -> Self {
        match shares {
            true => self.reuseport(),
            false => self,
        }
    }

    /// Sends back what it gets, instead of HTTP: for [`Hold`](crate::Hold).
    pub fn echo(self) -> Self {
        self.flag("--echo")
    }

    /// Answers more than one request on a connection, for clients of HTTP/1.1 that don't ask to close.
    pub fn keep_alive(self) -> Self {
        self.flag("--keep-alive")
    }

    /// Breaks off in the middle of each answer.
    pub fn cut(self) -> Self {
        self.flag("--cut")
    }

    /// The command that runs it in the foreground. It prints `listening`.
    pub fn argv(&self) -> Result<Vec<String>> {
        let bin = bin()?;
        let mut words = argv([bin.to_str().context("path of testkit")?, "serve"]);
        words.extend_from_slice(&self.arguments);
        Ok(words)
    }

    /// The command that runs it in the background; it returns once the server
    /// listens.
    pub fn daemon_argv(&self, pid_file: &Path) -> Result<Vec<String>> {
        let mut words = self.argv()?;
        let pid_file = pid_file.to_str().context("path of the pid file")?;
        words.extend(argv(["--daemon", "--pidfile", pid_file]));
        Ok(words)
    }

    /// The command that kills the one in the background and starts another.
    pub fn restart_argv(&self, pid_file: &Path) -> Result<Vec<String>> {
        let start = self.daemon_argv(pid_file)?.join(" ");
        let script = format!("kill $(cat {}); exec {start}", pid_file.display());
        Ok(argv(["sh", "-c", &script]))
    }

    /// The same, but the old server answers the clients it has accepted.
    pub fn reload_argv(&self, pid_file: &Path) -> Result<Vec<String>> {
        let start = self.daemon_argv(pid_file)?.join(" ");
        let script = format!("kill -QUIT $(cat {}); exec {start}", pid_file.display());
        Ok(argv(["sh", "-c", &script]))
    }

    /// Starts it on a host in the foreground; returns when it listens.
    pub fn start(&self, host: &Host) -> Result<Running> {
        self.start_by(host, &[])
    }

    /// The same, with these words before the command.
    pub fn start_by(&self, host: &Host, by: &[String]) -> Result<Running> {
        let words = [by, &self.argv()?].concat();
        let mut command = host.command(&words[0]);
        command.args(&words[1..]);
        let mut server = host.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let stdout = server.stdout().context("stdout was piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "listening\n", "testkit serve didn't listen");
        Ok(server)
    }

    /// Starts it on a host in the background.
    pub fn start_daemon(&self, host: &Host) -> Result<Served> {
        let pid_file = host.dir().join("serve.pid");
        host.run(self.daemon_argv(&pid_file)?)?;
        Ok(Served {
            pid_file: pid_file.clone(),
            restart_argv: self.restart_argv(&pid_file)?,
            reload_argv: self.reload_argv(&pid_file)?,
        })
    }

    fn flag(mut self, flag: &str) -> Self {
        self.arguments.push(flag.to_owned());
        self
    }

    fn with(mut self, option: &str, value: impl Into<String>) -> Self {
        self.arguments.extend([option.to_owned(), value.into()]);
        self
    }
}

/// A `testkit serve` in the background of its host.
#[derive(Debug, Clone)]
pub struct Served {
    pid_file: PathBuf,
    restart_argv: Vec<String>,
    reload_argv: Vec<String>,
}

impl Served {
    /// Where the pid of the present one is.
    pub fn pid_file(&self) -> &Path {
        &self.pid_file
    }

    /// The command that kills it and starts another.
    pub fn restart_argv(&self) -> Vec<String> {
        self.restart_argv.clone()
    }

    /// The command that starts another server, while the old one answers the clients it has accepted.
    pub fn reload_argv(&self) -> Vec<String> {
        self.reload_argv.clone()
    }
}
