//! Tables without an owner. Others can change them, and save them and load them again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::libc;

use super::answers;
use super::ruleset::Ruleset;
use super::tables::Tables;
use super::uapi::{
    NFT_META_TIME_NS, NFTA_CMP_DATA, NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME,
    NFTA_META_KEY, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
};
use crate::gate::backend::Deadline;
use crate::kernel::netlink::{Refusal, attribute, attributes, get};
use crate::words::ports::PortSet;

/// How much longer than `--max-closed` the rules match: their end is a date in whole seconds, and the
/// clock may be slewed. The elements of the set expire at `--max-closed`.
const LATER: Duration = Duration::from_secs(1);
/// The kernel counts the time of an element in ticks, so it may expire this much too early.
const TICKS: Duration = Duration::from_millis(50);

/// The end of rules by the wall clock, in seconds since 1970, with so much time left.
pub(super) fn end_after(left: Duration) -> u64 {
    (since_1970() + left + LATER).as_secs() + 1
}

pub(super) fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// The same rules with so much time left, if they end by the wall clock.
pub(super) fn renewed(rules: &Ruleset, left: Duration) -> Ruleset {
    rules.ending(rules.end().map(|_| end_after(left)))
}

/// What others can change, as the kernel lists it. The gated ports are compared apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// The expressions of each chain's rules.
    rules: Vec<Vec<Vec<u8>>>,
    /// The flags of each table.
    flags: Vec<u32>,
    /// The keys of each set of the scope, and whether each is the end of an interval.
    sets: Vec<BTreeSet<(Vec<u8>, bool)>>,
}

impl Listed {
    /// Whether the change concerns more than rules.
    fn needs_new_tables(&self, known: &Listed) -> bool {
        (&self.flags, &self.sets) != (&known.flags, &known.sets)
    }
}

impl Tables {
    /// If the gate is `open`, only of tables whose rules stay.
    fn list(&mut self, rules: &Ruleset, open: bool) -> Result<Listed, Refusal> {
        let (mut chains, mut flags, mut sets) = (Vec::new(), Vec::new(), Vec::new());
        for table in rules.tables.iter().filter(|table| table.stays || !open) {
            let (family, name) = (table.family, &*rules.name);
            flags.push(self.flags(family, name)?);
            for chain in &table.chains {
                let names = [(NFTA_RULE_TABLE, name), (NFTA_RULE_CHAIN, chain.name())];
                let kind = libc::NFT_MSG_GETRULE;
                chains.push(self.dump(family, kind, &names, |row| vec![expressions(row)])?);
            }
            for set in &table.sets {
                let names = [
                    (NFTA_SET_ELEM_LIST_TABLE, name),
                    (NFTA_SET_ELEM_LIST_SET, set.name),
                ];
                let keys = self.dump(family, libc::NFT_MSG_GETSETELEM, &names, keys)?;
                sets.push(keys.into_iter().collect());
            }
        }
        Ok(Listed {
            rules: chains,
            flags,
            sets,
        })
    }
}

fn expressions(row: &[u8]) -> Vec<u8> {
    let body = row.get(4..).unwrap_or_default();
    let expressions = attribute(body, NFTA_RULE_EXPRESSIONS);
    expressions.unwrap_or_default().to_vec()
}

/// When the rule in one message of a dump ends by the wall clock, since 1970.
pub(super) fn end(row: &[u8]) -> Option<Duration> {
    let expressions = expressions(row);
    let mut after_clock = attributes(&expressions).skip_while(|(_, e)| !loads_clock(e));
    let compared = after_clock.find_map(|(_, expression)| {
        let data = data_of(expression, "cmp")?;
        attribute(attribute(data, NFTA_CMP_DATA)?, NFTA_DATA_VALUE)
    });
    get(compared?, 0)
        .map(u64::from_be_bytes)
        .map(Duration::from_nanos)
}

fn loads_clock(expression: &[u8]) -> bool {
    let key = data_of(expression, "meta").and_then(|data| attribute(data, NFTA_META_KEY));
    let key = key.and_then(|key| get(key, 0)).map(u32::from_be_bytes);
    key == Some(NFT_META_TIME_NS)
}

/// The data of an expression of that name.
fn data_of<'a>(expression: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let is_so = answers::text(attribute(expression, NFTA_EXPR_NAME)?) == name;
    attribute(expression, NFTA_EXPR_DATA).filter(|_| is_so)
}

fn keys(row: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let elements = answers::elements(row);
    elements.map(|e| (e.key.to_vec(), e.end)).collect()
}

/// Notices what others change.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What the kernel listed after the run's own last change.
    known: Option<Listed>,
    /// The number of the ruleset in which all was as it should be.
    generation: Option<u32>,
    /// A change of the ports would not mend what others have changed.
    pub(super) needs_new_tables: bool,
}

impl Watch {
    /// Takes what the kernel lists now for what it should list.
    pub(super) fn begin(&mut self, tables: &mut Tables, rules: &Ruleset) {
        *self = Watch {
            generation: tables.generation(),
            known: tables.list(rules, false).ok(),
            needs_new_tables: false,
        };
    }

    /// The gate is open.
    pub(super) fn opened(&mut self) {
        *self = Watch::default();
    }

    /// Whether the clock was set beyond the end of the rules.
    pub(super) fn is_over(&self, rules: &Ruleset) -> bool {
        let now = since_1970().as_secs();
        self.known.is_some() && rules.end().is_some_and(|end| now >= end)
    }

    /// Whether all is as it should be. Lists it only if somebody has changed nf_tables.
    ///
    /// # Errors
    /// The table can't be listed.
    pub(super) fn look(
        &mut self,
        tables: &mut Tables,
        rules: &Ruleset,
        shut: &PortSet,
        until: Deadline,
    ) -> Result<bool, Refusal> {
        let left = until.saturating_duration_since(Instant::now());
        if self.is_over(rules) && !left.is_zero() {
            return Ok(false);
        }
        let generation = tables.generation();
        if generation.is_some() && generation == self.generation {
            return Ok(true);
        }
        self.generation = None;
        let open = shut.is_empty();
        let listed = tables.list(rules, open)?;
        let counts = listed.rules.iter().map(Vec::len);
        let of = rules.tables.iter().filter(|table| table.stays || !open);
        let complete = counts.eq(of.flat_map(|t| &t.chains).map(|chain| chain.rules.len()));
        let known = self.known.as_ref();
        self.needs_new_tables = known.is_some_and(|known| listed.needs_new_tables(known));
        let same = known.is_none_or(|known| *known == listed);
        let expires = left <= TICKS;
        if !complete || !same || !open && !expires && tables.ports_in_sets(rules)? != *shut {
            return Ok(false);
        }
        self.known = Some(listed);
        self.generation = generation;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_end_after_the_elements() {
        let left = Duration::from_millis(1_500);
        let later = Duration::from_secs(end_after(left)) - since_1970();
        assert!(later > Duration::from_secs(2), "{later:?}");
        assert!(later < Duration::from_secs(5), "{later:?}");
    }
}
