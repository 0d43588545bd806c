//! A systemd unit can't stop, restart or reload itself through syngate. systemd's job would wait for the call that
//! asks for it, or kill that call, and the gate with it. The decisions are pure.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::process::cmdline::words_of;
use crate::process::unit::Unit;
use crate::words::unit_name::{full_name, stem};

/// The verbs by which systemctl stops all processes of a unit, the caller's among them.
const STOPS: [&str; 10] = [
    "stop",
    "restart",
    "try-restart",
    "condrestart",
    "reload-or-restart",
    "try-reload-or-restart",
    "reload-or-try-restart",
    "condreload",
    "force-reload",
    "--full-restart",
];
/// The words of syngate's own that ask systemctl for the unit that is named.
const BY_NAME: [&str; 2] = ["restart", "reload"];
/// With it systemctl ends at once, and systemd does the job later.
const UNAWAITED: &str = "--no-block";

/// Exists where systemd is the host's init (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Why COMMAND must not run from here, if so.
pub(crate) fn refusal_here(command: &[OsString]) -> Option<String> {
    refusal(Unit::of_this_process().as_ref(), booted(), command)
}

/// Whether the run with that pid has asked for the unit that this process is a part of, and so waits for
/// this process.
pub(crate) fn is_waited_for_by(pid: i32) -> bool {
    words_of(pid).is_some_and(|call| waits(Unit::of_this_process().as_ref(), booted(), &call))
}

/// Whether systemd is the init.
pub(crate) fn booted() -> bool {
    Path::new(BOOTED).is_dir()
}

/// Whether the call asks for a job of its `own` unit, and waits for it.
fn waits(own: Option<&Unit>, booted: bool, call: &[OsString]) -> bool {
    let behind = call.iter().position(|word| word == "--");
    let command = behind.map_or(&[][..], |at| &call[at + 1..]);
    let asks = !is_unawaited(command) && of_own_unit(own, booted, command).is_some();
    asks || own.is_some_and(|own| names(&own.of_system, call))
}

/// Whether the call is one by name (`syngate restart web`), and the name is that of `own`.
fn names(own: &str, call: &[OsString]) -> bool {
    let mut words = call.iter().filter_map(|word| word.to_str());
    let file = words.next().and_then(|program| program.rsplit('/').next());
    let by_name = words.next().is_some_and(|verb| BY_NAME.contains(&verb));
    let is_syngate = file.is_some_and(|file| file.starts_with(env!("CARGO_PKG_NAME")));
    is_syngate && by_name && words.any(|word| full_name(word) == own)
}

/// Why a process of its `own` unit must not run `command`, if so. `booted`: systemd is the init.
fn refusal(own: Option<&Unit>, booted: bool, command: &[OsString]) -> Option<String> {
    let (verb, own) = of_own_unit(own, booted, command)?;
    let why = match verb {
        "reload" if is_unawaited(command) => "the gate would open before the reload is done",
        "reload" => "the reload would wait for itself",
        _ => "the run would be killed with the unit, and the gate with it",
    };
    let short = own.strip_suffix(".service").unwrap_or(own);
    Some(format!(
        "COMMAND would {verb} {own}, and this run is a part of that unit: {why}; in ExecReload= use syngate for the \
         signal (syngate ... -- kill -HUP $MAINPID), or call systemctl start syngate-restart@{short} from \
         elsewhere"
    ))
}

/// The verb and the unit, if `command` asks for a job of its `own` unit.
fn of_own_unit<'a>(
    own: Option<&'a Unit>,
    booted: bool,
    command: &'a [OsString],
) -> Option<(&'a str, &'a str)> {
    let own = own?.of_system.as_str();
    let words: Vec<&str> = command.iter().filter_map(|word| word.to_str()).collect();
    let (verb, units) = asked(&words, booted)?;
    let itself = units.iter().any(|name| full_name(name) == own);
    (itself && matters(verb)).then_some((verb, own))
}

/// The command that shows the log of the unit that `command` asks systemd for.
pub(crate) fn log_of(command: &[OsString]) -> Option<String> {
    log(command, booted())
}

fn log(command: &[OsString], booted: bool) -> Option<String> {
    let words: Vec<&str> = command.iter().filter_map(|word| word.to_str()).collect();
    let (_, units) = asked(&words, booted)?;
    let [unit] = units[..] else { return None };
    Some(format!("journalctl -u {}", stem(&full_name(unit))))
}

fn is_unawaited(command: &[OsString]) -> bool {
    command.iter().any(|word| word == UNAWAITED)
}

fn matters(verb: &str) -> bool {
    verb == "reload" || STOPS.contains(&verb)
}

/// The verb and the units that `command` asks systemd for.
fn asked<'a>(command: &[&'a str], booted: bool) -> Option<(&'a str, Vec<&'a str>)> {
    let (program, words) = command.split_first()?;
    let path = Path::new(*program);
    let name = path.file_name().and_then(OsStr::to_str)?;
    let mut plain = words.iter().copied().filter(|word| !word.starts_with('-'));
    match name {
        "systemctl" if words.iter().any(|word| is_elsewhere(word)) => None,
        // Options and their values may come before the verb.
        "systemctl" => {
            let verb = plain.find(|word| matters(word))?;
            Some((verb, plain.collect()))
        }
        // These call systemctl, if systemd is the init.
        "service" | "invoke-rc.d" if booted => {
            let unit = plain.next()?;
            let verb = words.iter().copied().find(|word| matters(word))?;
            Some((verb, vec![unit]))
        }
        _ if booted && path.parent() == Some(Path::new("/etc/init.d")) => {
            Some((plain.next()?, vec![name]))
        }
        _ => None,
    }
}

/// An option that names another manager: that of another host, a container, or a user.
fn is_elsewhere(word: &str) -> bool {
    ["-H", "-M", "--host", "--machine", "--user"]
        .iter()
        .any(|option| word.starts_with(option))
}

/// What holds for any text as a process's control groups.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let own = Unit::read(text);
    let name = own.as_ref().map(|unit| unit.of_system.as_str());
    let command = ["systemctl", "restart", name.unwrap_or("none")].map(OsString::from);
    let recognised = name.is_some_and(|unit| !unit.starts_with('-'));
    assert_eq!(refusal(own.as_ref(), false, &command).is_some(), recognised);
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "0::/system.slice/haproxy.service\n";

    fn says(cgroups: &str, booted: bool, command: &str) -> Option<String> {
        let words: Vec<OsString> = command.split(' ').map(OsString::from).collect();
        refusal(Unit::read(cgroups).as_ref(), booted, &words)
    }

    #[test]
    fn a_unit_does_not_ask_for_itself() {
        for command in [
            "systemctl restart haproxy",
            "/bin/systemctl restart haproxy.service",
            "systemctl reload haproxy",
            "systemctl stop haproxy",
            "systemctl try-restart haproxy",
            "systemctl reload-or-restart haproxy",
            "systemctl force-reload nginx haproxy",
            "systemctl --no-block restart haproxy",
            "systemctl restart --no-block haproxy",
            "systemctl -q --job-mode replace restart haproxy",
            "systemctl reload --no-block haproxy",
            "systemctl condreload haproxy",
        ] {
            assert!(says(V2, false, command).is_some(), "{command}");
        }
        let template = "0::/system.slice/system-app.slice/app@1.service";
        assert!(says(template, false, "systemctl restart app@1").is_some());
        assert!(says(template, false, "systemctl restart app@2").is_none());
    }

    #[test]
    fn the_log_of_the_unit_that_is_asked_for() {
        let of = |booted, command: &str| {
            let words: Vec<OsString> = command.split(' ').map(OsString::from).collect();
            log(&words, booted)
        };
        let haproxy = Some("journalctl -u haproxy".to_owned());
        assert_eq!(of(false, "systemctl restart haproxy.service"), haproxy);
        assert_eq!(of(true, "service haproxy restart"), haproxy);
        for (booted, command) in [
            (false, "service haproxy restart"),
            (true, "systemctl restart haproxy nginx"),
            (true, "systemctl --user restart haproxy"),
            (true, "haproxy -D"),
        ] {
            assert_eq!(of(booted, command), None, "{command}");
        }
    }

    #[test]
    fn other_orders_to_systemctl_are_fine() {
        for command in [
            "systemctl restart nginx",
            "systemctl restart haproxy.socket",
            "systemctl status haproxy",
            "systemctl daemon-reload",
            "systemctl --user restart haproxy",
            "systemctl -H other restart haproxy",
            "systemctl --host=other restart haproxy",
            "systemctl -Mbox restart haproxy",
            "systemctl restart",
            "systemctl",
            "kill -USR2 17",
            "sh -c systemctl",
            "echo systemctl restart haproxy",
            "",
        ] {
            assert_eq!(says(V2, true, command), None, "{command}");
        }
        let elsewhere = "0::/system.slice/syngate-restart@haproxy.service";
        assert_eq!(says(elsewhere, true, "systemctl restart haproxy"), None);
        assert_eq!(says("0::/\n", true, "systemctl restart haproxy"), None);
    }

    #[test]
    fn what_calls_systemctl_does_so_where_systemd_is_the_init() {
        for command in [
            "service haproxy restart",
            "/usr/sbin/service haproxy reload",
            "service haproxy --full-restart",
            "invoke-rc.d haproxy force-reload",
            "/etc/init.d/haproxy restart",
        ] {
            assert!(says(V2, true, command).is_some(), "{command}");
            assert_eq!(says(V2, false, command), None, "{command}");
        }
        for command in [
            "service nginx restart",
            "service haproxy status",
            "service haproxy",
            "/opt/init.d/haproxy restart",
            "/etc/init.d/haproxy",
        ] {
            assert_eq!(says(V2, true, command), None, "{command}");
        }
    }

    #[test]
    fn a_run_that_has_asked_for_us_waits_for_us() {
        let waits = |call: &str| {
            let words: Vec<OsString> = call.split(' ').map(OsString::from).collect();
            waits(Unit::read(V2).as_ref(), true, &words)
        };
        assert!(waits("syngate --port 80 -- systemctl reload haproxy "));
        assert!(waits("syngate -- service haproxy reload "));
        assert!(waits("syngate restart haproxy"));
        assert!(waits("/usr/bin/syngate reload --drain 2s haproxy.service"));
        for call in [
            "syngate -- systemctl --no-block reload haproxy ",
            "syngate -- systemctl reload nginx ",
            "syngate -- kill -HUP 17 ",
            "systemctl reload haproxy ",
            "syngate restart nginx",
            "syngate status haproxy",
            "syngate run haproxy",
            "syngate --",
            "",
        ] {
            assert!(!waits(call), "{call}");
        }
    }

    #[test]
    fn the_line_says_why_and_what_would_be_right() {
        let line = says(V2, false, "systemctl reload haproxy").unwrap();
        for word in [
            "reload haproxy.service",
            "wait for itself",
            "ExecReload=",
            "$MAINPID",
        ] {
            assert!(line.contains(word), "{word}: {line}");
        }
        let line = says(V2, false, "systemctl --no-block reload haproxy").unwrap();
        assert!(line.contains("before the reload is done"), "{line}");
        let line = says(V2, false, "systemctl restart haproxy").unwrap();
        assert!(line.contains("killed"), "{line}");
        assert!(
            line.contains("systemctl start syngate-restart@haproxy from"),
            "{line}"
        );
    }
}
