//! The programs of a variant of iptables, and calling them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access};

use crate::gate::kinds::Variant;
use crate::words::family::Family;

/// Looked at after PATH: cron's has no sbin.
const USUAL_PLACES: &str = "/usr/sbin:/sbin:/usr/local/sbin";
/// What iptables exits with when another holds its lock, among others (xtables.h).
const RESOURCE_PROBLEM: i32 = 4;

/// The programs of one variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    v4: Tools,
    /// Not everybody has installed them.
    v6: Option<Tools>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tools {
    restore: PathBuf,
    save: PathBuf,
}

/// Another process holds the lock of iptables for longer than we wait.
#[derive(Debug)]
pub struct LockHeld(String);

impl std::error::Error for LockHeld {}

impl std::fmt::Display for LockHeld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Variant {
    /// Its programs.
    ///
    /// # Errors
    /// One line that says what is not installed.
    pub fn programs(self, path: Option<&OsStr>) -> Result<Programs, String> {
        let suffix = match self {
            Variant::Default => "",
            Variant::Legacy => "-legacy",
            Variant::Nft => "-nft",
        };
        self.programs_named(suffix, path).or_else(|why| {
            // Before iptables 1.8 there was one variant, and no name for it.
            let plain = self.programs_named("", path).map_err(|_| why.clone())?;
            if plain.truly() == self {
                Ok(plain)
            } else {
                Err(why)
            }
        })
    }

    fn programs_named(self, suffix: &str, path: Option<&OsStr>) -> Result<Programs, String> {
        let tools = |family: &str| {
            let find = |what| {
                let name = format!("{family}{suffix}-{what}");
                find(&name, path).ok_or_else(|| {
                    format!(
                        "{}: {name} is neither in PATH nor in {USUAL_PLACES}: is iptables installed?",
                        self.name()
                    )
                })
            };
            Ok::<Tools, String>(Tools {
                restore: find("restore")?,
                save: find("save")?,
            })
        };
        Ok(Programs {
            v4: tools("iptables")?,
            v6: tools("ip6tables").ok(),
        })
    }
}

fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    [path.unwrap_or_default(), OsStr::new(USUAL_PLACES)]
        .into_iter()
        .flat_map(|places| places.as_bytes().split(|b| *b == b':'))
        .filter(|place| !place.is_empty())
        .map(|place| Path::new(OsStr::from_bytes(place)).join(name))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
}

impl Programs {
    fn of(&self, family: Family) -> Result<&Tools> {
        match family {
            Family::V4 => Ok(&self.v4),
            Family::V6 => self.v6.as_ref().context("ip6tables is not installed"),
        }
    }

    /// Whether there are any for that IP version.
    pub fn has(&self, family: Family) -> bool {
        self.of(family).is_ok()
    }

    /// Which variant it is in truth: `Default` may be either. Old versions print none: legacy.
    pub fn truly(&self) -> Variant {
        let version = run(&self.v4.restore, &["--version"], "");
        match version {
            Ok(output) if contains(&output.stdout, b"nf_tables") => Variant::Nft,
            _ => Variant::Legacy,
        }
    }

    /// Makes a change, all of it or nothing, after waiting at most so long for the lock.
    ///
    /// # Errors
    /// What the program says; nothing was changed.
    pub fn restore(&self, family: Family, script: &str, wait: Duration) -> Result<()> {
        let tools = self.of(family)?;
        // Whole seconds, and 0 would be for ever.
        let seconds = wait.as_secs_f64().ceil().max(1.0).to_string();
        let output = run(&tools.restore, &["--noflush", "-w", &seconds], script)?;
        if output.status.success() {
            return Ok(());
        }
        let name = tools.restore.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let said = one_line(&output.stderr);
        // Other troubles have the same status.
        if output.status.code() == Some(RESOURCE_PROBLEM) && said.contains("xtables lock") {
            let wait = humantime::format_duration(wait);
            return Err(LockHeld(format!(
                "--xtables-wait {wait}: another process holds the lock of {name} ({said})"
            ))
            .into());
        }
        let needs = self.lacks_rights();
        Err(anyhow!("{name}: {said} ({}){needs}", output.status))
    }

    /// All rules, with their counters, as the program saves them.
    ///
    /// # Errors
    /// What it says.
    pub fn save(&self, family: Family) -> Result<String> {
        let tools = self.of(family)?;
        let output = run(&tools.save, &["-c"], "")?;
        anyhow::ensure!(
            output.status.success(),
            "{}: {} ({}){}",
            tools.save.display(),
            one_line(&output.stderr),
            output.status,
            self.lacks_rights()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// To be said of a failure: the programs of the legacy variant do not tell which rights they lack.
    fn lacks_rights(&self) -> &'static str {
        match crate::kernel::caps::iptables_legacy() || self.truly() != Variant::Legacy {
            true => "",
            false => "; iptables-legacy needs root, and the capability CAP_NET_RAW",
        }
    }
}

/// Runs it to its end. It inherits our blocked signals, so that a Ctrl-C does not end it half way.
fn run(program: &Path, arguments: &[&str], input: &str) -> Result<Output> {
    let run = || -> io::Result<Output> {
        let (mut stdin, mut stdout, mut stderr) = (in_memory()?, in_memory()?, in_memory()?);
        stdin.write_all(input.as_bytes())?;
        stdin.rewind()?;
        let status = Command::new(program)
            .args(arguments)
            .envs([("LC_ALL", OsString::from("C"))])
            .stdin(stdin)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .status()?;
        Ok(Output {
            status,
            stdout: all_of(&mut stdout)?,
            stderr: all_of(&mut stderr)?,
        })
    };
    run().with_context(|| format!("{} can't be run", program.display()))
}

/// Instead of a pipe: nobody has to read what the other writes before it can go on, and nothing but the
/// program's end has to be waited for (`Command::output` panics where that fails).
fn in_memory() -> io::Result<File> {
    Ok(File::from(memfd_create("iptables", MFdFlags::MFD_CLOEXEC)?))
}

fn all_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last line that says something.
fn one_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = lines.filter(|line| !line.starts_with("Error occurred at line"));
    let mut telling = telling.filter(|line| !line.starts_with("Try `"));
    telling.next_back().unwrap_or("it failed").to_owned()
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

/// What holds for whatever a program says.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let line = one_line(bytes);
    assert!(!line.is_empty() && line.lines().count() == 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_the_program_said() {
        let said = b"iptables-restore: line 3 failed\nError occurred at line: 3\nTry `iptables-restore -h'\n";
        assert_eq!(one_line(said), "iptables-restore: line 3 failed");
        assert_eq!(one_line(b""), "it failed");
    }

    #[test]
    fn what_is_not_installed_is_named() {
        assert!(find("no-such-program", None).is_none());
        assert!(find("sh", Some(OsStr::new("/bin"))).is_some());
    }
}
