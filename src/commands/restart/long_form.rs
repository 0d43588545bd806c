//! Makes the call in its long form, from the command line, the profile, and what was found. Pure.

use std::ffi::{OsStr, OsString};

use crate::cli::{Given, NamedArgs, Profile};
use crate::commands::long_form::{
    LongForm, PORT, PRECHECK, RELOAD, SYN, add, option, to_write, value_of,
};
use crate::commands::rivals::exclude_each_other;

/// What syngate found, for the options that nobody has given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FoundOptions {
    /// As `--port` takes them.
    pub(super) ports: Option<String>,
    pub(super) work: Work,
    pub(super) precheck: Option<String>,
}

/// What COMMAND does with the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Work {
    Restarts,
    Reloads,
    /// Nobody knows: it is the command of a profile.
    #[default]
    Unknown,
}

/// Of a profile, not for reloads that hand over: with them, `auto` could not. Other actions drain before a reload, too.
const OF_RESTARTS: [&str; 4] = ["drain", "drain-cmd", "drain-until", "open-on"];

/// The action where nobody names one.
const ACTION: &str = "auto";
/// The action of reloads alone. It drains nothing, as `auto` does for them where it can be done.
const HANDOVER: &str = "handover";

/// The command line wins over the environment, that over the profile, and the profile over what was found.
pub(super) fn long_form(
    args: &NamedArgs,
    profile: Option<&Profile>,
    found: &FoundOptions,
    command: Vec<OsString>,
) -> LongForm {
    let mut options = to_write(&args.given);
    let of_profile = profile.map(|profile| beside(&args.given, &profile.options));
    let of_profile = of_profile.unwrap_or_default();
    let action = value_of(SYN, &options).or_else(|| value_of(SYN, &of_profile));
    let action = action.unwrap_or(OsStr::new(ACTION)).to_owned();
    let drains_nothing = action == ACTION || action == HANDOVER;
    let left_out = |one: &Given| {
        let is = |long: &str| one.long == long;
        (args.no_precheck && is(PRECHECK))
            || args.off.contains(&one.long)
            || match found.work {
                // A restart ends the listeners, which nothing can hand over then.
                Work::Restarts => is(RELOAD),
                Work::Reloads => drains_nothing && OF_RESTARTS.into_iter().any(is),
                Work::Unknown => false,
            }
    };
    for one in of_profile.into_iter().filter(|one| !left_out(one)) {
        add(&mut options, one);
    }
    let of_found = [(PORT, &found.ports), (PRECHECK, &found.precheck)];
    for (long, value) in of_found {
        let one = value.as_ref().map(|value| option(long, Some(value)));
        one.into_iter().for_each(|one| add(&mut options, one));
    }
    add(&mut options, option(SYN, Some(ACTION)));
    if found.work == Work::Reloads && action == ACTION {
        add(&mut options, option(RELOAD, None));
    }
    LongForm::new(options, command)
}

/// Those of a profile that can stand beside what was given, which wins.
fn beside(given: &[Given], profile: &[Given]) -> Vec<Given> {
    let mut higher = given.to_vec();
    let lost =
        |one: &Given, higher: &[Given]| higher.iter().any(|other| exclude_each_other(one, other));
    // Without the profile's action, what it says for that action is lost, too.
    if profile
        .iter()
        .any(|one| one.long == SYN && lost(one, given))
    {
        add(&mut higher, option(SYN, Some(ACTION)));
    }
    let kept = profile.iter().filter(|one| !lost(one, &higher));
    kept.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::command_line::os_words;

    fn given(options: &[(&str, &str)]) -> Vec<Given> {
        let one =
            |(long, value): &(&str, &str)| option(long, (!value.is_empty()).then_some(*value));
        options.iter().map(one).collect()
    }

    fn args(given: Vec<Given>, no_precheck: bool) -> NamedArgs {
        NamedArgs {
            given,
            no_precheck,
            ..NamedArgs::of("web.service")
        }
    }

    fn found() -> FoundOptions {
        FoundOptions {
            ports: Some("80,443".to_owned()),
            work: Work::Restarts,
            precheck: Some("web -t".to_owned()),
        }
    }

    fn command() -> Vec<OsString> {
        os_words(&["systemctl", "restart", "web.service"])
    }

    const COMMAND: &str = "-- systemctl restart web.service";

    #[test]
    fn what_is_found_stands_where_nobody_has_given_it() {
        let form = long_form(&args(Vec::new(), false), None, &found(), command());
        let shown = format!("syngate --port 80,443 --syn auto --precheck 'web -t' {COMMAND}");
        assert_eq!(form.shown(), shown);
        assert_eq!(form.precheck(), Some(OsStr::new("web -t")));
        let mine = given(&[
            ("port", "80"),
            ("port", "81"),
            ("dry-run", ""),
            ("precheck", "-x"),
            ("syn", "hold"),
        ]);
        let form = long_form(&args(mine, false), None, &found(), command());
        let shown = format!("syngate --port 80 --port 81 --syn hold --precheck=-x {COMMAND}");
        assert_eq!(form.shown(), shown);
        assert!(form.words().contains(&"--dry-run".into()));
    }

    #[test]
    fn a_profile_stands_between_what_is_given_and_what_is_found() {
        let profile = Profile {
            options: given(&[("drain", "5s"), ("port", "8080"), ("precheck", "own")]),
            ..Profile::default()
        };
        let mine = given(&[("drain", "1s")]);
        let form = |no_precheck: bool| {
            let found = FoundOptions {
                precheck: found().precheck.filter(|_| !no_precheck),
                ..found()
            };
            let args = args(mine.clone(), no_precheck);
            long_form(&args, Some(&profile), &found, command()).shown()
        };
        let shown = format!("syngate --port 8080 --syn auto --drain 1s --precheck own {COMMAND}");
        assert_eq!(form(false), shown);
        let shown = format!("syngate --port 8080 --syn auto --drain 1s {COMMAND}");
        assert_eq!(form(true), shown);
    }

    /// A reload that hands over drains nothing.
    #[test]
    fn what_a_profile_says_of_the_drain_is_for_actions_that_drain() {
        let profile = Profile {
            options: given(&[("drain", "5s"), ("drain-cmd", "bye"), ("settle", "1s")]),
            ..Profile::default()
        };
        let form = |reload: bool, mine: &[(&str, &str)]| {
            let work = match reload {
                true => Work::Reloads,
                false => Work::Restarts,
            };
            let found = FoundOptions {
                work,
                ..FoundOptions::default()
            };
            let args = args(given(mine), false);
            long_form(&args, Some(&profile), &found, command()).shown()
        };
        let shown = format!("syngate --syn auto --drain 5s --drain-cmd bye --settle 1s {COMMAND}");
        assert_eq!(form(false, &[]), shown);
        let shown = format!("syngate --syn auto --reload --settle 1s {COMMAND}");
        assert_eq!(form(true, &[]), shown);
        let shown = format!("syngate --syn auto --reload --drain 1s --settle 1s {COMMAND}");
        assert_eq!(form(true, &[("drain", "1s")]), shown);
        let shown = format!("syngate --syn hold --drain 5s --drain-cmd bye --settle 1s {COMMAND}");
        assert_eq!(form(true, &[("syn", "hold")]), shown, "it drains");
    }

    /// It says which actions `auto` may take.
    #[test]
    fn a_reload_is_told_to_auto_alone() {
        let reload = FoundOptions {
            work: Work::Reloads,
            ..FoundOptions::default()
        };
        for (options, shown) in [
            (&[][..], "--syn auto --reload"),
            (&[("syn", "auto")], "--syn auto --reload"),
            (&[("syn", "auto"), ("reload", "")], "--syn auto --reload"),
            (&[("syn", "hold")], "--syn hold"),
        ] {
            let form = long_form(&args(given(options), false), None, &reload, command());
            assert_eq!(form.shown(), format!("syngate {shown} {COMMAND}"));
        }
    }

    /// It is for the reload of the same service, or for the command of the profile.
    #[test]
    fn a_restart_by_its_name_is_no_reload() {
        let profile = Profile {
            options: given(&[("reload", "")]),
            ..Profile::default()
        };
        for (work, mine, shown) in [
            (Work::Restarts, &[][..], "--syn auto"),
            (Work::Restarts, &[("reload", "")], "--syn auto --reload"),
            (Work::Reloads, &[], "--syn auto --reload"),
            (Work::Unknown, &[], "--syn auto --reload"),
        ] {
            let found = FoundOptions {
                work,
                ..FoundOptions::default()
            };
            let args = args(given(mine), false);
            let form = long_form(&args, Some(&profile), &found, command());
            assert_eq!(form.shown(), format!("syngate {shown} {COMMAND}"));
        }
    }

    #[test]
    fn a_switch_that_the_environment_turns_off_stays_off() {
        let profile = Profile {
            options: given(&[("reload", ""), ("best-effort", "")]),
            ..Profile::default()
        };
        let args = NamedArgs {
            off: vec!["reload".to_owned()],
            ..args(Vec::new(), false)
        };
        let found = FoundOptions::default();
        let form = long_form(&args, Some(&profile), &found, command());
        let shown = format!("syngate --syn auto --best-effort {COMMAND}");
        assert_eq!(form.shown(), shown);
    }

    #[test]
    fn what_the_environment_says_of_this_call_the_run_reads_itself() {
        let of = |long: &str, value: Option<&str>| Given {
            by_environment: true,
            ..option(long, value)
        };
        let mine = vec![
            of("quiet", None),
            of("drain", Some("2s")),
            of("dry-run", None),
        ];
        let form = long_form(
            &args(mine, false),
            None,
            &FoundOptions::default(),
            command(),
        );
        let words: Vec<String> = form
            .words()
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            words.join(" "),
            format!("syngate --syn auto --drain 2s {COMMAND}")
        );
    }
}
