//! What a service of an init script listens on: by the files of pids, else by the programs that the script names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::listening::{Found, INIT, Owner, listening};
use super::script::{Script, interpreted, is_named_so, pid_folders, titled};
use crate::kernel::service_files::SCRIPTS;
use crate::kernel::sockets::Sample;
use crate::kernel::sockets::holders::processes;
use crate::process::ancestry::descends_from;
use crate::process::cmdline::words_of;
use crate::process::executable::executable;
use crate::words::ports::PortSet;

pub(super) fn of_script(name: &str, script: &Script, random: PortSet, there: &Sample) -> Found {
    let mut files = script.pid_files.clone();
    files.extend(
        pid_folders(name)
            .iter()
            .flat_map(|folder| pid_files_in(folder)),
    );
    let programs = Programs::of(name, script);
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
    for has in [Programs::has, Programs::has_by_name] {
        if owner.processes.is_empty() {
            owner.processes = holding().filter(|pid| has(&programs, *pid)).collect();
            main = None;
        }
    }
    Found {
        listening: listening(&owner, there),
        main,
        looked_at: format!(
            "the processes of {}, and those of the programs that {SCRIPTS}/{name} names, or that are called {name} or \
             are in a folder of that name",
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

/// The programs of a service.
struct Programs<'a> {
    name: &'a str,
    /// The files that its script names and that can be executed.
    files: Vec<PathBuf>,
    /// One of them is a script itself: what that executes is not known.
    any: bool,
}

impl Programs<'_> {
    fn of<'a>(name: &'a str, script: &Script) -> Programs<'a> {
        let files = script
            .paths
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok());
        let files: Vec<PathBuf> = files.filter(|file| can_be_executed(file)).collect();
        Programs {
            name,
            any: files.iter().any(|file| is_text(file)),
            files,
        }
    }

    /// Whether the process executes a program that the script names.
    fn has(&self, pid: i32) -> bool {
        let file = program(pid).and_then(|file| fs::canonicalize(file).ok());
        file.is_some_and(|file| self.files.contains(&file)) || self.has_title(pid)
    }

    /// Whether its title names a script of the service's: an interpreter executes that.
    fn has_title(&self, pid: i32) -> bool {
        let call = call_of(pid);
        titled(&call).is_some_and(|title| {
            let named = |file: &&PathBuf| file.file_name().is_some_and(|name| name == title);
            self.files.iter().filter(named).any(|file| is_script(file))
        })
    }

    /// Whether it executes one that the name of the service tells.
    fn has_by_name(&self, pid: i32) -> bool {
        program(pid).is_some_and(|file| is_named_so(&file, self.name))
    }

    /// Of a process that a file of pids names: the file may be an old one, and the pid another process's by now.
    fn may_be(&self, pid: i32) -> bool {
        pid != INIT && (self.any || self.files.is_empty() || self.has(pid) || self.has_by_name(pid))
    }
}

/// The program of a process: its executable file, or the script that this one interprets.
fn program(pid: i32) -> Option<PathBuf> {
    let call = call_of(pid);
    let script = interpreted(&call).map(PathBuf::from);
    script
        .filter(|file| is_script(file))
        .or_else(|| executable(pid))
}

fn call_of(pid: i32) -> Vec<String> {
    let words = words_of(pid).unwrap_or_default().into_iter();
    words.map_while(|word| word.into_string().ok()).collect()
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
    begins_as_script(file).unwrap_or(true)
}

fn is_script(file: &Path) -> bool {
    begins_as_script(file).unwrap_or(false)
}

fn begins_as_script(file: &Path) -> io::Result<bool> {
    // It may be a pipe.
    if !fs::metadata(file)?.is_file() {
        return Ok(false);
    }
    let mut start = [0; 2];
    File::open(file)?.read_exact(&mut start)?;
    Ok(start == *b"#!")
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
