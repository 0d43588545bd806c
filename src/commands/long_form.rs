//! A call of syngate in its long form: its options, and COMMAND. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::cli::Given;
use crate::words::command_line::command_line;

/// A whole call of syngate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LongForm {
    options: Vec<Given>,
    command: Vec<OsString>,
}

/// These say what this call is to do and to tell, and not how the service is restarted.
const OF_THIS_CALL: [&str; 3] = ["dry-run", "quiet", "verbose"];

pub(super) const PORT: &str = "port";
pub(super) const SYN: &str = "syn";
pub(super) const RELOAD: &str = "reload";
pub(super) const PRECHECK: &str = "precheck";
pub(super) const CONTAINER: &str = "container";

/// Those that were given, without what the run reads itself from its environment.
pub(super) fn to_write(given: &[Given]) -> Vec<Given> {
    let of_this_call = |one: &&Given| OF_THIS_CALL.contains(&one.long.as_str());
    let given = given
        .iter()
        .filter(|one| !(one.by_environment && of_this_call(one)));
    given.cloned().collect()
}

pub(super) fn option(long: &str, value: Option<&str>) -> Given {
    Given {
        long: long.to_owned(),
        value: value.map(OsString::from),
        by_environment: false,
    }
}

/// Unless it is there.
pub(super) fn add(options: &mut Vec<Given>, one: Given) {
    if !options.iter().any(|other| other.long == one.long) {
        options.push(one);
    }
}

/// The first of its values.
pub(super) fn value_of<'a>(long: &str, options: &'a [Given]) -> Option<&'a OsStr> {
    let mut values = options.iter().filter(|one| one.long == long);
    values.next()?.value.as_deref()
}

/// As people write them: which ports, what becomes of new connections, the rest, the test.
fn rank(long: &str) -> usize {
    match long {
        PORT => 0,
        SYN => 1,
        RELOAD => 2,
        PRECHECK => 4,
        _ => 3,
    }
}

impl LongForm {
    pub(super) fn new(mut options: Vec<Given>, command: Vec<OsString>) -> LongForm {
        options.sort_by_key(|one| rank(&one.long));
        LongForm { options, command }
    }

    /// The words of the call, the program's name first.
    pub(super) fn words(&self) -> Vec<OsString> {
        let options = self.options.iter().flat_map(words_of);
        let command = self.command.iter().cloned();
        let words = [OsString::from("syngate")].into_iter().chain(options);
        words.chain([OsString::from("--")]).chain(command).collect()
    }

    /// For a shell, without what belongs to the call that was made.
    pub(super) fn shown(&self) -> String {
        let mut lasting = self.clone();
        let of_this_call = |one: &Given| OF_THIS_CALL.contains(&one.long.as_str());
        lasting.options.retain(|one| !of_this_call(one));
        command_line(&lasting.words())
    }

    /// It says what is gated.
    pub(super) fn has_ports(&self) -> bool {
        let says = |long| value_of(long, &self.options).is_some();
        says(PORT) || says(CONTAINER)
    }

    /// The value of `--syn`, if it is given.
    pub(super) fn syn(&self) -> Option<&OsStr> {
        value_of(SYN, &self.options)
    }

    pub(super) fn precheck(&self) -> Option<&OsStr> {
        value_of(PRECHECK, &self.options)
    }
}

/// `--port 80`; `--precheck=-x`, where the value would be taken for an option.
fn words_of(one: &Given) -> Vec<OsString> {
    let name = OsString::from(format!("--{}", one.long));
    match &one.value {
        None => vec![name],
        Some(value) if value.as_bytes().starts_with(b"-") => {
            let mut word = name;
            word.push("=");
            word.push(value);
            vec![word]
        }
        Some(value) => vec![name, value.clone()],
    }
}
