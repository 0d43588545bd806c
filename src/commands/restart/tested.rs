//! The test of a service's configuration, as it can be called here.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use super::listening::Found;
use super::precheck::test_of;
use crate::kernel::sockets::holders::started;
use crate::process::cmdline::words_of;
use crate::process::executable::executable;
use crate::process::place::Place;
use crate::run::program::{USUAL_PLACES, callable, resolve};

/// The command line that tests the configuration of a running service. Its main process decides which test it is,
/// else the oldest process that has a test. `None`: nothing is known, or the program that tests is not there.
pub(super) fn precheck(found: &Found) -> Option<String> {
    let mut holders: Vec<i32> = found.listening.processes.iter().copied().collect();
    holders.sort_by_key(|pid| started(*pid));
    let main = found.main.into_iter();
    main.chain(holders).find_map(of_process)
}

/// The command, with the full path of its program where PATH lacks that.
pub(super) fn called_here(mut command: Vec<OsString>) -> Vec<OsString> {
    let path = env::var_os("PATH");
    if let Some(program) = command.first_mut() {
        *program = callable(program, path.as_deref());
    }
    command
}

fn of_process(pid: i32) -> Option<String> {
    let file = executable(pid)?;
    let call = words_of(pid)?.into_iter();
    let call: Option<Vec<String>> = call.map(|word| word.into_string().ok()).collect();
    let test = test_of(&file, &call?)?;
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    // The process, and the files that it names, may be another user's. Root must not execute such a file, nor read it
    // as a configuration, which may load code.
    let paths = test.paths.iter().map(|path| directory.join(path));
    let mut files = [file.clone()].into_iter().chain(paths);
    if !files.all(|file| Place::open_ours(&file).is_ok()) {
        return None;
    }
    let tester = match test.tester {
        Some(name) => named(name, &file)?,
        None => as_called(&file),
    };
    Some(test.line(&tester, directory.to_str()))
}

/// By its name alone, if PATH leads to that very file. sshd wants to be called by its path.
fn as_called(file: &Path) -> String {
    let path = env::var_os("PATH");
    let name = file.file_name().unwrap_or_default();
    let by_name = resolve(name, path.as_deref()).ok();
    let same =
        by_name.and_then(|found| fs::canonicalize(found).ok()) == fs::canonicalize(file).ok();
    match same && name != "sshd" {
        true => name.to_string_lossy().into_owned(),
        false => file.display().to_string(),
    }
}

/// A program beside that file, in PATH, or where programs usually are.
fn named(name: &str, beside: &Path) -> Option<String> {
    let path = env::var_os("PATH");
    if resolve(OsStr::new(name), path.as_deref()).is_ok() {
        return Some(name.to_owned());
    }
    let folder = beside.parent().unwrap_or(Path::new("/")).as_os_str();
    let elsewhere = [folder, OsStr::new(USUAL_PLACES)].into_iter();
    let found = { elsewhere }.find_map(|path| resolve(OsStr::new(name), Some(path)).ok());
    Some(found?.display().to_string())
}
