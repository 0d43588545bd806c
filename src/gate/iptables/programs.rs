//! The programs of a variant of iptables.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use humantime::format_duration;
use nix::unistd::{AccessFlags, access};

use super::failures::LockHeld;
use super::look;
use super::running::{Output, Running};
use crate::gate::kinds::Variant;
use crate::process::meanwhile::Meanwhile;
use crate::process::signals;
use crate::words::ended::{CommandExit, exit_words};
use crate::words::family::Family;

/// Searched after PATH, because cron's PATH has no sbin.
const USUAL_PLACES: &str = "/usr/sbin:/sbin:/usr/local/sbin";
/// The exit status of iptables when another process holds the lock, and for some other failures
/// (xtables.h).
const RESOURCE_PROBLEM: u8 = 4;
/// How long a program may take, besides its wait for the lock. It may hang: its file on a server that is
/// gone, a module that does not load.
pub(crate) const PROGRAM_WITHIN: Duration = Duration::from_secs(5);
/// How long a closed gate waits for the lock of iptables, which takes whole seconds. The run tries again,
/// or opens all ports, for which it needs no lock.
pub(crate) const BRIEFLY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Programs {
    v4: Tools,
    /// Missing on some hosts.
    v6: Option<Tools>,
    /// Asked for once: the program may hang later.
    variant: OnceCell<Variant>,
    meanwhile: Meanwhile,
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
            variant: match (variant, suffix) {
                (Variant::Default, _) | (_, "") => OnceCell::new(),
                named => OnceCell::from(named.0),
            },
            meanwhile: Meanwhile::default(),
        })
    }

    /// The same programs; each wait for one of them does that work.
    pub(super) fn beside(self, meanwhile: Meanwhile) -> Programs {
        Programs { meanwhile, ..self }
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
        *self.variant.get_or_init(|| variant(&self.v4.save))
    }

    /// Makes a change as a whole. Waits for the lock for at most `wait`, in whole seconds.
    ///
    /// # Errors
    /// The error of the program; nothing was changed, unless it is [`Hung`].
    pub(super) fn restore(&self, family: Family, script: &str, wait: Duration) -> Result<()> {
        let restored = self.restored(family, script, wait, || false);
        restored.map_err(|error| match error.is::<LockHeld>() {
            true => error.context(format!("--xtables-wait {}", format_duration(wait))),
            false => error,
        })
    }

    /// The same, while the gate is closed. It waits only for a short time for the lock, and a signal for the run ends
    /// a change that takes long.
    pub(super) fn restore_soon(&self, family: Family, script: &str) -> Result<()> {
        self.restored(family, script, BRIEFLY, signals::has_come)
    }

    fn restored(
        &self,
        family: Family,
        script: &str,
        wait: Duration,
        stop: fn() -> bool,
    ) -> Result<()> {
        let tools = self.tools(family)?;
        // In whole seconds. The program takes 0 as no time limit.
        let seconds = wait.as_secs_f64().ceil().max(1.0).to_string();
        let words = ["--noflush", "-w", &seconds];
        let within = wait.max(BRIEFLY) + PROGRAM_WITHIN;
        let running = Running::start(&tools.restore, &words, script, within)?;
        let output = running.beside(&self.meanwhile).wait(stop)?;
        if output.exit == CommandExit::Code(0) {
            return Ok(());
        }
        let name = tools.restore.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let said = one_line(&output.stderr);
        // Other failures have the same status.
        if output.exit == CommandExit::Code(RESOURCE_PROBLEM) && said.contains("xtables lock") {
            let held = format!("another process holds the lock of {name} ({said})");
            return Err(LockHeld(held).into());
        }
        let needs = self.lacks_rights();
        Err(anyhow!(
            "{name}: {said} ({}){needs}",
            exit_words(output.exit)
        ))
    }

    /// The rules of all tables with their counters.
    pub(super) fn save(&self, family: Family) -> Result<String> {
        self.printed(family, self.start_save(family, None)?.wait(|| false))
    }

    /// The rules of one table, which must exist.
    pub(super) fn save_table(&self, family: Family, table: &str) -> Result<String> {
        self.printed(family, self.start_save(family, Some(table))?.wait(|| false))
    }

    /// Starts the program that lists the rules of one table, or of all.
    pub(super) fn start_save(&self, family: Family, table: Option<&str>) -> Result<Running> {
        let save = &self.tools(family)?.save;
        let words = match &table {
            Some(table) => &["-c", "-t", table][..],
            None => &["-c"],
        };
        let running = Running::start(save, words, "", PROGRAM_WITHIN)?;
        Ok(running.beside(&self.meanwhile))
    }

    /// What it has printed.
    pub(super) fn printed(&self, family: Family, output: Result<Output>) -> Result<String> {
        let output = output?;
        anyhow::ensure!(
            output.exit == CommandExit::Code(0),
            "{}: {} ({}){}",
            self.tools(family)?.save.display(),
            one_line(&output.stderr),
            exit_words(output.exit),
            self.lacks_rights()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The rules of one table of the host's firewall, through the crate `iptables`. Before the gate closes:
    /// the crate waits without limit.
    pub(super) fn census(&self, family: Family, table: &str) -> Result<String> {
        let save = &self.tools(family)?.save;
        let output = look::table(save, table)?;
        anyhow::ensure!(
            output.status.success(),
            "{}: {} ({}){}",
            save.display(),
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

/// The variant of a program of any name. Programs before 1.8 do not print it: they are legacy.
fn variant(save: &Path) -> Variant {
    // iptables(8) always knew this option, and some old versions of iptables-save(8) do not. But where the
    // kernel lacks nf_tables, only the latter answers.
    let sibling = save.to_str().and_then(|path| path.strip_suffix("-save"));
    let mut programs = [Some(save), sibling.map(Path::new)].into_iter().flatten();
    match programs.any(|program| version(program).contains("nf_tables")) {
        true => Variant::Nft,
        false => Variant::Legacy,
    }
}

/// What a program prints as its version. It looks at no table.
fn version(program: &Path) -> String {
    let started = Running::start(program, &["--version"], "", PROGRAM_WITHIN);
    let output = started.and_then(|running| running.wait(|| false));
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    [path.unwrap_or_default(), OsStr::new(USUAL_PLACES)]
        .into_iter()
        .flat_map(|places| places.as_bytes().split(|b| *b == b':'))
        .filter(|place| !place.is_empty())
        .map(|place| Path::new(OsStr::from_bytes(place)).join(name))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
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

    /// As where the kernel lacks nf_tables: iptables(8) fails, and iptables-save(8) still tells its version.
    #[test]
    fn one_program_that_answers_is_enough() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("syngate-variant-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let program = |name: &str, script: &str| {
            let file = folder.join(name);
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            file
        };
        let nft = "echo 'iptables v1.8.9 (nf_tables)'";
        for (plain, save, variant_is) in [
            ("exit 1", nft, Variant::Nft),
            (nft, "exit 2", Variant::Nft),
            ("exit 1", "exit 2", Variant::Legacy),
            (
                "exit 1",
                "echo 'iptables-save v1.8.9 (legacy)'",
                Variant::Legacy,
            ),
        ] {
            program("iptables", plain);
            let save = program("iptables-save", save);
            assert_eq!(variant(&save), variant_is, "{plain}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
