//! The verdict on a run whose gate was closed, and the line for people. Pure.

use std::time::Duration;

use crate::decide::event::NotRun;
use crate::decide::facts::Facts;
use crate::decide::missing::Missing;
use crate::decide::policy::Abandoned;
use crate::decide::readiness::is_covered;
use crate::kernel::sockets::holders::names;
use crate::kernel::sockets::{Listener, Sample};
use crate::run::report::time::{Apart, Closed};
use crate::words::ended::{CommandExit, Sender, exit_words, signal_name};
use crate::words::ending::{Ending, Failure, Outcome, interrupt_exit};
use crate::words::exit::{Exit, NOT_EXECUTABLE, NOT_FOUND, NOT_KEPT};
use crate::words::gated::Gated;
use crate::words::ms::ms_words;

pub(crate) struct Evidence<'a> {
    pub facts: &'a Facts,
    pub gated: &'a Gated,
    pub command: &'a str,
    pub pid: Option<i32>,
    pub closed: &'a Closed,
    pub ready_timeout: Duration,
    /// The listeners before the gate closed.
    pub before: &'a Sample,
    /// Who listens now, if that could be seen.
    pub after: Option<&'a Sample>,
    /// How to read the service's log, if that is known.
    pub log: Option<&'a str>,
    /// Where nobody listens, new connections wait in the rooms of a keep.
    pub kept: bool,
    /// What starts the service again is told elsewhere.
    pub helped_after: bool,
    pub spawn_error: Option<&'a Ending>,
    pub open_error: Option<&'a str>,
    /// The action's verb for what happened to the ports, and its words about new connections.
    pub verb: &'static str,
    pub words: Option<&'a str>,
    pub failure: Option<&'a Failure>,
    pub held_up: HeldUp,
    /// New connections waited in rooms.
    pub in_rooms: bool,
    /// `--ready-check` or `--ready-url`, if one was given, with its value.
    pub ready: &'a str,
    /// What became of `--ready-url` when it was asked last.
    pub check_said: &'a str,
}

/// Which parts of the run wait for a client that the gate stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HeldUp {
    pub(crate) command: bool,
    pub(crate) check: bool,
    /// Clients of this host that neither has started, while COMMAND ran.
    pub(crate) others: bool,
    /// A client of this host that the check may have asked.
    pub(crate) asked_by_check: bool,
}

impl HeldUp {
    /// For a COMMAND that ran when the kernel opened the gate.
    ///
    /// `in_rooms`: new connections wait in rooms, which are listening sockets.
    pub(crate) fn advice(self, in_rooms: bool) -> &'static str {
        match (self.command, self.others) {
            _ if in_rooms => {
                "if COMMAND needs longer, raise --max-closed; if it waits until ss shows no listener, it sees the \
                 waiting room and waits in vain: use --syn hold"
            }
            (true, _) => "it waited for the gate: use --syn park or --allow-local",
            (false, true) => {
                "if COMMAND needs longer, raise --max-closed; if it stays in the foreground, use --open-on ready; if \
                 it waits for a client of this host, which the gate stopped, use --allow-local"
            }
            (false, false) => {
                "if COMMAND needs longer, raise --max-closed; if it stays in the foreground, use --open-on ready"
            }
        }
    }
}

pub(crate) fn conclude(e: &Evidence) -> Ending {
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
                "{} exited with status {status}{}; {}{}",
                e.command,
                down_words(e),
                closed_words(e),
                served_words(e)
            ),
            exit: Exit::Status(status),
        },
        // Unreachable: a run ends in one of the ways above.
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
        let why = format!("the gate did not open as it should: {error}");
        let message = format!("{why}; {} exited with status 0", e.command);
        return broken(Outcome::OpenFailed, "open_failed", message);
    }
    if e.facts.deadline_hit {
        return broken(Outcome::Deadline, "max_closed", opened_by_kernel(e));
    }
    if let Some(Abandoned { reason, why, hint }) = e.facts.abandoned {
        let message = format!(
            "{why}, so the gate opened early ({hint}): {} exited with status 0; {}",
            e.command,
            closed_words(e)
        );
        return broken(Outcome::OpenFailed, reason, message);
    }
    if !e.facts.missing.ports.is_empty() {
        return broken(Outcome::NotReady, "no_listener", nobody_listens(e));
    }
    if e.facts.unseen {
        let message = format!(
            "syngate could not look whether anybody listens: {} exited with status 0; {}",
            e.command,
            closed_words(e)
        );
        return broken(Outcome::NotReady, "unseen", message);
    }
    if e.facts.unchecked {
        return broken(Outcome::NotReady, "ready_check", check_failed(e));
    }
    // A service that stops on purpose serves nobody any more.
    if let Some(Failure { reason, why }) = e.failure.filter(|_| !e.ready_timeout.is_zero()) {
        let message = format!(
            "{why}: {} exited with status 0; {}",
            e.command,
            closed_words(e)
        );
        return broken(Outcome::ActionFailed, reason, message);
    }
    Ending {
        outcome: Outcome::Ok,
        reason: if e.facts.ran_open { "ungated" } else { "done" },
        message: format!("{} exited with status 0; {}", e.command, closed_words(e)),
        exit: Exit::Status(0),
    }
}

fn opened_by_kernel(e: &Evidence) -> String {
    format!(
        "--max-closed opened the gate {}: {} exited with status 0; {}",
        if e.closed.opened_before(e.facts.exited) {
            let advice = e.held_up.advice(e.in_rooms);
            format!("while COMMAND still ran ({advice})")
        } else {
            "before the service was ready (if it needs longer, raise --max-closed)".to_owned()
        },
        e.command,
        closed_words(e)
    )
}

/// Whether the verdict tells who does not listen any more.
pub(crate) fn tells_who_is_down(facts: &Facts) -> bool {
    let failed = |exit| exit != CommandExit::Code(0);
    facts.interrupted.is_none() && facts.exited.is_some_and(|(_, exit)| failed(exit))
}

/// COMMAND has failed, and so the run has not waited for the service.
fn down_words(e: &Evidence) -> String {
    let Some(after) = e.after.filter(|_| !e.ready_timeout.is_zero()) else {
        return String::new();
    };
    let before = e.before.lasting(&e.before.sessions);
    if before.is_empty() && after.listeners.is_empty() {
        let ports = e.gated.ports.brief();
        return format!(
            ", and nobody listens on {ports}, as before: {}",
            clients_words(e)
        );
    }
    let gone = before
        .iter()
        .filter(|old| !is_covered(old, &after.listeners));
    let listeners: Vec<Listener> = gone.cloned().collect();
    let ports = listeners.iter().map(|listener| listener.port).collect();
    let left = after.listeners.iter().map(|listener| listener.port);
    let missing = Missing {
        ports: e.gated.served_by_any(&ports),
        shared: e.gated.served_by_any(&left.collect()),
        listeners,
    };
    match missing.listeners.is_empty() {
        true => String::new(),
        false => format!(
            ", and {}{}",
            deserted(e, &missing),
            start_words(e, &missing)
        ),
    }
}

/// Who is up although COMMAND has failed. Nothing where a part is missing, or nobody has looked.
fn served_words(e: &Evidence) -> String {
    let before = e.before.lasting(&e.before.sessions);
    let Some(after) = e.after.filter(|_| !before.is_empty()) else {
        return String::new();
    };
    if !before.iter().all(|old| is_covered(old, &after.listeners)) {
        return String::new();
    }
    let is_old = |one: &&Listener| before.iter().any(|old| old.id == one.id);
    let old: Vec<&Listener> = after.listeners.iter().filter(is_old).collect();
    let (as_before, there) = match old.len() == before.len() {
        true => (" as before", old),
        false => ("", after.listeners.iter().collect()),
    };
    let inodes: Vec<u32> = there.iter().map(|one| one.inode).collect();
    let who = match names(&after.holders, &inodes) {
        none if none.is_empty() => none,
        who => format!(" by {who}"),
    };
    let ports = before.iter().map(|one| one.port).collect();
    let ports = e.gated.served_by_any(&ports).brief();
    let is = if ports.contains([',', '-']) {
        "are"
    } else {
        "is"
    };
    format!("; {ports} {is} served{as_before}{who}")
}

fn deserted(e: &Evidence, missing: &Missing) -> String {
    format!(
        "{}nobody listens on {}, and {}",
        down(e, missing),
        missing.shown(e.gated),
        clients_words(e)
    )
}

fn down(e: &Evidence, missing: &Missing) -> &'static str {
    match is_down(e, missing) {
        true => "the service is DOWN: ",
        false => "",
    }
}

/// Whether none of the listeners that were there before is left.
fn is_down(e: &Evidence, missing: &Missing) -> bool {
    let before = e.before.lasting(&e.before.sessions);
    let is_missing = |old: &Listener| missing.listeners.iter().any(|one| one.id == old.id);
    !before.is_empty() && before.iter().all(is_missing)
}

/// What becomes of new connections there.
fn clients_words(e: &Evidence) -> &'static str {
    match e.kept {
        true => "new connections wait in the rooms of syngate keep",
        false => "new connections are refused",
    }
}

/// What brings the service back. COMMAND has failed to: the same again would fail, too.
fn start_words(e: &Evidence, missing: &Missing) -> String {
    const SHORT: usize = 60;
    if e.helped_after {
        return String::new();
    }
    if e.facts.interrupted.is_some() {
        return "; COMMAND ended by a signal before it had started the service: start it now"
            .to_owned();
    }
    let log = e.log.unwrap_or("the service's log");
    let words: Vec<&str> = e.command.split(' ').collect();
    let starts = words.iter().any(|word| ["start", "restart"].contains(word));
    let then = match e.command.len() <= SHORT && starts {
        true => {
            let start = |word: &str| match word {
                "restart" if is_down(e, missing) => "start".to_owned(),
                word => word.to_owned(),
            };
            let again: Vec<String> = words.into_iter().map(start).collect();
            format!(", then {}", again.join(" "))
        }
        false => ", then start it".to_owned(),
    };
    format!("; COMMAND's output above, or {log}, tells why: correct that first{then}")
}

fn nobody_listens(e: &Evidence) -> String {
    let missing = &e.facts.missing;
    let who = names(&e.before.holders, &missing.inodes());
    let before = match who.is_empty() {
        true => "somebody".to_owned(),
        false => who,
    };
    format!(
        "{}nobody listens on {} {} after {} exited with status 0, and {}; before, {before} listened{}; if it was \
         meant to stop, use --ready-timeout 0; {}",
        down(e, missing),
        missing.shown(e.gated),
        humantime::format_duration(e.ready_timeout),
        e.command,
        clients_words(e),
        start_words(e, missing),
        closed_words(e)
    )
}

fn check_failed(e: &Evidence) -> String {
    let last = match e.facts.check_exit {
        Some(_) if !e.check_said.is_empty() => format!("the last result: {}", e.check_said),
        None => "it did not end".to_owned(),
        Some(CommandExit::Code(status @ (NOT_EXECUTABLE | NOT_FOUND))) => {
            format!("its last exit status was {status}: sh could not run it")
        }
        Some(CommandExit::Code(status)) => format!("its last exit status was {status}"),
        Some(CommandExit::Signal(signal)) => format!("{} ended it at last", signal_name(signal)),
    };
    format!(
        "{} did not succeed within {} after {} exited with status 0 ({last}{}), and the gate opened without it; {}",
        e.ready,
        humantime::format_duration(e.ready_timeout),
        e.command,
        match (e.held_up.check, e.held_up.asked_by_check) {
            (true, _) => "; the gate stopped it: use --allow-local",
            (false, true) => {
                "; the gate stopped a client of this host: if the check asks through that, use --allow-local"
            }
            (false, false) => "",
        },
        closed_words(e)
    )
}

fn signalled(e: &Evidence, signal: i32) -> Ending {
    let mut signals = e.facts.signals.all().iter();
    let by_terminal = signals.any(|(n, sender)| *n == signal && *sender != Sender::Process);
    Ending {
        outcome: Outcome::CommandSignalled,
        reason: "signal",
        message: format!(
            "{} ended {}{}; {}",
            signal_name(signal),
            e.command,
            down_words(e),
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
                "{} had exited with {}, and the signal cut --linger short",
                e.command,
                exit_words(exit)
            ),
        ),
        (Some(_), Some(_), _) => (
            "before_ready",
            format!(
                "{} had exited, and syngate did not wait until the service listens",
                e.command
            ),
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
            "--max-closed was over before COMMAND could start: COMMAND was not run",
        ),
        NotRun::Fallen => (
            "gate_fallen",
            "the gate no longer stood and could not be closed again: COMMAND was not run",
        ),
        NotRun::Abandoned(Abandoned { reason, why, .. }) => {
            return Ending::not_run(reason, format!("{why}: COMMAND was not run"));
        }
        NotRun::Signal => ("signal", "COMMAND was not run"),
    };
    Ending::not_run(reason, message)
}

fn closed_words(e: &Evidence) -> String {
    let ports = e.gated.ports.brief();
    let Some(time) = e.closed.time().map(ms_words) else {
        return format!("{ports} was never closed");
    };
    let words = e
        .words
        .map_or_else(String::new, |words| format!(", {words}"));
    let words = match e.facts.opened_early {
        true => format!(" (opened by syngate clear){words}"),
        false => words,
    };
    match e.closed.apart() {
        None => format!("{ports} was {} for {time}{words}", e.verb),
        Some(Apart { longest, others }) => format!(
            "{} was {} for {}, and {} for {}{words}",
            longest.0.brief(),
            e.verb,
            ms_words(longest.1),
            others.0.brief(),
            ms_words(others.1)
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::decide::tale::{held_by, listener, on_80};
    use crate::run::report::time::tests::closed_for;
    use crate::words::ports::PortSet;

    fn facts(exit: CommandExit) -> Facts {
        let now = Instant::now();
        Facts {
            started_at: Some(now),
            exited: Some((now, exit)),
            ..Facts::default()
        }
    }

    fn verdict(facts: &Facts, open_error: Option<&str>, held_up: HeldUp) -> Ending {
        ended(facts, (open_error, None), held_up, Duration::from_secs(10))
    }

    fn ended(
        facts: &Facts,
        (open_error, failure): (Option<&str>, Option<&Failure>),
        held_up: HeldUp,
        ready_timeout: Duration,
    ) -> Ending {
        let scene = Scene::new(&[(80, 7)], closed_for(83));
        conclude(&Evidence {
            ready_timeout,
            held_up,
            failure,
            open_error,
            ..scene.evidence(facts)
        })
    }

    fn listening(all: &[(u16, u64)]) -> Sample {
        Sample {
            listeners: all.iter().map(|one| listener(one.0, one.1)).collect(),
            ..Sample::default()
        }
    }

    /// A gate on the ports of listeners that were there before.
    struct Scene {
        gated: Gated,
        before: Sample,
        closed: Closed,
    }

    impl Scene {
        fn new(before: &[(u16, u64)], closed: Closed) -> Scene {
            Scene {
                gated: Gated {
                    ports: before.iter().map(|(port, _)| *port).collect(),
                    ..Gated::default()
                },
                before: held_by(listening(before), &[10]),
                closed,
            }
        }

        fn evidence<'a>(&'a self, facts: &'a Facts) -> Evidence<'a> {
            Evidence {
                facts,
                gated: &self.gated,
                command: "service haproxy restart",
                pid: Some(4711),
                closed: &self.closed,
                ready_timeout: Duration::from_secs(10),
                before: &self.before,
                after: None,
                log: None,
                kept: false,
                helped_after: false,
                spawn_error: None,
                held_up: HeldUp::default(),
                in_rooms: false,
                ready: "--ready-check 'up'",
                check_said: "",
                verb: "closed",
                words: Some("12 SYNs dropped"),
                failure: None,
                open_error: None,
            }
        }
    }

    #[track_caller]
    fn expect(facts: &Facts, outcome: Outcome, exit: Exit, says: &str) {
        let ending = verdict(facts, None, HeldUp::default());
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
        deserted.missing.ports = [80].into_iter().collect();
        expect(
            &deserted,
            Outcome::NotReady,
            Exit::Status(124),
            "--ready-timeout 0",
        );
        deserted.missing = Missing {
            listeners: on_80(&[7]).listeners,
            ..deserted.missing
        };
        let says = "before, nginx (pid 10) listened";
        expect(&deserted, Outcome::NotReady, Exit::Status(124), says);

        let ending = verdict(&facts(ZERO), Some("EPERM"), HeldUp::default());
        assert_eq!(ending.outcome, Outcome::OpenFailed);
        assert_eq!(ending.exit, Exit::Status(124));
    }

    /// What is left of listeners on 80 and 443 after a COMMAND that has failed.
    #[test]
    fn a_failed_command_tells_whether_the_service_is_down() {
        let failed = facts(CommandExit::Code(1));
        let scene = Scene::new(&[(80, 7), (443, 8)], closed_for(83));
        let told = |after: Option<&Sample>, within: u64, log: Option<&str>| {
            let evidence = Evidence {
                after,
                log,
                ready_timeout: Duration::from_secs(within),
                ..scene.evidence(&failed)
            };
            conclude(&evidence).message
        };
        let (none, one, both) = (
            Sample::default(),
            listening(&[(80, 9)]),
            listening(&[(80, 9), (443, 9)]),
        );
        let exited = "service haproxy restart exited with status 1";
        let closed = "80,443 was closed for 83 ms, 12 SYNs dropped";
        let down = "the service is DOWN: nobody listens on 80,443, and new connections are refused";
        let why = "tells why: correct that first, then service haproxy";
        let start = format!("COMMAND's output above, or journalctl -u haproxy, {why} start");
        assert_eq!(
            told(Some(&none), 10, Some("journalctl -u haproxy")),
            format!("{exited}, and {down}; {start}; {closed}")
        );
        let start = format!("COMMAND's output above, or the service's log, {why} restart");
        assert_eq!(
            told(Some(&one), 10, None),
            format!(
                "{exited}, and nobody listens on 443, and new connections are refused; {start}; {closed}"
            )
        );
        let kept = Evidence {
            after: Some(&none),
            kept: true,
            helped_after: true,
            ..scene.evidence(&failed)
        };
        let waits = "new connections wait in the rooms of syngate keep";
        assert_eq!(
            conclude(&kept).message,
            format!(
                "{exited}, and the service is DOWN: nobody listens on 80,443, and {waits}; {closed}"
            )
        );
        let as_ever = format!("{exited}; {closed}");
        let served = |words: &str| format!("{as_ever}; 80,443 are served{words}");
        assert_eq!(told(Some(&both), 10, None), served(""));
        let same = held_by(scene.before.clone(), &[10]);
        let by = " as before by nginx (pid 10)";
        assert_eq!(told(Some(&same), 10, None), served(by));
        assert_eq!(told(Some(&none), 0, None), as_ever, "it was to stop");
        assert_eq!(told(None, 10, None), as_ever, "it was not seen");
    }

    #[test]
    fn who_has_opened_the_gate_early_is_told() {
        let early = Facts {
            opened_early: true,
            ..facts(ZERO)
        };
        let says = "80 was closed for 83 ms (opened by syngate clear), 12 SYNs dropped";
        expect(&early, Outcome::Ok, Exit::Status(0), says);
    }

    #[test]
    fn ports_that_were_closed_longer_are_named() {
        let (at, both) = (Instant::now(), [80, 443].into_iter().collect());
        let after = |ms| at + Duration::from_millis(ms);
        let mut closed = Closed::new(at, Some((after(30_000), &both)));
        closed.now_shut(&[443].into_iter().collect(), after(98));
        closed.now_shut(&PortSet::EMPTY, after(10_000));
        let says = "443 was closed for 10.0 s, and 80 for 98 ms, 12 SYNs dropped";
        let scene = Scene::new(&[(80, 7), (443, 8)], closed);
        let message = conclude(&scene.evidence(&facts(ZERO))).message;
        assert!(message.ends_with(says), "{message}");
    }

    /// `--max-closed` was over while COMMAND ran.
    #[test]
    fn a_gate_that_the_kernel_has_opened_tells_what_helps() {
        let mut late = facts(ZERO);
        late.deadline_hit = true;
        let says = "before the service was ready";
        expect(&late, Outcome::Deadline, Exit::Status(124), says);
        let second = Duration::from_secs(1);
        late.exited = late.exited.map(|(at, exit)| (at + second, exit));
        for (command, helps) in [(true, "--allow-local"), (false, "--open-on ready")] {
            let held_up = HeldUp {
                command,
                ..HeldUp::default()
            };
            let message = verdict(&late, None, held_up).message;
            assert!(message.contains("while COMMAND still ran"), "{message}");
            assert!(message.contains(helps), "{message}");
        }
    }

    #[test]
    fn a_check_that_never_succeeded_is_told_with_its_end() {
        let mut failed = facts(ZERO);
        failed.unchecked = true;
        for (exit, says) in [
            (None, "it did not end"),
            (Some(CommandExit::Code(7)), "its last exit status was 7"),
            (Some(CommandExit::Signal(9)), "SIGKILL ended it at last"),
        ] {
            failed.check_exit = exit;
            expect(&failed, Outcome::NotReady, Exit::Status(124), says);
        }
        for (check, asked_by_check) in [(true, false), (false, true), (false, false)] {
            let held_up = HeldUp {
                check,
                asked_by_check,
                ..HeldUp::default()
            };
            let message = verdict(&failed, None, held_up).message;
            let told = check || asked_by_check;
            assert_eq!(message.contains("--allow-local"), told, "{message}");
        }
    }

    #[test]
    fn clients_that_were_lost_are_124_where_command_succeeded() {
        let failure = Failure {
            reason: "reset",
            why: "nobody listened: 5 connections were reset".to_owned(),
        };
        let ended = |facts: &Facts, ready_timeout| {
            let failure = (None, Some(&failure));
            ended(facts, failure, HeldUp::default(), ready_timeout)
        };
        let within = Duration::from_secs(10);
        let lost = ended(&facts(ZERO), within);
        assert_eq!(
            (lost.outcome, lost.reason),
            (Outcome::ActionFailed, "reset")
        );
        assert_eq!(lost.exit, Exit::Status(124));
        let says = "5 connections were reset: service haproxy restart exited with status 0; 80 was";
        assert!(lost.message.contains(says), "{lost:?}");

        let mut late = facts(ZERO);
        late.deadline_hit = true;
        let mut interrupted = facts(ZERO);
        interrupted.interrupted = Some((15, Sender::Process));
        for (facts, within, outcome, status) in [
            (
                facts(CommandExit::Code(3)),
                within,
                Outcome::CommandFailed,
                3,
            ),
            (
                facts(CommandExit::Signal(9)),
                within,
                Outcome::CommandSignalled,
                137,
            ),
            (late, within, Outcome::Deadline, 124),
            (interrupted, within, Outcome::Interrupted, 143),
            (facts(ZERO), Duration::ZERO, Outcome::Ok, 0),
        ] {
            let other = ended(&facts, within);
            assert_eq!((other.outcome, other.exit), (outcome, Exit::Status(status)));
        }
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
            "did not wait until the service listens",
        );
        after.linger_cut = true;
        let says = "the signal cut --linger short";
        expect(&after, Outcome::Interrupted, Exit::Interrupt, says);
    }

    #[test]
    fn ctrl_c_that_ended_command_ends_us() {
        let mut both = facts(CommandExit::Signal(2));
        both.signals.take(2, Sender::Terminal, Instant::now());
        expect(&both, Outcome::CommandSignalled, Exit::Interrupt, "SIGINT");
        let mut killed = facts(CommandExit::Signal(2));
        killed.signals.take(2, Sender::Process, Instant::now());
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
