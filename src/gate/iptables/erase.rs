//! Removes a run's rules from iptables.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::failures::{Hung, LockHeld};
use super::list::asks;
use super::listing::{Ask, Listing};
use super::programs::Programs;
use super::recent;
use super::save::parts;
use crate::gate::kinds::Variant;
use crate::gate::rules::XTABLES_WAIT;
use crate::words::family::Family;
use crate::words::lacking::Lacking;

/// How long the kernel may take to release the list of a removed rule.
const GONE_WITHIN: Duration = Duration::from_millis(500);
const GONE_LOOK: Duration = Duration::from_millis(1);
/// How often syngate tries again, because somebody may change the rules between its look and its
/// change.
const ERASE_TRIES: usize = 5;

/// Removes the rules of run `id`. It is no error if there are none.
///
/// # Errors
/// The error of the program; rules may be left.
pub(crate) fn erase(variant: Variant, id: &str) -> Result<()> {
    let path = std::env::var_os("PATH");
    let programs = Programs::of(variant, path.as_deref()).map_err(Lacking)?;
    erase_with(&programs, id, XTABLES_WAIT)
}

/// Lists the rules, deletes those of the run, and lists again to check that they are gone.
pub(super) fn erase_with(programs: &Programs, id: &str, wait: Duration) -> Result<()> {
    // This opens the gate at once. The rest may take longer.
    for family in Family::ALL {
        let _ = recent::disarm(id, family);
    }
    let asked: Vec<Ask> = asks(programs).collect();
    let listed = Listing::begin(asked.iter().copied()).wait();
    for (Ask { family, .. }, saved) in asked.into_iter().zip(listed) {
        let mut tries = 0;
        let mut listed = parts(&saved?).remove(id);
        while let Some(part) = listed {
            tries += 1;
            match programs.restore(family, &part.delete(), wait) {
                Err(error)
                    if error.is::<LockHeld>() || error.is::<Hung>() || tries >= ERASE_TRIES =>
                {
                    return Err(error);
                }
                Ok(()) if tries >= ERASE_TRIES => bail!("the rules of run {id} come back"),
                _ => (),
            }
            // The table may be gone as well.
            let left = programs.save_table(family, &part.table);
            let left = left.or_else(|_| programs.save(family))?;
            listed = parts(&left).remove(id);
        }
        // A program that no longer understands the table lists no rules and has removed none
        // either. nf_tables takes a moment to release a match.
        let until = Instant::now() + GONE_WITHIN;
        while recent::exists(id, family) {
            anyhow::ensure!(
                Instant::now() < until,
                "a rule of run {id} is not listed, and still there"
            );
            std::thread::sleep(GONE_LOOK);
        }
    }
    Ok(())
}
