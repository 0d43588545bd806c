//! The ways to restart a service: each is a shell script around the command that restarts it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use testkit::{CROSS_B, VIP};

/// How a service is restarted.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The command, and nothing else
    #[default]
    Bare,
    /// Drop SYNs by iptables, sleep 1, the command, and undo
    Folk,
    /// The same without the sleep
    FolkNoSleep,
    /// A second instance, and NAT to it by hand meanwhile
    Flip,
    /// A qdisc that parks the SYNs of local clients (sch_plug)
    Plug,
    /// syngate --syn drop
    Drop,
    /// syngate --syn hold
    Hold,
    /// syngate --syn park
    Park,
    /// syngate --syn handover
    Handover,
    /// syngate --syn redirect, to a second instance
    Redirect,
    /// syngate --syn divert, to a second host
    Divert,
}

/// What a way is made of besides the command.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The syngate to use.
    pub syngate: &'a Path,
    /// More options for it.
    pub options: &'a str,
    /// Where its report goes.
    pub report: &'a Path,
    /// Where recipes write down when they have closed and opened, and the others when syngate began;
    /// in ns.
    pub clock: &'a Path,
}

/// An option for reloads; handover drains nothing, and excludes it.
pub const RELOAD: &str = "--drain-until handshakes";
/// The second instance's port.
pub const STANDBY: u16 = 8080;

impl Way {
    /// All of them, in the order of the tables.
    pub const ALL: [Way; 11] = [
        Way::Bare,
        Way::Folk,
        Way::FolkNoSleep,
        Way::Flip,
        Way::Plug,
        Way::Drop,
        Way::Hold,
        Way::Park,
        Way::Handover,
        Way::Redirect,
        Way::Divert,
    ];

    /// Its name in the tables.
    pub fn title(self) -> &'static str {
        match self {
            Way::Bare => "bare",
            Way::Folk => "folk recipe",
            Way::FolkNoSleep => "folk recipe without sleep",
            Way::Flip => "two instances, flipped by hand",
            Way::Plug => "plug qdisc (local clients)",
            Way::Drop => "syngate, drop",
            Way::Hold => "syngate, hold",
            Way::Park => "syngate, park",
            Way::Handover => "syngate, handover",
            Way::Redirect => "syngate, redirect",
            Way::Divert => "syngate, divert",
        }
    }

    /// Whether syngate does it, and so writes a report.
    pub fn is_syngate(self) -> bool {
        matches!(
            self,
            Way::Drop | Way::Hold | Way::Park | Way::Handover | Way::Redirect | Way::Divert
        )
    }

    /// Whether it is measured on hosts that are made for it alone: see [`crate::restart::Net`].
    pub fn has_its_own_net(self) -> bool {
        matches!(self, Way::Divert | Way::Plug)
    }

    /// Whether it needs the second instance.
    pub fn needs_standby(self) -> bool {
        matches!(self, Way::Flip | Way::Redirect)
    }

    /// The script that restarts a service on port 80 by `command`.
    pub fn script(self, command: &str, parts: &Parts) -> String {
        match self {
            Way::Bare => command.to_owned(),
            Way::Folk => recipe(DROP, &format!("sleep 1\n{command}"), parts),
            Way::FolkNoSleep => recipe(DROP, command, parts),
            Way::Flip => recipe(
                &format!("PREROUTING -t nat -p tcp --dport 80 -j REDIRECT --to-ports {STANDBY}"),
                command,
                parts,
            ),
            Way::Plug => plug(command, parts),
            Way::Drop => syngate("drop", command, parts),
            Way::Hold => syngate("hold", command, parts),
            Way::Park => syngate("park", command, parts),
            Way::Handover => {
                let options = &parts.options.replace(RELOAD, "");
                syngate("handover", command, &Parts { options, ..*parts })
            }
            Way::Redirect => syngate(&format!("redirect={STANDBY}"), command, parts),
            Way::Divert => {
                let action = format!("divert={CROSS_B} --to {VIP}");
                syngate(&action, command, parts)
            }
        }
    }
}

const DROP: &str = "INPUT -p tcp --dport 80 --syn -j DROP";

/// As it stands in forums: a rule, the command, the rule away.
fn recipe(rule: &str, command: &str, parts: &Parts) -> String {
    let clock = parts.clock.display();
    format!(
        "iptables -I {rule}\ndate +%s%N >{clock}\n{command}\n\
         iptables -D {rule}\ndate +%s%N >>{clock}\n"
    )
}

/// Makes the qdisc, which begins blocked, and opens it: as Yelp does, whose clients connect to a proxy
/// on their own host.
pub const MAKE_PLUG: &str = "\
tc qdisc add dev lo root handle 1: prio bands 4
tc qdisc add dev lo parent 1:4 handle 40: plug limit 1048576
tc qdisc change dev lo parent 1:4 handle 40: plug release_indefinite
tc filter add dev lo protocol ip parent 1:0 prio 1 handle 1 fw classid 1:4
iptables -t mangle -I OUTPUT -p tcp -o lo --dport 80 --syn -j MARK --set-mark 1";

/// The SYNs wait in it meanwhile.
fn plug(command: &str, parts: &Parts) -> String {
    let clock = parts.clock.display();
    let plug = "tc qdisc change dev lo parent 1:4 handle 40: plug";
    format!(
        "{plug} block\ndate +%s%N >{clock}\n{command}\n\
         {plug} release_indefinite\ndate +%s%N >>{clock}\n"
    )
}

/// As one word of a shell's.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn syngate(action: &str, command: &str, parts: &Parts) -> String {
    let Parts {
        syngate,
        options,
        report,
        clock,
    } = parts;
    let (syngate, report, clock) = (syngate.display(), report.display(), clock.display());
    // As people call it: a shell of its own only for what needs one.
    let command = match command.contains([';', '&', '|', '\n']) {
        true => format!("sh -c {}", quoted(command)),
        false => command.to_owned(),
    };
    format!(
        "date +%s%N >{clock}\n\
         {syngate} -q --port 80 --syn {action} {options} --report-file {report} -- {command}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_removes_what_it_inserts() {
        let parts = Parts {
            syngate: Path::new("/s"),
            options: "",
            report: Path::new("/r"),
            clock: Path::new("/c"),
        };
        for way in [Way::Folk, Way::FolkNoSleep, Way::Flip] {
            let script = way.script("restart it", &parts);
            let rule = |prefix: &str| {
                let line = script.lines().find_map(|line| line.strip_prefix(prefix));
                line.unwrap().to_owned()
            };
            assert_eq!(rule("iptables -I "), rule("iptables -D "), "{script}");
            assert!(script.contains("\nrestart it\n"), "{script}");
        }
    }

    #[test]
    fn quotes_reach_the_shell_that_they_are_for() {
        let parts = Parts {
            syngate: Path::new("echo"),
            options: "",
            report: Path::new("/r"),
            clock: Path::new("/dev/null"),
        };
        for (command, called) in [
            ("kill '1'", "kill 1"),
            ("kill '1'; start", "sh -c kill '1'; start"),
        ] {
            let script = Way::Drop.script(command, &parts);
            let ran = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            let said = String::from_utf8(ran.unwrap().stdout).unwrap();
            assert!(said.ends_with(&format!("-- {called}\n")), "{said}");
        }
    }
}
