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

/// The rules of a table with their counters.
pub(super) fn table(save: &Path, table: &str) -> Result<Output> {
    let asked = || {
        let iptables = IPTables {
            cmd: for_ever(save)?,
            has_check: false,
            // `true` makes the crate add `--wait`, which has no time limit.
            has_wait: false,
            is_numeric: true,
        };
        contained(|| {
            let output = iptables.execute(table, "-c");
            output.map_err(|error| anyhow!("{error}"))
        })?
    };
    asked().with_context(|| format!("{} can't be run", save.display()))
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
    }

    #[test]
    fn a_path_is_kept_once() {
        let one = for_ever(Path::new("/sbin/iptables-save")).unwrap();
        let other = for_ever(Path::new("/sbin/iptables-save")).unwrap();
        assert!(std::ptr::eq(one, other));
    }
}
