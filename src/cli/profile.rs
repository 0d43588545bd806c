//! A profile, checked: its keys are options, and its values are such as these options take.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::{Arg, Command};

use super::errors::one_line;
use super::named::{Given, optional, run_options};
use crate::words::meant::{meant, question};
use crate::words::profile::{Line, lines};
use crate::words::split::split;

/// What a profile has besides options of a run.
const COMMAND: &str = "command";
const NO_PRECHECK: &str = "no-precheck";
/// An option that is for somebody who types the call.
const TYPED_ONLY: &str = "dry-run";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) file: PathBuf,
    /// In the order of its lines.
    pub(crate) options: Vec<Given>,
    pub(crate) no_precheck: bool,
    /// The words of COMMAND. Empty: it names none.
    pub(crate) command: Vec<String>,
}

impl Profile {
    /// Reads the bytes of that file.
    ///
    /// # Errors
    /// One line that names the file, the line, the key, its value, and what would be right.
    pub(crate) fn read(file: &Path, bytes: &[u8]) -> Result<Profile, String> {
        let at = |number: usize, why: &str| format!("{}, line {number}: {why}", file.display());
        let lines = lines(bytes).map_err(|wrong| at(wrong.number, &wrong.why))?;
        let mut profile = Profile {
            file: file.to_owned(),
            ..Profile::default()
        };
        let options = run_options();
        for line in &lines {
            let taken = profile.take(line, &options);
            taken.map_err(|why| at(line.number, &why))?;
        }
        Ok(profile)
    }

    fn take(&mut self, line: &Line, options: &Command) -> Result<(), String> {
        let (key, value) = (line.key.as_str(), line.value.as_str());
        let wrong = |why: String| format!("{key}: '{value}': {why}");
        match key {
            NO_PRECHECK => self.no_precheck = yes_or_no(value).map_err(wrong)?,
            COMMAND => {
                self.command = split(value).map_err(wrong)?;
                if self.command.is_empty() {
                    return Err(wrong(
                        "expected a command, such as service web restart".to_owned(),
                    ));
                }
            }
            _ => {
                let option = option(key, options).ok_or_else(|| unknown(key, options))?;
                self.options.extend(given(option, key, value)?);
            }
        }
        Ok(())
    }
}

fn option<'a>(key: &str, options: &'a Command) -> Option<&'a Arg> {
    let mut all = options.get_arguments();
    all.find(|arg| arg.get_long() == Some(key) && key != TYPED_ONLY)
}

fn unknown(key: &str, options: &Command) -> String {
    let all = options.get_arguments().filter_map(Arg::get_long);
    let all = all.filter(|long| *long != TYPED_ONLY);
    let all = all.chain([COMMAND, NO_PRECHECK]);
    let meant = meant(key.trim_start_matches("syngate-"), all).map(str::to_owned);
    format!(
        "{key}: there is no such key; expected the name of an option of syngate, or {COMMAND}{}",
        question(meant)
    )
}

/// `None`: the option is switched off.
fn given(option: &Arg, key: &str, value: &str) -> Result<Option<Given>, String> {
    let one = |value| Given {
        long: key.to_owned(),
        value,
        by_environment: false,
    };
    if !option.get_action().takes_values() {
        let on = yes_or_no(value).map_err(|why| format!("{key}: '{value}': {why}"))?;
        return Ok(on.then(|| one(None)));
    }
    let word = OsString::from(format!("--{key}={value}"));
    let words = [OsString::from("syngate"), word];
    let alone = optional(option.clone()).env(None);
    let command = Command::new("syngate").no_binary_name(false).arg(alone);
    match command.try_get_matches_from(&words) {
        Ok(_) => Ok(Some(one(Some(value.into())))),
        Err(error) => {
            let why = one_line(&error, &words);
            Err(why.trim_start_matches('-').to_owned())
        }
    }
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    let read = BoolishValueParser::new().parse_ref(&Command::new(""), None, OsStr::new(value));
    read.map_err(|_| "expected yes or no".to_owned())
}

/// What holds for any bytes as a profile.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    crate::words::profile::withstand(bytes);
    let file = Path::new("/etc/syngate/web.conf");
    match Profile::read(file, bytes) {
        Ok(profile) => assert!(profile.options.iter().all(|one| !one.long.is_empty())),
        Err(why) => assert!(why.starts_with("/etc/syngate/web.conf, line "), "{why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Profile, String> {
        Profile::read(Path::new("/etc/syngate/web.conf"), text.as_bytes())
    }

    #[test]
    fn a_profile_has_options_and_a_command() {
        let text = "port=80,443\nSYN=hold\nready_timeout=20s\nreload=no\nbest_effort=yes\n\
                    precheck=\"web -t -c '/etc/web conf'\"\nno-precheck=no\ncommand=service 'web' restart\n";
        let profile = read(text).unwrap();
        let shown: Vec<String> = profile
            .options
            .iter()
            .map(|one| match &one.value {
                Some(value) => format!("{}={}", one.long, value.to_string_lossy()),
                None => one.long.clone(),
            })
            .collect();
        let expected = [
            "port=80,443",
            "syn=hold",
            "ready-timeout=20s",
            "best-effort",
            "precheck=web -t -c '/etc/web conf'",
        ];
        assert_eq!(shown, expected);
        assert_eq!(profile.command, ["service", "web", "restart"]);
        assert!(!profile.no_precheck);
        assert!(read("no_precheck=yes").unwrap().no_precheck);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_key_and_value() {
        for (text, says) in [
            (
                "port=80\ndrain=5",
                "line 2: drain: '5': a number without a unit; expected ",
            ),
            ("syn=hodl", "line 1: syn: 'hodl': expected drop, hold"),
            (
                "open_on=never",
                "line 1: open-on: 'never' is not one of its values; expected ",
            ),
            ("port=", "line 1: port"),
            (
                "reload=maybe",
                "line 1: reload: 'maybe': expected yes or no",
            ),
            (
                "no_precheck=x",
                "line 1: no-precheck: 'x': expected yes or no",
            ),
            (
                "prot=80",
                "line 1: prot: there is no such key; expected the name of an option",
            ),
            ("prot=80", "did you mean port?"),
            ("SYNGATE_PORT=80", "did you mean port?"),
            ("dry_run=yes", "dry-run: there is no such key"),
            ("command=", "line 1: command: '': expected a command"),
            ("command=a; b", "command: 'a; b': ; is for a shell"),
            ("nonsense", "line 1: 'nonsense': expected KEY=value"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.starts_with("/etc/syngate/web.conf, line "), "{why}");
            assert!(why.contains(says), "{text}: {why}");
            assert_eq!(why.lines().count(), 1, "{why}");
            withstand(text.as_bytes());
        }
    }
}
