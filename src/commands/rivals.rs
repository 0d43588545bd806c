//! Which options exclude each other, so that one that is given leaves out a profile's. The run itself refuses such
//! pairs where one and the same call has both. Pure.

use std::ffi::OsStr;

use crate::cli::Given;
use crate::words::duration::duration;

/// An option, and for which of its values the row is.
type Side = (&'static str, fn(&str) -> bool);

/// Any value, or none.
const ANY: fn(&str) -> bool = |_| true;
/// A duration of nothing: `0`, `0s`, `0ms`.
const NO_TIME: fn(&str) -> bool = |value| duration(value).is_ok_and(|duration| duration.is_zero());
const SOME_TIME: fn(&str) -> bool = |value| !NO_TIME(value);
/// Of `--syn`: nothing is drained.
const HANDOVER: fn(&str) -> bool = |action| action == "handover";
/// Of `--syn`: connections wait in sockets, and no rule tells them apart.
const ROOMS: fn(&str) -> bool = |action| ["park", "handover"].contains(&action);
/// Of `--syn`: `--reload` says nothing of it.
const NO_RELOAD: fn(&str) -> bool = |action| !["auto", "handover"].contains(&action);
const NO_STANDBY: fn(&str) -> bool = |action| !action.starts_with("redirect");
const NO_PEER: fn(&str) -> bool = |action| !action.starts_with("divert");

const RIVALS: &[(Side, Side)] = &[
    (("quiet", ANY), ("verbose", ANY)),
    (("ready-check", ANY), ("ready-url", ANY)),
    (("ready-check", ANY), ("ready-timeout", NO_TIME)),
    (("ready-url", ANY), ("ready-timeout", NO_TIME)),
    (("ready-insecure", ANY), ("ready-check", ANY)),
    (("ready-insecure", ANY), ("ready-timeout", NO_TIME)),
    (
        ("ready-insecure", ANY),
        ("ready-url", |url| !url.starts_with("https:")),
    ),
    (
        ("open-on", |when| when == "ready"),
        ("ready-timeout", NO_TIME),
    ),
    (("listen-netns", ANY), ("listen-netns-from", ANY)),
    (
        ("interface", |names| {
            names.split(',').any(|name| name == "lo")
        }),
        ("allow-local", ANY),
    ),
    (("drain-cmd", ANY), ("drain", NO_TIME)),
    (("drain-cmd", ANY), ("reload", ANY)),
    (("drain-cmd", ANY), ("syn", HANDOVER)),
    (("drain", SOME_TIME), ("syn", HANDOVER)),
    (("drain-until", ANY), ("syn", HANDOVER)),
    (("open-on", ANY), ("syn", HANDOVER)),
    (("open-on", |when| when == "exit"), ("syn", ROOMS)),
    (("reload", ANY), ("syn", NO_RELOAD)),
    (("standby", ANY), ("syn", NO_STANDBY)),
    (("standby-check", ANY), ("syn", NO_STANDBY)),
    (("no-peer-check", ANY), ("syn", NO_PEER)),
    (("max-held-per-source", ANY), ("syn", ROOMS)),
    (("queue-num", ANY), ("syn", ROOMS)),
    (("release-timeout", ANY), ("syn", ROOMS)),
    (("backend", |name| name != "auto"), ("syn", ROOMS)),
    (("interface", ANY), ("syn", ROOMS)),
    (("allow-from", ANY), ("syn", ROOMS)),
    (("allow-local", ANY), ("syn", ROOMS)),
    (("hook", |hook| hook == "prerouting"), ("syn", ROOMS)),
];

/// Whether the run would refuse a call with both.
pub(super) fn exclude_each_other(one: &Given, other: &Given) -> bool {
    let pairs = RIVALS.iter();
    { pairs }.any(|(a, b)| (is(one, a) && is(other, b)) || (is(one, b) && is(other, a)))
}

fn is(one: &Given, (long, fits): &Side) -> bool {
    let value = one.value.as_deref().and_then(OsStr::to_str);
    one.long == *long && fits(value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(long: &str, value: &str) -> Given {
        Given {
            long: long.to_owned(),
            value: (!value.is_empty()).then(|| value.into()),
            by_environment: false,
        }
    }

    #[test]
    fn rivals_are_told_from_options_that_go_together() {
        for (long, value, other, its, rivals) in [
            ("ready-url", "http://x/", "ready-check", "true", true),
            ("drain", "0", "drain-cmd", "bye", true),
            ("drain", "0s", "drain-cmd", "bye", true),
            ("drain", "1s", "drain-cmd", "bye", false),
            ("syn", "hold", "standby", "web", true),
            ("syn", "redirect=8080", "standby", "web", false),
            ("syn", "hold", "reload", "", true),
            ("syn", "auto", "reload", "", false),
            ("verbose", "", "quiet", "", true),
            ("interface", "eth0,lo", "allow-local", "", true),
            ("interface", "eth0", "allow-local", "", false),
            ("port", "80", "port", "81", false),
        ] {
            let (one, other) = (one(long, value), one(other, its));
            assert_eq!(
                exclude_each_other(&one, &other),
                rivals,
                "{one:?} {other:?}"
            );
            assert_eq!(
                exclude_each_other(&other, &one),
                rivals,
                "{one:?} {other:?}"
            );
        }
    }

    /// A misspelt row would never apply.
    #[test]
    fn the_table_has_options_of_runs() {
        let command = <crate::cli::Args as clap::CommandFactory>::command();
        let longs: Vec<&str> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .collect();
        for (a, b) in RIVALS {
            assert!(
                longs.contains(&a.0) && longs.contains(&b.0),
                "{} {}",
                a.0,
                b.0
            );
        }
    }
}
