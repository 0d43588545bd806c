use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::{Pid, geteuid, mkdtemp};
use serde_json::{Value, json};

use crate::bin::bin;
use crate::running::Running;
use crate::wait::wait_until;

const PATIENCE: Duration = Duration::from_secs(10);

/// Whether hosts are made inside a user namespace, as someone who isn't root.
pub fn rootless() -> bool {
    !geteuid().is_root() || env::var_os("TESTKIT_ROOTLESS").is_some_and(|v| v == "1")
}

/// A host: net, pid, mount and uts namespaces held by an init process.
///
/// Its `/run` is private and empty. Everything that runs on it dies with it,
/// and it dies with the test.
#[derive(Debug)]
pub struct Host {
    /// `unshare`, which waits for init, and takes it along if killed itself.
    /// Init itself leaves when the write end of its stdin, held here, closes.
    unshare: Child,
    init: Pid,
    dir: PathBuf,
}

/// How a command on a host ended, and what it said.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Host {
    /// Makes a host and waits until it is up.
    pub fn new() -> Result<Self> {
        let mut unshare = Command::new("unshare");
        if rootless() {
            unshare.args(["--user", "--map-root-user"]);
        }
        Self::boot(unshare)
    }

    /// Makes a host in the same user namespace as this one, so that one cable
    /// can be plugged into both.
    pub fn neighbour(&self) -> Result<Self> {
        if !rootless() {
            return Self::new();
        }
        let mut unshare = self.enter(&[]);
        unshare.args(["--", "unshare"]);
        Self::boot(unshare)
    }

    fn boot(mut unshare: Command) -> Result<Self> {
        let dir = fresh_dir()?;
        unshare
            .args(["--net", "--pid", "--mount", "--uts", "--fork"])
            .args(["--kill-child=KILL", "--"])
            .arg(bin()?)
            .arg("init")
            .arg(&dir);
        let mut unshare = unshare
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let init = match announced_pid(&mut unshare) {
            Ok(pid) => pid,
            Err(error) => {
                // Its stdin closes here, so that init can't outlive the error.
                let _ = unshare.wait();
                return Err(error);
            }
        };
        Ok(Self { unshare, init, dir })
    }

    /// The pid of its init, as seen from outside.
    pub fn pid(&self) -> u32 {
        self.init.as_raw().unsigned_abs()
    }

    /// A directory that the host and the test see at the same path; removed
    /// with the host.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file below [`dir`](Self::dir) and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// A command that will run on this host, with the test's environment and
    /// working directory.
    ///
    /// What is spawned is `nsenter`, which waits for the command and ends as
    /// it ended, but doesn't pass signals on: to send any, see
    /// [`spawn`](Self::spawn).
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.enter(&["--mount", "--uts", "--net", "--pid", "--wd"]);
        command.arg("--").arg(program);
        command
    }

    /// Plugs a cable (veth) into this host and its [neighbour](Self::neighbour).
    pub fn plug(&self, port: &str, other: &Host, other_port: &str) -> Result<()> {
        // In this host's network only: in its pid namespace, the other's init
        // would have no number.
        let mut ip = self.enter(&["--net"]);
        ip.args(["--", "ip", "link", "add", port, "type", "veth"]);
        ip.args([
            "peer",
            "name",
            other_port,
            "netns",
            &other.pid().to_string(),
        ]);
        succeed(&mut ip).map(drop)
    }

    fn enter(&self, namespaces: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid().to_string()]);
        if rootless() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(namespaces);
        command
    }

    /// Starts a command of this host in the background; it is killed when the
    /// guard is dropped.
    pub fn spawn(&self, command: &mut Command) -> Result<Running> {
        Running::spawn(command)
    }

    /// Runs a shell script to its end, also if it fails.
    pub fn sh(&self, script: &str) -> Result<Ran> {
        ran(self.command("sh").args(["-c", script]))
    }

    /// Runs a command that has to succeed, and returns its standard output.
    pub fn run<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Result<String> {
        let mut argv = argv.into_iter();
        let program = argv.next().context("no command")?;
        succeed(self.command(program).args(argv))
    }

    /// [`run`](Self::run) for tests: panics, with what the command said, if it
    /// fails.
    #[track_caller]
    pub fn must<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> String {
        match self.run(argv) {
            Ok(stdout) => stdout,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Gives it a firewall of its own by that variant of iptables (`nft`, `legacy`), as there is one
    /// wherever iptables is in use: the first rule makes tables and chains that stay.
    pub fn has_firewall(&self, variant: &str) -> Result<()> {
        let chains = [
            ("filter", "INPUT"),
            ("security", "INPUT"),
            ("raw", "PREROUTING"),
            ("raw", "OUTPUT"),
            ("nat", "PREROUTING"),
            ("nat", "OUTPUT"),
        ];
        for family in ["iptables", "ip6tables"] {
            for (table, chain) in chains {
                let program = format!("{family}-{variant}");
                let rule = ["-A", chain, "-p", "udp", "-j", "ACCEPT"];
                self.run([&program, "-t", table].into_iter().chain(rule))?;
            }
        }
        Ok(())
    }

    /// The ruleset as `nft -j list ruleset` prints it.
    #[track_caller]
    pub fn nft_json(&self) -> Value {
        // nft may print nothing, or half of it, and succeed, when the ruleset changes meanwhile; and
        // 1.0.6 trips over the flags of tables that have an owner.
        let mut listed = None;
        wait_until(PATIENCE, "a whole listing from nft", || {
            let whole = self.run(["nft", "-j", "list", "ruleset"]).ok();
            let whole = whole.and_then(|text| serde_json::from_str(&text).ok());
            listed = whole.or_else(|| self.nft_json_in_parts());
            listed.is_some()
        })
        .unwrap_or_else(|error| panic!("{error:#}"));
        listed.expect("waited for")
    }

    /// Without any table's flags. `None`: it has changed meanwhile.
    fn nft_json_in_parts(&self) -> Option<Value> {
        let tables = self.run(["nft", "list", "tables"]).ok()?;
        let table = |line: &str| {
            let (family, name) = line.strip_prefix("table ")?.split_once(' ')?;
            Some(json!({"table": {"family": family, "name": name}}))
        };
        let mut objects: Vec<Value> = tables.lines().filter_map(table).collect();
        for part in ["sets", "counters"] {
            objects.extend(self.nft_part(&["list", part])?);
        }
        for chain in self.nft_part(&["list", "chains"])? {
            let Some(of) = chain.get("chain") else {
                continue;
            };
            let [family, table, name] = ["family", "table", "name"].map(|field| of[field].as_str());
            objects.extend(self.nft_part(&["list", "chain", family?, table?, name?])?);
        }
        Some(json!({ "nftables": objects }))
    }

    fn nft_part(&self, words: &[&str]) -> Option<Vec<Value>> {
        let text = self.run(["nft", "-j"].iter().chain(words)).ok()?;
        let mut listed: Value = serde_json::from_str(&text).ok()?;
        match listed["nftables"].take() {
            Value::Array(objects) => Some(objects),
            _ => None,
        }
    }

    /// The ruleset in a form to compare before with after: without what changes by itself.
    #[track_caller]
    pub fn ruleset(&self) -> String {
        let mut json = self.nft_json();
        if let Some(objects) = json["nftables"].as_array_mut() {
            objects.retain(|object| object.get("metainfo").is_none());
            objects.iter_mut().for_each(without_counts);
        }
        forget_time_left(&mut json);
        format!("{json:#}\n{}", self.legacy_rules())
    }

    /// What iptables-legacy has, without counts; asking for tables that aren't there would make them.
    fn legacy_rules(&self) -> String {
        let saved = ["ip", "ip6"].map(|family| {
            let names = format!("/proc/{}/net/{family}_tables_names", self.init);
            match fs::read_to_string(names) {
                Ok(names) if !names.is_empty() => {
                    self.must([format!("{family}tables-legacy-save")])
                }
                _ => String::new(),
            }
        });
        let saved = saved.concat();
        let telling = saved.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<&str> = telling
            .map(|line| line.split(" [").next().unwrap_or(line))
            .collect();
        lines.join("\n")
    }

    /// Covers `dst`, which must exist, with `src`, on this host only.
    pub fn bind(&self, src: impl AsRef<Path>, dst: impl AsRef<Path>) -> Result<()> {
        let (src, dst) = (src.as_ref().as_os_str(), dst.as_ref().as_os_str());
        self.run([OsStr::new("mount"), OsStr::new("--bind"), src, dst])
            .map(drop)
    }

    /// From now on what is written to this host's `/etc` is not written to the machine's. What was
    /// [bound](Self::bind) there before is not seen any more.
    pub fn own_etc(&self) -> Result<()> {
        let mount = "mkdir /run/etc /run/etc.work && mount -t overlay overlay -o \
                     lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work /etc";
        self.run(["sh", "-ec", mount]).map(drop)
    }

    /// Whether anyone on this host listens on the TCP port, IPv4 or IPv6.
    pub fn listens(&self, port: u16) -> bool {
        ["tcp", "tcp6"]
            .iter()
            .any(|table| self.listeners(table).contains(&port))
    }

    /// Waits until someone listens on the TCP port.
    pub fn wait_listen(&self, port: u16) -> Result<()> {
        let what = format!("a listener on port {port}");
        wait_until(PATIENCE, &what, || self.listens(port))
    }

    /// A counter of this host's TCP, by the name that `nstat` gives it without `Tcp` or `TcpExt`:
    /// `ListenOverflows`, `PassiveOpens`. It counts from the host's start.
    pub fn tcp_counter(&self, name: &str) -> Result<u64> {
        for (table, section) in [("netstat", "TcpExt:"), ("snmp", "Tcp:")] {
            let path = format!("/proc/{}/net/{table}", self.init);
            let text = fs::read_to_string(&path).context(path)?;
            if let Some(value) = counter(&text, section, name) {
                return value.parse().with_context(|| format!("{name}: {value}"));
            }
        }
        bail!("TCP has no counter {name}")
    }

    /// The ports of the LISTEN rows of `/proc/net/tcp` or `tcp6`.
    fn listeners(&self, table: &str) -> Vec<u16> {
        let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.init));
        text.unwrap_or_default()
            .lines()
            .filter_map(listening_port)
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Init leaves when its stdin closes, and takes the directory and its
        // pid namespace with it; `unshare` is gone only when all of that is.
        drop(self.unshare.stdin.take());
        let _ = self.unshare.wait();
        // Again, if something wrote there to the last.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The exit code; 128 + n if signal n ended it, as a shell would say.
pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let signalled = || 128 + status.signal().unwrap_or_default();
    status.code().unwrap_or_else(signalled)
}

impl Ran {
    /// See [`code`].
    pub fn code(&self) -> i32 {
        code(self.status)
    }

    /// Whether it exited 0.
    pub fn ok(&self) -> bool {
        self.status.success()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            status: output.status,
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// iptables-nft's rules count packets.
fn without_counts(object: &mut Value) {
    let terms = object
        .pointer_mut("/rule/expr")
        .and_then(Value::as_array_mut);
    for term in terms.into_iter().flatten() {
        if let Some(counter) = term.get_mut("counter").filter(|c| c.is_object()) {
            *counter = Value::Null;
        }
    }
}

/// Runs the command to its end, with nothing on its stdin.
fn ran(command: &mut Command) -> Result<Ran> {
    let output = command.stdin(Stdio::null()).output();
    Ok(output.with_context(|| format!("{command:?}"))?.into())
}

/// Runs the command and returns what it printed; an error says what it said.
fn succeed(command: &mut Command) -> Result<String> {
    let ran = ran(command)?;
    ensure!(
        ran.ok(),
        "{command:?}: {}\n{}{}",
        ran.status,
        ran.stdout,
        ran.stderr
    );
    Ok(ran.stdout)
}

/// Reads the line `ready PID` from init.
fn announced_pid(unshare: &mut Child) -> Result<Pid> {
    let stdout = unshare.stdout.take().context("stdout was piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let Some(pid) = line.trim().strip_prefix("ready ") else {
        // Lets go of init's stdin, so that it ends if it still runs.
        drop(unshare.stdin.take());
        bail!("a host's init didn't come up (it said {line:?})");
    };
    let pid = pid.parse().map_err(|_| anyhow!("no pid: {line:?}"))?;
    Ok(Pid::from_raw(pid))
}

/// Takes away how long elements of sets still live.
fn forget_time_left(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            fields.remove("expires");
            fields.values_mut().for_each(forget_time_left);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_time_left),
        _ => (),
    }
}

fn fresh_dir() -> Result<PathBuf> {
    let dir = mkdtemp(&env::temp_dir().join("testkit-XXXXXX"))?;
    // Services of other users have files in it.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// `sl local_address rem_address st …`, addresses as `hex:hex`, LISTEN as 0A.
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    (state == "0A").then(|| u16::from_str_radix(port, 16).ok())?
}

/// A section is a line of names, then a line of values, both after its own name.
fn counter<'a>(text: &'a str, section: &str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(section));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(n, _)| *n == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::{counter, listening_port};

    #[test]
    fn finds_counters() {
        let text = "Ip: A B\nIp: 1 2\nTcp: Rto Max B\nTcp: 3 -1 4\nTcpExt: B\nTcpExt: 5\n";
        assert_eq!(counter(text, "Tcp:", "B"), Some("4"));
        assert_eq!(counter(text, "TcpExt:", "B"), Some("5"));
        assert_eq!(counter(text, "Tcp:", "A"), None);
    }

    #[test]
    fn finds_listening_ports() {
        let listen = "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000";
        let established = "   1: 0100007F:0050 0100007F:D431 01 00000000:00000000 00:00000000";
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when";
        assert_eq!(listening_port(listen), Some(80));
        assert_eq!(listening_port(established), None);
        assert_eq!(listening_port(heading), None);
    }
}
