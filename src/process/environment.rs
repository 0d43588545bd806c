//! The environment of COMMAND and of everything else that a run starts.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::words::env::{ENV_PREFIX, LOCK_DIR_VARIABLE, RUN_VARIABLE};

/// The environment of syngate without the variables that are for syngate alone, and with the run's id.
/// The lock directory stays, as an absolute path: a run inside this one must find the same locks.
pub(crate) fn environment(run: &str) -> Vec<CString> {
    handed_on(std::env::vars_os().collect(), run)
}

fn handed_on(inherited: Vec<(OsString, OsString)>, run: &str) -> Vec<CString> {
    let named = |wanted: &str| inherited.iter().find(|(name, _)| name == wanted);
    let outer = named(RUN_VARIABLE).map_or("", |(_, runs)| runs.to_str().unwrap_or_default());
    let runs = runs(outer, run);
    let lock_directory = named(LOCK_DIR_VARIABLE)
        .filter(|(_, directory)| !directory.is_empty())
        .and_then(|(_, directory)| std::path::absolute(directory).ok())
        .map(|directory| (LOCK_DIR_VARIABLE.into(), directory.into()));
    let variables = inherited
        .into_iter()
        .filter(|(name, _)| !name.as_bytes().starts_with(ENV_PREFIX.as_bytes()))
        .chain([(RUN_VARIABLE.into(), runs.into())])
        .chain(lock_directory);
    as_exec_takes(variables)
}

/// Variables as execve(2) takes them.
pub(crate) fn as_exec_takes(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<CString> {
    let pair = |(name, value): (OsString, OsString)| {
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend(value.into_vec());
        CString::new(pair).ok()
    };
    variables.into_iter().filter_map(pair).collect()
}

/// The runs that this one is inside, outermost first, and itself. A service that restarts itself through
/// syngate inherits the ids of runs that are over: only the last ones can still be alive.
fn runs(outer: &str, run: &str) -> String {
    const KEPT: usize = 8;
    let mut ids: Vec<&str> = outer.split(':').filter(|id| !id.is_empty()).collect();
    ids.push(run);
    ids[ids.len().saturating_sub(KEPT)..].join(":")
}

/// What holds in any environment (names and values, with a NUL behind each variable): COMMAND has the
/// run's id, and no other variable of syngate's but the lock directory.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let variables = bytes.split(|byte| *byte == 0);
    let variables = variables.filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        let name = [ENV_PREFIX.as_bytes(), &variable[..at]].concat();
        let value = variable[at + 1..].to_vec();
        Some((OsString::from_vec(name), OsString::from_vec(value)))
    });
    let environment = handed_on(variables.collect(), "0123456789abcdef");
    let all = environment.iter().map(|pair| pair.as_bytes());
    let (mut runs, mut locks) = (0, 0);
    for pair in all.filter(|pair| pair.starts_with(ENV_PREFIX.as_bytes())) {
        match pair.strip_prefix(b"SYNGATE_RUN=") {
            Some(ids) => {
                assert!(ids.ends_with(b"0123456789abcdef"));
                runs += 1;
            }
            None => {
                assert!(pair.starts_with(b"SYNGATE_LOCK_DIR=/"));
                locks += 1;
            }
        }
    }
    assert!(runs == 1 && locks <= 1);
}
