//! Finds COMMAND's executable file, as a shell would.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::words::exit::NotRunnable;
use crate::words::meant::{meant, question};

/// The search path when PATH is not set (confstr(3), _CS_PATH).
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// Where programs are that PATH may lack: cron's is /usr/bin:/bin.
pub(crate) const USUAL_PLACES: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What shells do themselves, and people begin a COMMAND with (POSIX.1, 2.14 and 1.6).
const OF_SHELLS: &[&str] = &[
    "alias", "cd", "eval", "exec", "exit", "export", "if", "for", "set", "source", "ulimit",
    "umask", "unset", "until", "while",
];

/// What most COMMANDs begin with.
const STARTERS: [&str; 2] = ["service", "systemctl"];

/// The file for `name`, as execvp(3) would find it.
pub(crate) fn resolve(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, NotRunnable> {
    if name.is_empty() {
        return Err(NotRunnable::NotFound(
            "'' is no COMMAND: an empty word".to_owned(),
        ));
    }
    if name.as_bytes().contains(&b'/') {
        return runnable(Path::new(name)).map(|()| PathBuf::from(name));
    }
    let mut refused = None;
    for directory in directories(path.unwrap_or(OsStr::new(DEFAULT_PATH))) {
        let file = directory.join(name);
        match runnable(&file) {
            Ok(()) => return Ok(file),
            Err(NotRunnable::NotFound(_)) => (),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    Err(refused.unwrap_or_else(|| not_in_path(name)))
}

fn directories(path: &OsStr) -> impl Iterator<Item = PathBuf> + '_ {
    // An empty item means the current directory (execvp(3)). COMMAND gets an absolute path.
    path.as_bytes().split(|b| *b == b':').map(|item| {
        if item.is_empty() {
            PathBuf::from(".")
        } else {
            PathBuf::from(OsStr::from_bytes(item))
        }
    })
}

fn runnable(file: &Path) -> Result<(), NotRunnable> {
    let shown = file.display();
    match file.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(
            NotRunnable::NotExecutable(format!("{shown}: syngate may not look at it")),
        ),
        Err(_) => Err(NotRunnable::NotFound(format!(
            "{shown}: no such file to run as COMMAND"
        ))),
        Ok(meta) if meta.is_dir() => Err(NotRunnable::NotExecutable(format!(
            "{shown} is a directory"
        ))),
        Ok(_) if access(file, AccessFlags::X_OK).is_err() => Err(NotRunnable::NotExecutable(
            format!("{shown} is not executable"),
        )),
        Ok(_) => Ok(()),
    }
}

/// `NAME=value`, which a shell takes for a variable of the program that follows.
fn sets_variable(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let letter = |c: char| c == '_' || c.is_ascii_alphabetic();
        name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
    })
}

/// `name`, if PATH leads to it; else its full path, if it is in one of the usual places.
pub(crate) fn callable(name: &OsStr, path: Option<&OsStr>) -> OsString {
    let elsewhere = match resolve(name, path) {
        Ok(_) => None,
        Err(_) => in_usual_places(name),
    };
    elsewhere.map_or_else(|| name.to_owned(), PathBuf::into_os_string)
}

fn in_usual_places(name: &OsStr) -> Option<PathBuf> {
    directories(OsStr::new(USUAL_PLACES))
        .map(|directory| directory.join(name))
        .find(|file| !name.is_empty() && runnable(file).is_ok())
}

fn not_in_path(name: &OsStr) -> NotRunnable {
    let elsewhere = in_usual_places(name);
    let name = name.to_string_lossy();
    NotRunnable::NotFound(match elsewhere {
        Some(file) => format!(
            "{name} is not in PATH, but {} exists: give the full path or set PATH",
            file.display()
        ),
        None if name.contains(char::is_whitespace) => format!(
            "'{name}' is one word, and no program in PATH has that name: leave out the quotes, or use \
             sh -c '...'"
        ),
        None if OF_SHELLS.contains(&&*name) => {
            format!("{name} is a word of the shell, not a program: use sh -c '{name} ...'")
        }
        None if sets_variable(&name) => format!(
            "'{name}' is a variable for a shell, not a program: put env in front, as in env {name} ..."
        ),
        None if name.starts_with('-') => {
            format!(
                "{name} stands behind --, where COMMAND begins: put syngate's own options before --"
            )
        }
        None => format!("{name} is not in PATH{}", question(meant(&name, STARTERS))),
    })
}
