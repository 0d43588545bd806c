//! What a service of an init script listens on: by the files of pids, else by the programs that the script names.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::listening::{Found, INIT, Listening, Owner, listening, served};
use super::script::{Script, interpreted, is_interpreter, is_named_so, pid_folders, titled};
use crate::kernel::service_files::SCRIPTS;
use crate::kernel::sockets::Sample;
use crate::kernel::sockets::holders::processes;
use crate::process::ancestry::{descends_from, line};
use crate::process::cmdline::words_of;
use crate::process::executable::executable;
use crate::process::pid_file;
use crate::process::small_file::open_regular;
use crate::words::ports::PortSet;

/// A folder has no more files of pids: another user may have made it.
pub(crate) const MOST_PID_FILES: usize = 64;

pub(super) fn of_script(name: &str, script: &Script, random: PortSet, there: &Sample) -> Found {
    let mut files = script.pid_files.clone();
    files.extend(
        pid_folders(name)
            .iter()
            .flat_map(|folder| pid_files_in(folder)),
    );
    let programs = Programs::of(name, script);
    let (roots, doubted) = programs.roots(&files);
    let holding = || there.holders.keys().copied();
    let of_roots = |pid: &i32| roots.iter().any(|root| is_of(*pid, *root, there));
    let mut owner = Owner {
        processes: holding().filter(of_roots).collect(),
        random,
        ..Owner::default()
    };
    let (mut main, mut is_one) = (roots.first().copied(), true);
    for has in [Programs::has, Programs::has_by_name] {
        if owner.processes.is_empty() {
            let has = |pid: i32| has(&programs, pid);
            owner.processes = holding().filter(|pid| has(*pid)).collect();
            (main, is_one) = (None, are_one(&owner.processes, has));
        }
    }
    let listening = listening(&owner, there);
    let (listening, several) = match is_one {
        true => (listening, None),
        false => (Listening::default(), Some(listening.who)),
    };
    Found {
        served: served(there),
        listening,
        main,
        several,
        looked_at: format!(
            "the processes of {}, and those of the programs that {SCRIPTS}/{name} names, or that are called {name} or \
             are in a folder of that name{}",
            files.join(", "),
            doubt(&doubted)
        ),
    }
}

fn doubt(files: &[&str]) -> String {
    match files {
        [] => String::new(),
        files => format!(
            "; not at other users' processes in {}, which others than root can change",
            files.join(", ")
        ),
    }
}

/// Whether all come from one process of the same kind. Otherwise some may be another's.
fn are_one(processes: &BTreeSet<i32>, is_so: impl Fn(i32) -> bool) -> bool {
    let first = |pid: &i32| line(*pid).filter(|pid| is_so(*pid)).last();
    let firsts: BTreeSet<i32> = processes.iter().filter_map(first).collect();
    firsts.len() < 2
}

/// Whether a process that holds a listener is of the service. A service may have started programs that outlive it. So
/// has sshd: people start servers in their sessions. One that does not is a wrapper, as of a shell.
fn is_of(pid: i32, root: i32, there: &Sample) -> bool {
    let same = || executable(pid) == executable(root);
    descends_from(pid, root) && (pid == root || !there.holders.contains_key(&root) || same())
}

/// The programs of a service.
struct Programs<'a> {
    name: &'a str,
    /// The files that its script names.
    files: Vec<PathBuf>,
    /// Nobody knows which programs it executes: the script names none, or one that is a script itself.
    any: bool,
}

impl Programs<'_> {
    fn of<'a>(name: &'a str, script: &Script) -> Programs<'a> {
        let files = script
            .paths
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok());
        let files: Vec<PathBuf> = files.filter(|file| may_be_program(file)).collect();
        let mut programs = files.iter().filter(|file| can_be_executed(file)).peekable();
        Programs {
            name,
            any: programs.peek().is_none() || programs.any(|file| is_text(file)),
            files,
        }
    }

    /// The processes that the files of pids name, and the files of which one is not believed.
    fn roots<'a>(&self, files: &'a [String]) -> (Vec<i32>, Vec<&'a str>) {
        let living: BTreeSet<i32> = processes().collect();
        let (mut roots, mut doubted) = (Vec::new(), Vec::new());
        for file in files {
            let named = pid_file::pids_in(Path::new(file)).unwrap_or_default();
            for pid in named.pids {
                if living.contains(&pid) && !roots.contains(&pid) && self.may_be(pid) {
                    roots.push(pid);
                }
            }
            if named.others.iter().any(|pid| living.contains(pid)) {
                doubted.push(file.as_str());
            }
        }
        (roots, doubted)
    }

    /// Whether the process executes a program that the script names. Many processes may execute an interpreter that it
    /// names, and not the service.
    fn has(&self, pid: i32) -> bool {
        program(pid).is_some_and(|file| self.names(&file)) || self.has_title(pid)
    }

    fn names(&self, program: &Path) -> bool {
        fs::canonicalize(program).is_ok_and(|file| self.files.contains(&file))
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
        let executes = || executable(pid).is_some_and(|file| self.names(&file));
        pid != INIT && (self.any || executes() || self.has(pid) || self.has_by_name(pid))
    }
}

/// The program of a process: its executable file, or the script that this one interprets. `None`: what an interpreter
/// executes is not known.
fn program(pid: i32) -> Option<PathBuf> {
    let (file, call) = (executable(pid), call_of(pid));
    let script = interpreted(&call).map(PathBuf::from);
    if file.as_deref().is_some_and(is_interpreter) {
        return script.filter(|file| file.is_file());
    }
    script.filter(|file| is_script(file)).or(file)
}

fn call_of(pid: i32) -> Vec<String> {
    let words = words_of(pid).unwrap_or_default().into_iter();
    words.map_while(|word| word.into_string().ok()).collect()
}

/// An init script is a file that can be executed, too, and tells people its own name.
fn may_be_program(file: &Path) -> bool {
    let folder = file.parent();
    file.is_file() && !folder.is_some_and(|folder| folder.ends_with("init.d"))
}

fn can_be_executed(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|what| what.permissions().mode() & 0o111 != 0)
}

/// A program of an interpreter's, as a shell. One that can't be read may be.
fn is_text(file: &Path) -> bool {
    begins_as_script(file).unwrap_or(true)
}

fn is_script(file: &Path) -> bool {
    begins_as_script(file).unwrap_or(false)
}

/// The command line of any user's process may name the file.
fn begins_as_script(file: &Path) -> io::Result<bool> {
    let mut start = [0; 2];
    open_regular(file)?.read_exact(&mut start)?;
    Ok(start == *b"#!")
}

fn pid_files_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path().display().to_string());
    let files = files.filter(|file| file.ends_with(".pid"));
    files.take(MOST_PID_FILES).collect()
}
