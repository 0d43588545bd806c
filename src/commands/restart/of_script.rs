//! What a service of an init script listens on: by the files of pids, else by the programs that the script names.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::listening::{Found, INIT, Owner, listening};
use super::script::{SCRIPTS, Script};
use crate::kernel::sockets::Sample;
use crate::kernel::sockets::holders::processes;
use crate::process::ancestry::descends_from;
use crate::process::executable::executable;
use crate::words::ports::PortSet;

pub(super) fn of_script(name: &str, script: &Script, random: PortSet, there: &Sample) -> Found {
    let mut files = script.pid_files.clone();
    files.extend(pid_files_in(&format!("/run/{name}")));
    let programs = Programs::of(script);
    let pids = files.iter().flat_map(|file| pids_in(file));
    let roots: Vec<i32> = pids.filter(|pid| programs.may_be(*pid)).collect();
    let holding = || there.holders.keys().copied();
    let of_roots = |pid: &i32| roots.iter().any(|root| is_of(*pid, *root, there));
    let mut owner = Owner {
        processes: holding().filter(of_roots).collect(),
        random,
        ..Owner::default()
    };
    let mut main = roots.first().copied();
    if owner.processes.is_empty() {
        owner.processes = holding().filter(|pid| programs.has(*pid)).collect();
        main = None;
    }
    Found {
        listening: listening(&owner, there),
        main,
        looked_at: format!(
            "the processes of {}, and those of the programs that {SCRIPTS}/{name} names",
            files.join(", ")
        ),
    }
}

/// Whether a process that holds a listener is of the service. A service that listens itself may have started what
/// outlives it: sshd, the servers that people start in their sessions. One that does not is a wrapper, as of a shell.
fn is_of(pid: i32, root: i32, there: &Sample) -> bool {
    let same = || executable(pid) == executable(root);
    descends_from(pid, root) && (pid == root || !there.holders.contains_key(&root) || same())
}

/// The files that a script names and that can be executed.
struct Programs {
    files: Vec<PathBuf>,
    /// One of them is a script itself: what that executes is not known.
    any: bool,
}

impl Programs {
    fn of(script: &Script) -> Programs {
        let files = script
            .paths
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok());
        let files: Vec<PathBuf> = files.filter(|file| can_be_executed(file)).collect();
        Programs {
            any: files.iter().any(|file| is_text(file)),
            files,
        }
    }

    fn has(&self, pid: i32) -> bool {
        let file = executable(pid).and_then(|file| fs::canonicalize(file).ok());
        file.is_some_and(|file| self.files.contains(&file))
    }

    /// Of a process that a file of pids names: the file may be an old one, and the pid another process's by now.
    fn may_be(&self, pid: i32) -> bool {
        pid != INIT && (self.any || self.files.is_empty() || self.has(pid))
    }
}

/// Init scripts can be, too; a script tells people its own name.
fn can_be_executed(file: &Path) -> bool {
    if file
        .parent()
        .is_some_and(|folder| folder.ends_with("init.d"))
    {
        return false;
    }
    fs::metadata(file).is_ok_and(|what| what.is_file() && what.permissions().mode() & 0o111 != 0)
}

/// A program of an interpreter's, as a shell. One that can't be read may be.
fn is_text(file: &Path) -> bool {
    let mut start = [0; 2];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut start));
    read.is_err() || start == *b"#!"
}

fn pid_files_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path().display().to_string());
    files.filter(|file| file.ends_with(".pid")).collect()
}

/// The living processes that a file names, one a line.
fn pids_in(file: &str) -> Vec<i32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.trim().parse().ok());
    let living: Vec<i32> = processes().collect();
    pids.filter(|pid| living.contains(pid)).collect()
}
