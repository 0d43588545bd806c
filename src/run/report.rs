//! What came of a run: the verdict, the line that says it, and the JSON report. The verdict is
//! pure; only `write` touches the file system.

use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::libc;
use nix::unistd::geteuid;
use serde::Serialize;

use crate::action::hold::Figures;
use crate::decide::drain::Left;
use crate::decide::{Cut, Facts, LingerEnd, Lingered, NotRun};
use crate::gate::backend::Flows;
use crate::kernel::sockets::holders::{Holders, names};
use crate::kernel::sockets::{Listener, Sample};
use crate::run::plan::Plan;
use crate::words::ended::exit_words;
use crate::words::ended::signal_name;
use crate::words::ended::{CommandExit, Sender};
use crate::words::ending::Ending;
use crate::words::ending::Outcome;
use crate::words::ending::interrupt_exit;
use crate::words::exit::{Exit, NOT_KEPT, NOT_RUN};
use crate::words::listen_ports::ListenPorts;
use crate::words::ms::Ms;
use crate::words::ms::ms_words;
use crate::words::ports::PortSet;
use crate::words::ports::as_ranges;
use crate::words::steer::Diversion;

/// The account of how long some gated port was closed. Pure.
#[derive(Debug, Clone)]
pub struct Closed {
    closed_at: Instant,
    /// When the kernel opens everything; `None`: nothing was ever closed.
    deadline: Option<Instant>,
    shut_since: Option<Instant>,
    before: Duration,
    opened_at: Option<Instant>,
    /// How many SYNs were stopped, if it could be read.
    pub syns_stopped: Option<u64>,
    /// What became of those that were held.
    pub held: Option<Figures>,
}

impl Closed {
    /// How long ago it was closed first.
    pub fn since_closed(&self) -> Duration {
        self.closed_at.elapsed()
    }

    /// Closed at `closed_at`, until `deadline` at the latest.
    pub fn new(closed_at: Instant, deadline: Option<Instant>) -> Closed {
        Closed {
            closed_at,
            deadline,
            shut_since: deadline.map(|_| closed_at),
            before: Duration::ZERO,
            opened_at: None,
            syns_stopped: None,
            held: None,
        }
    }

    /// The kernel opens everything at `deadline`.
    pub fn opens_by(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// From now on some port is shut, or none is.
    pub fn now_shut(&mut self, shut: bool, now: Instant) {
        // We may have been stopped: what the kernel has opened is open.
        let now = self.deadline.map_or(now, |deadline| now.min(deadline));
        if shut {
            self.shut_since.get_or_insert(now);
        } else if let Some(since) = self.shut_since.take() {
            self.before += now.saturating_duration_since(since);
            self.opened_at = Some(now);
        }
    }

    /// Whether it was open before that happened.
    fn opened_before(&self, exited: Option<(Instant, CommandExit)>) -> bool {
        matches!((self.opened_at, exited), (Some(opened), Some((exited, _))) if opened < exited)
    }

    /// How long some port was closed, once none is.
    pub fn time(&self) -> Option<Duration> {
        (self.deadline.is_some() && self.shut_since.is_none()).then_some(self.before)
    }
}

/// What the verdict rests on.
pub struct Evidence<'a> {
    /// What was decided and seen.
    pub facts: &'a Facts,
    /// The gated ports.
    pub ports: &'a PortSet,
    /// `--listen-port`.
    pub listen_ports: &'a ListenPorts,
    /// COMMAND as one line.
    pub command: &'a str,
    /// COMMAND's pid.
    pub pid: Option<i32>,
    /// The gate's times.
    pub closed: &'a Closed,
    /// `--ready-timeout`.
    pub ready_timeout: Duration,
    /// What was there before.
    pub before: &'a Sample,
    /// Why COMMAND could not be started.
    pub spawn_error: Option<&'a Ending>,
    /// What went wrong when the gate was opened.
    pub open_error: Option<&'a str>,
    /// What became of connections that were redirected.
    pub redirect: Option<&'a RedirectRow>,
    /// What became of connections that were diverted.
    pub divert: Option<&'a DivertRow>,
}

/// The verdict on a run whose gate was closed.
pub fn conclude(e: &Evidence) -> Ending {
    if let Some((signal, sender)) = e.facts.interrupted {
        return interrupted(e, signal, sender);
    }
    if let Some(why) = e.facts.not_run {
        return not_run(e, why);
    }
    match e.facts.exited {
        Some((_, CommandExit::Signal(signal))) => signalled(e, signal),
        Some((_, CommandExit::Code(0))) => kept_or_not(e),
        Some((_, CommandExit::Code(status))) => Ending {
            outcome: Outcome::CommandFailed,
            reason: "exit_status",
            message: format!(
                "{} exited with status {status}; {}",
                e.command,
                closed_words(e)
            ),
            exit: Exit::Status(status),
        },
        // Not reached: a run ends by one of the above.
        None => Ending::not_run("unknown", "COMMAND did not run"),
    }
}

fn kept_or_not(e: &Evidence) -> Ending {
    let broken = |outcome, reason, message| Ending {
        outcome,
        reason,
        message,
        exit: Exit::Status(NOT_KEPT),
    };
    if let Some(error) = e.open_error {
        let message = format!("the gate did not open as it should: {error}");
        return broken(Outcome::OpenFailed, "open_failed", message);
    }
    if e.facts.deadline_hit {
        let message = format!(
            "--max-closed opened the gate {}: {} exited with status 0; {}",
            if e.closed.opened_before(e.facts.exited) {
                "while COMMAND still ran (if it stays in the foreground, use --open-on ready)"
            } else {
                "before the service was ready"
            },
            e.command,
            closed_words(e)
        );
        return broken(Outcome::Deadline, "max_closed", message);
    }
    if e.facts.standby_gone {
        let message = format!(
            "nobody listened on the standby's port any more, so the gate opened early: {} exited with \
             status 0; {}",
            e.command,
            closed_words(e)
        );
        return broken(Outcome::OpenFailed, "standby_gone", message);
    }
    if !e.facts.not_ready.is_empty() {
        return broken(Outcome::NotReady, "no_listener", nobody_listens(e));
    }
    if e.facts.unseen {
        let message = format!(
            "whether anybody listens could not be seen: {} exited with status 0; {}",
            e.command,
            closed_words(e)
        );
        return broken(Outcome::NotReady, "unseen", message);
    }
    if e.facts.unchecked {
        return broken(Outcome::NotReady, "ready_check", check_failed(e));
    }
    Ending {
        outcome: Outcome::Ok,
        reason: if e.facts.ran_open { "ungated" } else { "done" },
        message: format!("{} exited with status 0; {}", e.command, closed_words(e)),
        exit: Exit::Status(0),
    }
}

fn nobody_listens(e: &Evidence) -> String {
    let not_ready = &e.facts.not_ready;
    let inodes: Vec<u32> = e
        .before
        .listeners
        .iter()
        .filter(|l| {
            let served = e.listen_ports.served_by(l.port, e.ports);
            !served.intersection(not_ready).is_empty()
        })
        .map(|l| l.inode)
        .collect();
    let who = names(&e.before.holders, &inodes);
    let before = if who.is_empty() {
        "somebody did before".to_owned()
    } else {
        format!("before, {who} did")
    };
    format!(
        "nobody listens on {} {} after {} exited with status 0; {before}; \
         if it was meant to stop, use --ready-timeout 0; {}",
        e.listen_ports.shown(not_ready),
        humantime::format_duration(e.ready_timeout),
        e.command,
        closed_words(e)
    )
}

fn check_failed(e: &Evidence) -> String {
    let last = match e.facts.check_exit {
        None => "it did not end".to_owned(),
        Some(CommandExit::Code(status)) => format!("its last exit status was {status}"),
        Some(CommandExit::Signal(signal)) => format!("at last {} ended it", signal_name(signal)),
    };
    format!(
        "--ready-check did not succeed within {} after {} exited with status 0 ({last}); {}",
        humantime::format_duration(e.ready_timeout),
        e.command,
        closed_words(e)
    )
}

fn signalled(e: &Evidence, signal: i32) -> Ending {
    let mut signals = e.facts.signals.iter();
    let by_terminal = signals.any(|(n, sender)| *n == signal && *sender != Sender::Process);
    Ending {
        outcome: Outcome::CommandSignalled,
        reason: "signal",
        message: format!(
            "{} ended {}; {}",
            signal_name(signal),
            e.command,
            closed_words(e)
        ),
        exit: if by_terminal {
            interrupt_exit(signal, Sender::Terminal)
        } else {
            Exit::signalled(signal)
        },
    }
}

fn interrupted(e: &Evidence, signal: i32, sender: Sender) -> Ending {
    let name = signal_name(signal);
    let (reason, what) = match (e.facts.started_at, e.facts.exited, e.pid) {
        (None, _, _) => ("before_command", "COMMAND was not run".to_owned()),
        (Some(_), None, pid) => (
            "left_running",
            format!("{} (pid {}) is left running", e.command, pid.unwrap_or(0)),
        ),
        (Some(_), Some((_, exit)), _) if e.facts.linger_cut => (
            "linger",
            format!(
                "{} had exited with {}, the linger was cut short",
                e.command,
                exit_words(exit)
            ),
        ),
        (Some(_), Some(_), _) => (
            "before_ready",
            format!("{} had exited, its listener was not waited for", e.command),
        ),
    };
    Ending {
        outcome: Outcome::Interrupted,
        reason,
        message: format!("{name}: {what}; {}", closed_words(e)),
        exit: interrupt_exit(signal, sender),
    }
}

fn not_run(e: &Evidence, why: NotRun) -> Ending {
    let (reason, message) = match why {
        NotRun::Spawn => {
            return e.spawn_error.cloned().unwrap_or_else(|| {
                Ending::not_run("spawn_failed", "COMMAND could not be started")
            });
        }
        NotRun::OpenedEarly => (
            "opened_early",
            "SIGUSR1 opened the gate: COMMAND was not run",
        ),
        NotRun::Deadline => (
            "max_closed",
            "--max-closed was over before COMMAND could be run: it was not run",
        ),
        NotRun::Fallen => (
            "gate_fallen",
            "the gate no longer stood and could not be closed again: COMMAND was not run",
        ),
        NotRun::StandbyGone => (
            "standby_gone",
            "nobody listened on the standby's port any more: COMMAND was not run",
        ),
        NotRun::Signal => ("signal", "COMMAND was not run"),
    };
    Ending::not_run(reason, message)
}

fn closed_words(e: &Evidence) -> String {
    let ports = e.ports.brief();
    let Some(time) = e.closed.time().map(ms_words) else {
        return format!("{ports} was never closed");
    };
    if let Some(held) = &e.closed.held {
        return format!("{ports} was closed for {time}, {}", held_words(held));
    }
    if let Some(redirect) = e.redirect {
        return format!(
            "{ports} was redirected for {time}, {}",
            redirected_words(redirect)
        );
    }
    if let Some(divert) = e.divert {
        return format!(
            "{ports} was diverted for {time}, {}",
            diverted_words(divert)
        );
    }
    match e.closed.syns_stopped {
        None => format!("{ports} was closed for {time}"),
        Some(1) => format!("{ports} was closed for {time}, 1 SYN dropped"),
        Some(n) => format!("{ports} was closed for {time}, {n} SYNs dropped"),
    }
}

fn redirected_words(redirect: &RedirectRow) -> String {
    went(
        redirect.redirected,
        &format!("port {}", redirect.port),
        redirect.cut,
    )
}

fn diverted_words(divert: &DivertRow) -> String {
    let mut words = went(divert.diverted, &divert.peers.join(", "), divert.cut);
    match divert.no_room {
        0 => (),
        1 => words.push_str(", 1 SYN dropped for want of room"),
        n => words.push_str(&format!(", {n} SYNs dropped for want of room")),
    }
    words
}

/// How many connections were steered to `place`, and how many of them did not finish.
fn went(all: Option<u64>, place: &str, cut: Option<usize>) -> String {
    let connections = match all {
        None => "new connections".to_owned(),
        Some(0) => "no connection".to_owned(),
        Some(1) => "1 connection".to_owned(),
        Some(n) => format!("{n} connections"),
    };
    let fate = match cut {
        Some(n @ 1..) => format!(", {n} of them cut"),
        _ => String::new(),
    };
    format!("{connections} went to {place}{fate}")
}

fn held_words(held: &Figures) -> String {
    let longest = ms_words(held.longest);
    let mut words = match held.held {
        0 => "no SYN held".to_owned(),
        1 => format!("1 SYN held (for {longest})"),
        n => format!("{n} SYNs held (the longest for {longest})"),
    };
    for (count, what) in [(held.overflow, "dropped"), (held.lost, "lost")] {
        if count > 0 {
            words.push_str(&format!(", {count} {what}"));
        }
    }
    words
}

/// The JSON report. Fields are only ever added; contrib/schema/report.schema.json describes them.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    syngate: &'static str,
    /// The run's id.
    pub run: String,
    started_at: String,
    command: Vec<String>,
    #[serde(serialize_with = "as_ranges")]
    ports: PortSet,
    /// What became of SYNs.
    pub action: &'static str,
    scope: Option<String>,
    listen_ports: Option<String>,
    /// In which network namespace the listeners were looked for at last, if not in our own.
    pub listen_netns: Option<String>,
    /// Which backend closed the gate, if it was closed.
    pub backend: Option<&'static str>,
    outcome: Outcome,
    reason: &'static str,
    message: String,
    exit_status: u8,
    exit_signal: Option<i32>,
    command_status: Option<u8>,
    command_signal: Option<i32>,
    /// From the start of syngate to the closed gate.
    pub closed_after_ms: Option<Ms>,
    /// How long some gated port was closed.
    pub closed_ms: Option<Ms>,
    /// From the decision to open to the open gate.
    pub open_took_ms: Option<Ms>,
    /// What took how long.
    pub phases: Phases,
    /// How many SYNs were stopped.
    pub syns_stopped: Option<u64>,
    /// What became of those that were held, if they were.
    pub hold: Option<HoldRow>,
    /// What became of connections that were redirected.
    pub redirect: Option<RedirectRow>,
    /// What became of connections that were diverted.
    pub divert: Option<DivertRow>,
    /// The standby that was started for the run.
    pub standby: Option<StandbyRow>,
    listeners_before: Vec<ListenerRow>,
    listeners_after: Vec<ListenerRow>,
    /// Addresses that had a listener and are not covered by one any more.
    pub listeners_lost: Vec<String>,
    #[serde(serialize_with = "as_ranges")]
    ports_not_ready: PortSet,
    drain_left: Left,
    stale_half_open: u32,
    /// How often the gate was closed again because somebody had removed its rules.
    pub reclosed: u32,
    /// What was not as it should be.
    pub warnings: Vec<String>,
    /// Whether COMMAND was started, for the ending of a run that panics.
    #[serde(skip)]
    pub command_was_run: bool,
}

/// The times of a run's phases; those that it did not come to are null.
#[derive(Debug, Default, Serialize)]
pub struct Phases {
    /// Waiting for the lock.
    pub lock_ms: Option<Ms>,
    /// `--precheck`.
    pub precheck_ms: Option<Ms>,
    /// From the closed gate to the end of the drain.
    pub drain_ms: Option<Ms>,
    /// COMMAND.
    pub command_ms: Option<Ms>,
    /// From COMMAND's exit to the open gate.
    pub ready_ms: Option<Ms>,
    /// `--ready-check`, from its first run to its success.
    pub ready_check_ms: Option<Ms>,
}

/// What became of the SYNs that were held.
#[derive(Debug, Serialize)]
pub struct HoldRow {
    held: u64,
    released: u64,
    duplicates: u64,
    overflow: u64,
    lost: u64,
    longest_ms: Ms,
    release_ms: Option<Ms>,
    release_timed_out: bool,
    release_stalled: bool,
}

impl HoldRow {
    /// From what was counted and decided.
    pub fn new(held: Figures, facts: &Facts) -> HoldRow {
        HoldRow {
            held: held.held,
            released: held.released,
            duplicates: held.duplicates,
            overflow: held.overflow,
            lost: held.lost,
            longest_ms: held.longest.into(),
            release_ms: facts.released_in.map(Into::into),
            release_timed_out: facts.release_cut == Some(Cut::TimedOut),
            release_stalled: facts.release_cut == Some(Cut::Stalled),
        }
    }
}

/// What became of the connections that were redirected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RedirectRow {
    port: u16,
    redirected: Option<u64>,
    cut: Option<usize>,
    linger_ms: Option<Ms>,
    linger_timed_out: bool,
}

impl RedirectRow {
    /// From what was counted and decided: so many went to `port`.
    pub fn new(port: u16, redirected: Option<u64>, lingered: Option<Lingered>) -> RedirectRow {
        RedirectRow {
            port,
            redirected,
            cut: lingered.and_then(|lingered| lingered.left),
            linger_ms: lingered.map(|lingered| lingered.took.into()),
            linger_timed_out: lingered.is_some_and(|l| l.end == LingerEnd::TimedOut),
        }
    }
}

/// What became of the connections that were diverted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DivertRow {
    peers: Vec<String>,
    diverted: Option<u64>,
    finished: Option<u64>,
    cut: Option<usize>,
    no_room: u64,
    linger_ms: Option<Ms>,
    linger_timed_out: bool,
}

impl DivertRow {
    /// From what was counted and decided: they went to `to`. Without a linger nothing was counted.
    pub fn new(to: &Diversion, flows: &Flows, lingered: Option<Lingered>) -> DivertRow {
        let cut = lingered.and_then(|lingered| lingered.left.map(|_| flows.open));
        DivertRow {
            peers: to.peers().map(|peer| peer.to_string()).collect(),
            diverted: lingered.map(|_| flows.all),
            finished: cut.map(|cut| flows.all.saturating_sub(cut as u64)),
            cut,
            no_room: flows.no_room,
            linger_ms: lingered.map(|lingered| lingered.took.into()),
            linger_timed_out: lingered.is_some_and(|l| l.end == LingerEnd::TimedOut),
        }
    }
}

/// `--standby`, in the end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StandbyRow {
    pid: i32,
    end: StandbyEnd,
    stop_ms: Option<Ms>,
}

/// What became of a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StandbyEnd {
    /// SIGTERM was enough.
    Terminated,
    /// It took SIGKILL.
    Killed,
    /// It was left running, as was asked for.
    Kept,
    /// Its processes were gone before they were stopped.
    Ended,
    /// It is being stopped: a signal ended the wait for it.
    Stopping,
}

impl StandbyRow {
    /// The process, what became of it, and how long it took to end.
    pub fn new(pid: i32, end: StandbyEnd, took: Option<Duration>) -> StandbyRow {
        StandbyRow {
            pid,
            end,
            stop_ms: took.map(Into::into),
        }
    }
}

#[derive(Debug, Serialize)]
struct ListenerRow {
    address: String,
    port: u16,
    backlog: u32,
    process: Option<String>,
}

impl Report {
    /// The report of a run that has just begun.
    pub fn new(run: String, command: &[std::ffi::OsString], ports: &PortSet) -> Report {
        Report {
            version: 1,
            syngate: env!("CARGO_PKG_VERSION"),
            run,
            started_at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            command: command
                .iter()
                .map(|a| a.to_string_lossy().into_owned())
                .collect(),
            ports: ports.clone(),
            action: "drop",
            scope: None,
            listen_ports: None,
            listen_netns: None,
            backend: None,
            outcome: Outcome::NotRun,
            reason: "unknown",
            message: String::new(),
            exit_status: NOT_RUN,
            exit_signal: None,
            command_status: None,
            command_signal: None,
            closed_after_ms: None,
            closed_ms: None,
            open_took_ms: None,
            phases: Phases::default(),
            syns_stopped: None,
            hold: None,
            redirect: None,
            divert: None,
            standby: None,
            listeners_before: Vec::new(),
            listeners_after: Vec::new(),
            listeners_lost: Vec::new(),
            ports_not_ready: PortSet::EMPTY,
            drain_left: Left::default(),
            stale_half_open: 0,
            reclosed: 0,
            warnings: Vec::new(),
            command_was_run: false,
        }
    }

    /// Takes in what was asked for.
    pub fn plan(&mut self, plan: &Plan) {
        self.action = plan.syn.name();
        let scope = plan.scope.to_string();
        self.scope = (!scope.is_empty()).then_some(scope);
        let listen_ports = &plan.config.listen_ports;
        self.listen_ports = (!listen_ports.is_plain()).then(|| listen_ports.to_string());
    }

    /// Takes in what was there before.
    pub fn before(&mut self, sample: &Sample) {
        self.listeners_before = rows(&sample.listeners, &sample.holders);
    }

    /// Takes in what is there after.
    pub fn after(&mut self, sample: &Sample) {
        self.listeners_after = rows(&sample.listeners, &sample.holders);
    }

    /// Takes in what the decisions noted.
    pub fn facts(&mut self, facts: &Facts, closed: &Closed) {
        self.closed_ms = closed.time().map(Into::into);
        self.reclosed = facts.reclosed;
        self.syns_stopped = closed.syns_stopped;
        let drained_at = facts.drained_at;
        self.phases.drain_ms = drained_at.map(|at| (at - closed.closed_at).into());
        if let (Some(started), Some((exited, exit))) = (facts.started_at, facts.exited) {
            self.phases.command_ms = Some((exited - started).into());
            let ready = |opened: Instant| opened.saturating_duration_since(exited).into();
            self.phases.ready_ms = closed.opened_at.map(ready);
            match exit {
                CommandExit::Code(status) => self.command_status = Some(status),
                CommandExit::Signal(signal) => self.command_signal = Some(signal),
            }
        }
        self.phases.ready_check_ms = facts.checked_in.map(Into::into);
        self.ports_not_ready = facts.not_ready.clone();
        self.drain_left = facts.left;
        self.stale_half_open = facts.stale_half_open;
    }

    /// Takes in the verdict.
    pub fn ending(&mut self, ending: &Ending) {
        self.outcome = ending.outcome;
        self.reason = ending.reason;
        self.message.clone_from(&ending.message);
        self.exit_status = ending.exit.status();
        self.exit_signal = (ending.exit == Exit::Interrupt).then_some(libc::SIGINT);
    }

    /// Writes it to `file`: a regular file is replaced in one step, so that no reader finds half a
    /// report; through a symbolic link it is its target that is replaced, unless a stranger has made
    /// the link. A pipe, a terminal, or an open file by its number (/dev/stderr) is written to.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        if is_descriptor(file) {
            return match file.to_str() {
                // Opened anew, a regular file would have an offset of its own.
                Some("/dev/stdout") => io::stdout().write_all(&json),
                Some("/dev/stderr") => io::stderr().write_all(&json),
                _ => write_to(file, &json, 0),
            };
        }
        match std::fs::symlink_metadata(file) {
            Ok(link) if link.is_symlink() => self.write_through(file, &link, &json),
            Ok(meta) if !meta.is_file() => write_to(file, &json, libc::O_NOFOLLOW),
            _ => self.replace(file, &json),
        }
    }

    fn write_through(&self, file: &Path, link: &Metadata, json: &[u8]) -> io::Result<()> {
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = std::fs::metadata(folder.unwrap_or(Path::new(".")))?;
        if may_mislead(link, &folder) {
            let (owner, why) = (link.uid(), "in a folder that everybody may write to");
            return Err(io::Error::other(format!(
                "a symbolic link of user {owner}'s {why} is not followed"
            )));
        }
        match std::fs::metadata(file) {
            Ok(meta) if meta.is_file() => self.replace(&file.canonicalize()?, json),
            Ok(_) => write_to(file, json, 0),
            // A file that is still to be made.
            Err(_) => std::fs::write(file, json),
        }
    }

    fn replace(&self, file: &Path, json: &[u8]) -> io::Result<()> {
        let draft = file.with_file_name(format!(".syngate-{}", self.run));
        let mut opened = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&draft)?;
        let written = opened
            .write_all(json)
            .and_then(|()| std::fs::rename(&draft, file));
        if written.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
        written
    }
}

/// Whether a stranger has made the link where anybody can: the rule of fs.protected_symlinks
/// (proc(5)), which is not in force everywhere.
fn may_mislead(link: &Metadata, folder: &Metadata) -> bool {
    const FOR_ALL: u32 = libc::S_ISVTX | libc::S_IWOTH;
    let trusted = link.uid() == geteuid().as_raw() || link.uid() == folder.uid();
    folder.mode() & FOR_ALL == FOR_ALL && !trusted
}

/// Whether the path is another name for an open file of ours: it belongs to whoever opened it.
fn is_descriptor(file: &Path) -> bool {
    [
        "/dev/fd",
        "/dev/stdin",
        "/dev/stdout",
        "/dev/stderr",
        "/proc",
    ]
    .iter()
    .any(|place| file.starts_with(place))
}

/// Without waiting for a reader of a pipe: nobody may ever come.
fn write_to(file: &Path, json: &[u8], flags: libc::c_int) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).custom_flags(libc::O_NONBLOCK | flags);
    options.open(file)?.write_all(json)
}

fn rows(listeners: &[Listener], holders: &Holders) -> Vec<ListenerRow> {
    listeners
        .iter()
        .map(|l| {
            let who = names(holders, &[l.inode]);
            ListenerRow {
                address: l.address.to_string(),
                port: l.port,
                backlog: l.backlog,
                process: (!who.is_empty()).then_some(who),
            }
        })
        .collect()
}

/// What holds for any bytes as COMMAND, with a NUL behind each of its words: whoever reads the JSON gets
/// what was written, in all the fields that are described.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    use std::os::unix::ffi::OsStrExt;
    const SCHEMA: &str = include_str!("../../contrib/schema/report.schema.json");
    static FIELDS: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).expect("it is JSON");
        let fields = schema["properties"].as_object().expect("it has properties");
        fields.keys().cloned().collect()
    });
    let words = bytes.split(|byte| *byte == 0);
    let words: Vec<&std::ffi::OsStr> = words.map(OsStrExt::from_bytes).collect();
    let command: Vec<std::ffi::OsString> = words.iter().map(|word| word.into()).collect();
    let shown: Vec<String> = words
        .iter()
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    let ports: PortSet = bytes.iter().map(|byte| u16::from(*byte) + 1).collect();
    let line = crate::words::command_line::command_line(&command);
    let mut report = Report::new("0123456789abcdef".to_owned(), &command, &ports);
    report.ending(&Ending::not_run("lock", line.as_str()));
    report.warnings.clone_from(&shown);
    report.closed_ms = Some(Duration::from_micros(bytes.len() as u64).into());
    let json = serde_json::to_vec_pretty(&report).expect("it can be told");
    let read: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
    assert!(
        read.as_object()
            .is_some_and(|read| read.keys().eq(FIELDS.iter()))
    );
    assert_eq!(read["message"], line.as_str());
    assert_eq!(read["warnings"], serde_json::json!(shown));
    assert_eq!(read["command"], serde_json::json!(shown));
    assert_eq!(
        read["ports"].as_array().map(Vec::len),
        Some(ports.ranges().len())
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(exit: CommandExit) -> Facts {
        let now = Instant::now();
        Facts {
            started_at: Some(now),
            exited: Some((now, exit)),
            ..Facts::default()
        }
    }

    fn closed_for(ms: u64) -> Closed {
        let closed_at = Instant::now();
        let at = |ms| closed_at + Duration::from_millis(ms);
        let mut closed = Closed::new(closed_at, Some(at(30_000)));
        assert_eq!(closed.time(), None, "it still is");
        closed.now_shut(false, at(ms));
        closed.syns_stopped = Some(12);
        closed
    }

    #[test]
    fn closed_time_is_what_clients_met() {
        let mut closed = closed_for(80);
        let at = |ms| closed.closed_at + Duration::from_millis(ms);
        let [again, opened, late] = [at(100), at(103), at(40_000)];
        closed.now_shut(true, again);
        closed.now_shut(true, opened);
        closed.now_shut(false, opened);
        assert_eq!(closed.time(), Some(Duration::from_millis(83)));
        // Stopped for longer than the gate could be closed.
        closed.now_shut(true, opened);
        closed.now_shut(false, late);
        assert_eq!(closed.time(), Some(Duration::from_millis(80 + 3 + 29_897)));
        assert_eq!(Closed::new(again, None).time(), None, "never closed");
    }

    fn verdict(facts: &Facts, open_error: Option<&str>) -> Ending {
        conclude(&Evidence {
            facts,
            ports: &[80].into_iter().collect(),
            listen_ports: &ListenPorts::default(),
            command: "service haproxy restart",
            pid: Some(4711),
            closed: &closed_for(83),
            ready_timeout: Duration::from_secs(10),
            before: &Sample::default(),
            spawn_error: None,
            redirect: None,
            divert: None,
            open_error,
        })
    }

    #[track_caller]
    fn expect(facts: &Facts, outcome: Outcome, exit: Exit, says: &str) {
        let ending = verdict(facts, None);
        assert_eq!((ending.outcome, ending.exit), (outcome, exit), "{ending:?}");
        assert!(ending.message.contains(says), "{ending:?}");
        assert!(!ending.message.contains('\n'), "{ending:?}");
    }

    const ZERO: CommandExit = CommandExit::Code(0);

    #[test]
    fn commands_own_status_passes() {
        let closed = "80 was closed for 83 ms, 12 SYNs dropped";
        expect(&facts(ZERO), Outcome::Ok, Exit::Status(0), closed);
        for status in 1..=255 {
            let facts = facts(CommandExit::Code(status));
            expect(&facts, Outcome::CommandFailed, Exit::Status(status), closed);
        }
        let facts = facts(CommandExit::Signal(9));
        expect(
            &facts,
            Outcome::CommandSignalled,
            Exit::Status(137),
            "SIGKILL ended",
        );
    }

    #[test]
    fn a_broken_promise_is_124() {
        let mut late = facts(ZERO);
        late.deadline_hit = true;
        expect(&late, Outcome::Deadline, Exit::Status(124), "--max-closed");

        let mut deserted = facts(ZERO);
        deserted.not_ready = [80].into_iter().collect();
        expect(
            &deserted,
            Outcome::NotReady,
            Exit::Status(124),
            "--ready-timeout 0",
        );

        let ending = verdict(&facts(ZERO), Some("EPERM"));
        assert_eq!(ending.outcome, Outcome::OpenFailed);
        assert_eq!(ending.exit, Exit::Status(124));
    }

    #[test]
    fn commands_failure_comes_before_ours() {
        let mut late = facts(CommandExit::Code(3));
        late.deadline_hit = true;
        expect(
            &late,
            Outcome::CommandFailed,
            Exit::Status(3),
            "exited with status 3",
        );
    }

    #[test]
    fn interrupted_says_what_became_of_command() {
        let term = Some((15, Sender::Process));
        let before = Facts {
            interrupted: term,
            not_run: Some(NotRun::Signal),
            ..Facts::default()
        };
        expect(
            &before,
            Outcome::Interrupted,
            Exit::Status(143),
            "was not run",
        );
        let mut left = facts(ZERO);
        left.exited = None;
        left.interrupted = term;
        expect(
            &left,
            Outcome::Interrupted,
            Exit::Status(143),
            "(pid 4711) is left running",
        );
        let mut after = facts(ZERO);
        after.interrupted = Some((2, Sender::Terminal));
        expect(
            &after,
            Outcome::Interrupted,
            Exit::Interrupt,
            "not waited for",
        );
    }

    #[test]
    fn ctrl_c_that_ended_command_ends_us() {
        let mut both = facts(CommandExit::Signal(2));
        both.signals = vec![(2, Sender::Terminal)];
        expect(&both, Outcome::CommandSignalled, Exit::Interrupt, "SIGINT");
        let mut killed = facts(CommandExit::Signal(2));
        killed.signals = vec![(2, Sender::Process)];
        expect(
            &killed,
            Outcome::CommandSignalled,
            Exit::Status(130),
            "SIGINT",
        );
    }

    #[test]
    fn what_was_not_run_is_125() {
        for (why, says) in [
            (NotRun::Deadline, "--max-closed"),
            (NotRun::Fallen, "no longer stood"),
            (NotRun::OpenedEarly, "SIGUSR1"),
        ] {
            let facts = Facts {
                not_run: Some(why),
                ..Facts::default()
            };
            expect(&facts, Outcome::NotRun, Exit::Status(125), says);
        }
    }
}
