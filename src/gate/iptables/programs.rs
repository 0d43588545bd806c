//! The programs of a variant of iptables.

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

use super::failures::LockHeld;
use super::look;
use crate::gate::kinds::Variant;
use crate::words::family::Family;

/// Searched after PATH, because cron's PATH has no sbin.
const USUAL_PLACES: &str = "/usr/sbin:/sbin:/usr/local/sbin";
/// The exit status of iptables when another process holds the lock, and for some other failures
/// (xtables.h).
const RESOURCE_PROBLEM: i32 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    v4: Tools,
    /// Missing on some hosts.
    v6: Option<Tools>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tools {
    restore: PathBuf,
    save: PathBuf,
}

impl Programs {
    /// # Errors
    /// One line that says what is not installed.
    pub(crate) fn of(variant: Variant, path: Option<&OsStr>) -> Result<Programs, String> {
        let suffix = match variant {
            Variant::Default => "",
            Variant::Legacy => "-legacy",
            Variant::Nft => "-nft",
        };
        Programs::named(variant, suffix, path).or_else(|why| {
            // Before iptables 1.8 there was one variant, without a name.
            let plain = Programs::named(variant, "", path).map_err(|_| why.clone())?;
            if plain.truly() == variant {
                Ok(plain)
            } else {
                Err(why)
            }
        })
    }

    fn named(variant: Variant, suffix: &str, path: Option<&OsStr>) -> Result<Programs, String> {
        let tools = |family: &str| {
            let find = |what| {
                let name = format!("{family}{suffix}-{what}");
                find(&name, path).ok_or_else(|| {
                    format!(
                        "{}: {name} is neither in PATH nor in {USUAL_PLACES}: is iptables installed?",
                        variant.name()
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

    fn tools(&self, family: Family) -> Result<&Tools> {
        match family {
            Family::V4 => Ok(&self.v4),
            Family::V6 => self.v6.as_ref().context("ip6tables is not installed"),
        }
    }

    pub(super) fn has(&self, family: Family) -> bool {
        self.tools(family).is_ok()
    }

    /// The real variant: that of `Default` may be either.
    pub(super) fn truly(&self) -> Variant {
        look::variant(&self.v4.save)
    }

    /// Makes a change as a whole. Waits for the lock for at most `wait`.
    ///
    /// # Errors
    /// The error of the program; nothing was changed.
    pub(super) fn restore(&self, family: Family, script: &str, wait: Duration) -> Result<()> {
        let tools = self.tools(family)?;
        // In whole seconds. The program takes 0 as no time limit.
        let seconds = wait.as_secs_f64().ceil().max(1.0).to_string();
        let output = run(&tools.restore, &["--noflush", "-w", &seconds], script)?;
        if output.status.success() {
            return Ok(());
        }
        let name = tools.restore.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let said = one_line(&output.stderr);
        // Other failures have the same status.
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

    /// The rules of all tables with their counters.
    pub(super) fn save(&self, family: Family) -> Result<String> {
        let tools = self.tools(family)?;
        self.saved(tools, run(&tools.save, &["-c"], "")?)
    }

    /// The rules of one table, which must exist.
    pub(super) fn save_table(&self, family: Family, table: &str) -> Result<String> {
        let tools = self.tools(family)?;
        self.saved(tools, look::table(&tools.save, table)?)
    }

    fn saved(&self, tools: &Tools, output: Output) -> Result<String> {
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

    /// A hint for failures: the legacy programs do not say which privilege they lack.
    fn lacks_rights(&self) -> &'static str {
        match crate::kernel::caps::iptables_legacy() || self.truly() != Variant::Legacy {
            true => "",
            false => "; iptables-legacy needs root, and the capability CAP_NET_RAW",
        }
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

/// Runs a program to its end. It inherits syngate's signal mask, so that Ctrl-C does not interrupt
/// the change.
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

/// A file in memory instead of a pipe: neither process has to read before the other can continue,
/// and syngate only waits for the program's end (`Command::output` panics if reading from a pipe
/// fails).
fn in_memory() -> io::Result<File> {
    Ok(File::from(memfd_create("iptables", MFdFlags::MFD_CLOEXEC)?))
}

fn all_of(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last line that says what went wrong.
fn one_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = lines.filter(|line| !line.starts_with("Error occurred at line"));
    let mut telling = telling.filter(|line| !line.starts_with("Try `"));
    telling.next_back().unwrap_or("it failed").to_owned()
}

/// Checks the properties of the parser for any output of a program.
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
