//! Whether what a hit has left is as promised. Pure.

use nix::libc;
use serde_json::Value;

use crate::{
    neighbour::Neighbour,
    setting,
    trial::{Deed, Hit, Trial},
};

/// What there was when a run was over, one way or the other.
#[derive(Debug, Clone, Default)]
pub struct Left {
    /// Whether a point was reached.
    pub hit: bool,
    /// Its exit status.
    pub code: i32,
    /// How often COMMAND has begun.
    pub ran: usize,
    /// The questions of COMMAND's that were not answered.
    pub unanswered: Vec<String>,
    /// How many instances of the service run.
    pub instances: usize,
    /// The report, if one was written.
    pub report: Option<Result<Value, String>>,
    /// Of all of its processes, those that would not go; its standby is one.
    pub processes: Vec<String>,
    /// Of waiting rooms, what the kernel or the guard did not take back, nor `syngate clear` if both are dead.
    pub rooms: Vec<String>,
    /// Lines of the ruleset that were not there before.
    pub rules: Vec<String>,
    /// Lines of somebody else's rules that are not there any more.
    pub lost: Vec<String>,
    /// Queues that somebody reads.
    pub queues: String,
    /// What the service did when it was asked at last; nothing, if it answered.
    pub service: Option<String>,
    /// Which of its locks are held.
    pub locks: Vec<String>,
    /// What it has said.
    pub said: String,
}

impl Left {
    /// The report's word for how it ended.
    pub fn reason(&self) -> Option<String> {
        let report = self.report.as_ref()?.as_ref().ok()?;
        Some(report["reason"].as_str()?.to_owned())
    }
}

/// What is not as promised, in words.
pub fn violations(trial: &Trial, left: &Left) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut is_so = |so: bool, what: String| {
        if !so {
            wrong.push(what);
        }
    };
    let Left { code, ran, .. } = left;
    for (what, lines) in [
        ("rules are left", &left.rules),
        ("rules of others are gone", &left.lost),
        ("processes are left", &left.processes),
        ("locks are left", &left.locks),
        ("of waiting rooms there is left", &left.rooms),
        ("COMMAND asked, and was not answered", &left.unanswered),
    ] {
        is_so(lines.is_empty(), format!("{what}: {lines:?}"));
    }
    is_so(
        left.queues.is_empty(),
        format!("a queue is left: {}", left.queues),
    );
    is_so(
        left.service.is_none(),
        format!("the service: {:?}", left.service),
    );
    // Nothing was restarted, as a program of iptables took too long: the machine may be that busy.
    let in_vain = *code == 125 && *ran == 0 && left.said.contains("did not end in time");
    let setting = setting::named(&trial.setting);
    let may_end = |code| setting.is_some_and(|of| of.may_end_with(code, trial.subject));
    is_so(
        left.hit || may_end(*code) || in_vain,
        "it was not hit, and failed".to_owned(),
    );
    if let Some(statuses) = trial.neighbour().and_then(Neighbour::statuses) {
        let expected = statuses.contains(code) || statuses.contains(&0) && may_end(*code);
        is_so(
            expected,
            format!("status {code}, and not one of {statuses:?}"),
        );
    }
    let keeps = setting.is_some_and(|of| of.keeps());
    let shares_port = setting.is_some_and(|of| of.shares_port);
    is_so(
        left.instances <= 1 || shares_port || *code != 0,
        "two instances of the service run, and status 0".to_owned(),
    );
    is_so(*ran <= 1, format!("COMMAND ran {ran} times"));
    let panicked = left.said.contains("panicked at") || left.reason().as_deref() == Some("bug");
    is_so(!panicked, "it panicked".to_owned());
    // A child that is killed is COMMAND, for syngate, which ends as COMMAND does.
    let by_its_signal = trial.may_end_by(*code - 128);
    is_so(
        *code <= 128 || by_its_signal || before_main(trial, left, keeps),
        format!("it ended by a signal that nobody sent: {code}"),
    );
    is_so(
        // A signal that comes while the report is being written ends that.
        left.report.is_some() || keeps || trial.deeds().any(Deed::may_lose_report) || by_its_signal,
        "there is no report".to_owned(),
    );
    match &left.report {
        Some(Ok(report)) => wrong.extend(untrue(trial, left, report)),
        Some(Err(error)) => wrong.push(format!("the report is no JSON: {error}")),
        None if keeps => (),
        None => wrong.extend(untold(*code, *ran)),
    }
    wrong
}

/// Without memory, or what else they need, the loader and Rust's runtime end the process by SIGSEGV or
/// SIGABRT, before there is anything of syngate's that could. No COMMAND has run then; what is restarted beside a keep is
/// not the keep's.
fn before_main(trial: &Trial, left: &Left, keeps: bool) -> bool {
    const NEEDED: [&str; 6] = [
        "mmap",
        "mprotect",
        "munmap",
        "poll",
        "rt_sigaction",
        "sigaltstack",
    ];
    let by = [128 + libc::SIGSEGV, 128 + libc::SIGABRT];
    let early = |hit: &Hit| hit.point.phase == "start" && NEEDED.contains(&hit.point.call.as_str());
    trial.hits().any(early) && (keeps || left.ran == 0) && by.contains(&left.code)
}

/// Exit statuses speak for themselves.
fn untold(code: i32, ran: usize) -> Option<String> {
    match code {
        0 | 124 if ran == 0 => Some(format!("status {code}, and COMMAND did not run")),
        125..=127 if ran > 0 => Some(format!("status {code}, and COMMAND ran")),
        _ => None,
    }
}

fn untrue(trial: &Trial, left: &Left, report: &Value) -> Option<String> {
    let outcome = report["outcome"].as_str().unwrap_or_default();
    // The child that is to become COMMAND may end before it is that.
    let becomes = ["child", "gate-command"];
    let child = trial
        .hits()
        .any(|hit| becomes.contains(&hit.point.process.as_str()));
    // What it cannot open or is told to leave may be its first line.
    let hindered = trial.neighbour().is_some();
    let expected = match outcome {
        "ok" => left.ran == 1 && left.code == 0,
        "not_run" => left.ran == 0 && (125..=127).contains(&left.code),
        "not_ready" | "deadline" | "open_failed" | "action_failed" => {
            left.ran == 1 && left.code == 124
        }
        "command_failed" | "command_signalled" => left.ran == 1 || child || hindered,
        "interrupted" => true,
        _ => false,
    };
    let told = report["exit_status"] == left.code;
    let killed = trial.may_end_by(libc::SIGKILL) && left.code == 128 + libc::SIGKILL;
    if killed || (expected && told) {
        return None;
    }
    Some(format!(
        "the report says {outcome} ({}, {}), the status is {}, COMMAND ran {} times",
        report["reason"], report["exit_status"], left.code, left.ran
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{fault::Fault, point::Point, subject::Subject};

    fn trial(process: &str, fault: Fault) -> Trial {
        let point = Point {
            phase: "closed".to_owned(),
            process: process.to_owned(),
            call: "sendmsg".to_owned(),
        };
        Trial {
            setting: "nft, drop".to_owned(),
            subject: Subject::Plain,
            rtt_ms: 0,
            hit: Hit {
                point,
                deed: Deed::Fault(fault),
            },
            then: None,
        }
    }

    fn left(code: i32, ran: usize, outcome: &str) -> Left {
        Left {
            hit: true,
            code,
            ran,
            report: Some(Ok(json!({ "outcome": outcome, "exit_status": code }))),
            ..Left::default()
        }
    }

    #[test]
    fn statuses_and_reports_have_to_be_true() {
        let eperm = trial("syngate", Fault::Eperm);
        for (code, ran, outcome, fine) in [
            (0, 1, "ok", true),
            (0, 0, "ok", false),
            (124, 1, "not_ready", true),
            (125, 0, "not_run", true),
            (125, 1, "not_run", false),
            (0, 2, "ok", false),
            (0, 1, "nonsense", false),
            (137, 1, "ok", false),
        ] {
            let wrong = violations(&eperm, &left(code, ran, outcome));
            assert_eq!(wrong.is_empty(), fine, "{code} {ran} {outcome}: {wrong:?}");
        }
        let killed = trial("syngate", Fault::KillAfter);
        assert!(violations(&killed, &left(137, 1, "ok")).is_empty());
        let unreported = Left {
            report: None,
            ..left(0, 0, "")
        };
        assert_eq!(violations(&eperm, &unreported).len(), 1);
    }

    #[test]
    fn the_loader_may_end_what_has_not_begun() {
        let mut trial = trial("syngate", Fault::Eintr);
        trial.hit.point.phase = "start".to_owned();
        trial.hit.point.call = "mmap".to_owned();
        let ended = |code, ran| Left {
            report: None,
            ..left(code, ran, "")
        };
        let is_wrong = |trial: &Trial, code, ran| {
            let wrong = violations(trial, &ended(code, ran));
            wrong.iter().any(|line| line.contains("nobody sent"))
        };
        assert!(!is_wrong(&trial, 139, 0) && is_wrong(&trial, 139, 1));
        assert!(is_wrong(&trial, 131, 0));
        trial.setting = "keep".to_owned();
        assert!(!is_wrong(&trial, 139, 1));
        trial.hit.point.phase = "keeping".to_owned();
        assert!(is_wrong(&trial, 139, 1));
    }

    #[test]
    fn nothing_may_be_left() {
        let fine = left(0, 1, "ok");
        let trial = trial("syngate", Fault::Eperm);
        for wrong in [
            Left {
                rules: vec!["table".to_owned()],
                ..fine.clone()
            },
            Left {
                lost: vec!["table".to_owned()],
                ..fine.clone()
            },
            Left {
                rooms: vec!["1 rooms".to_owned()],
                ..fine.clone()
            },
            Left {
                unanswered: vec!["after: refused".to_owned()],
                ..fine.clone()
            },
            Left {
                instances: 2,
                ..fine.clone()
            },
            Left {
                queues: "1".to_owned(),
                ..fine.clone()
            },
            Left {
                processes: vec!["1".to_owned()],
                ..fine.clone()
            },
            Left {
                locks: vec!["1: POSIX".to_owned()],
                ..fine.clone()
            },
            Left {
                said: "panicked at src/run.rs".to_owned(),
                ..fine.clone()
            },
            Left {
                report: Some(Ok(json!({ "outcome": "ok", "exit_status": 1 }))),
                ..fine.clone()
            },
            Left {
                service: Some("refused".to_owned()),
                ..fine.clone()
            },
        ] {
            assert_eq!(violations(&trial, &wrong).len(), 1, "{wrong:?}");
        }
    }
}
