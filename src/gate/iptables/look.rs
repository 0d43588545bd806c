//! Lists rules through the crate `iptables`, which calls a program as `PROGRAM -t TABLE WORDS`.
//!
//! The program is iptables-save(8) here. Unlike iptables(8) it takes no lock, so a look neither waits
//! nor creates a lock file, and it can't change rules. But it creates the x_tables table that it is
//! asked for, so callers ask only for tables that exist.

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::Output;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};
use iptables::IPTables;

use crate::gate::kinds::Variant;

/// The variant of a program of any name. Programs before 1.8 do not print it: they are legacy.
pub(super) fn variant(save: &Path) -> Variant {
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
    let output = ask(program, "filter", "--version");
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// The rules of a table with their counters.
pub(super) fn table(save: &Path, table: &str) -> Result<Output> {
    ask(save, table, "-c")
}

fn ask(program: &Path, table: &str, words: &str) -> Result<Output> {
    let asked = || {
        let iptables = IPTables {
            cmd: for_ever(program)?,
            has_check: false,
            // `true` makes the crate add `--wait`, which has no time limit.
            has_wait: false,
            is_numeric: true,
        };
        contained(|| {
            let output = iptables.execute(table, words);
            output.map_err(|error| anyhow!("{error}"))
        })?
    };
    asked().with_context(|| format!("{} can't be run", program.display()))
}

/// The crate wants a `'static` path.
fn for_ever(program: &Path) -> Result<&'static str> {
    static PATHS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let path = program.to_str().context("its path is not UTF-8")?;
    let mut paths = PATHS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(known) = paths.get(path) {
        return Ok(known);
    }
    let path: &'static str = path.to_owned().leak();
    paths.insert(path);
    Ok(path)
}

/// The crate calls `Command::output`, which panics if reading from the program fails. This turns
/// the panic into an error.
fn contained<T>(work: impl FnOnce() -> T) -> Result<T> {
    // The hook is the whole process's.
    static HOOK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = HOOK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // A panic may be under way, and drop its gate here: then the hook must stay.
    let hook = (!std::thread::panicking()).then(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| ()));
        hook
    });
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    if let Some(hook) = hook {
        panic::set_hook(hook);
    }
    done.map_err(|_| anyhow!("what it says can't be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_crate_is_an_error() {
        let error = contained(|| panic!("as Command::output would")).unwrap_err();
        assert!(error.to_string().contains("can't be read"));
        assert_eq!(contained(|| 7).unwrap(), 7);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = table(Path::new("/no/such-save"), "filter").unwrap_err();
        let said = format!("{error:#}");
        assert!(said.starts_with("/no/such-save can't be run: "), "{said}");
        assert_eq!(variant(Path::new("/no/such-save")), Variant::Legacy);
    }

    /// As where the kernel lacks nf_tables: iptables(8) fails, and iptables-save(8) still tells its version.
    #[test]
    fn one_program_that_answers_is_enough() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("syngate-look-{}", std::process::id()));
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

    #[test]
    fn a_path_is_kept_once() {
        let one = for_ever(Path::new("/sbin/iptables-save")).unwrap();
        let other = for_ever(Path::new("/sbin/iptables-save")).unwrap();
        assert!(std::ptr::eq(one, other));
    }
}
