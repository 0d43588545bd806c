//! The rules that a run has made, and whether they still do what they should.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::around::{Fault, Table};
use super::compile::{Clock, Place, Script};
use super::listing::{Ask, Listing};
use super::programs::Programs;
use super::recent;
use super::save::{Part, parts};
use crate::gate::backend::Deadline;
use crate::gate::kinds::Variant;
use crate::gate::nft::tables::Changes;
use crate::gate::rules::Rules;
use crate::words::family::Family;
use crate::words::ports::PortSet;

/// Interval between listings of the rules: only a listing shows whether somebody has put other rules
/// before them, or changed them.
pub(crate) const LIST_EVERY: Duration = Duration::from_millis(250);
/// The pause after a listing is at least this many times as long as it took: a host with many rules
/// has other work.
const LIST_PAUSE: u32 = 10;
/// A listing that is this old is as good as a new one: the gate has just been closed.
const FRESH: Duration = Duration::from_millis(20);

pub(super) struct Standing {
    /// With the ports that are gated now.
    pub(super) rules: Rules,
    pub(super) made: Vec<Made>,
    pub(super) clock: Clock,
    /// When the kernel opens the gate, if its time counts from the arming.
    pub(super) opens: Option<Deadline>,
    pub(super) armed: bool,
    /// When the last listing began that is over.
    listed_at: Instant,
    listing_took: Duration,
    /// The one that goes on beside the run.
    listing: Option<Listing>,
    /// Shows whether a listing would tell anything new. `None`: on x_tables nothing does.
    changes: Option<Changes>,
    /// What the last listing has shown.
    found: Result<(), Fault>,
}

/// The rules for one IP version.
pub(super) struct Made {
    pub(super) family: Family,
    pub(super) place: Place,
    /// Some of the rules stop SYNs of this IP version.
    stops: bool,
    /// The rules as iptables lists them. `None`: not listed since their ports were changed.
    listed: Option<Part>,
}

impl Made {
    pub(super) fn new(family: Family, place: Place, rules: &Rules) -> Made {
        Made {
            family,
            place,
            stops: rules.stop(family),
            listed: None,
        }
    }

    pub(super) fn script<'a>(&self, id: &'a str, rules: &'a Rules) -> Script<'a> {
        Script {
            id,
            family: self.family,
            rules,
            place: self.place,
        }
    }

    fn check(&mut self, saved: &str, id: &str, ports: &PortSet) -> Result<(), Fault> {
        let part = parts(saved).remove(id).unwrap_or_default();
        let known = self.listed.as_ref();
        let same =
            known.is_none_or(|known| (&known.jumps, &known.rules) == (&part.jumps, &part.rules));
        let stopped = match self.stops {
            true => ports,
            false => &PortSet::EMPTY,
        };
        if part.ports != *stopped || !same {
            return Err(Fault::Changed);
        }
        Table::of(saved, self.place.table).check(self.place, id, ports)?;
        self.listed = Some(part);
        Ok(())
    }
}

impl Standing {
    /// `made` was listed at this moment, and is what it should be.
    pub(super) fn new(
        rules: &Rules,
        made: Vec<Made>,
        clock: Clock,
        opens: Option<Deadline>,
        variant: Variant,
    ) -> Standing {
        Standing {
            rules: rules.clone(),
            made,
            clock,
            opens,
            armed: true,
            listed_at: Instant::now(),
            listing_took: Duration::ZERO,
            listing: None,
            changes: match variant {
                Variant::Nft => Changes::watch().ok(),
                Variant::Default | Variant::Legacy => None,
            },
            found: Ok(()),
        }
    }

    pub(super) fn families(&self) -> Vec<Family> {
        self.made.iter().map(|made| made.family).collect()
    }

    pub(super) fn found(&self) -> Result<(), Fault> {
        self.found.clone()
    }

    pub(super) fn ports_changed(&mut self, ports: &PortSet) {
        self.rules.ports = ports.clone();
        self.made.iter_mut().for_each(|made| made.listed = None);
        // The listing may show the rules as they were before.
        self.listing = None;
    }

    /// Opens the gate, without a program.
    ///
    /// # Errors
    /// The gate may still be closed.
    pub(super) fn disarm(&self, id: &str) -> Result<()> {
        for family in self.families() {
            match recent::disarm(id, family) {
                // The rule is gone, and so is its list.
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                done => done.context("disarming xt_recent")?,
            }
        }
        Ok(())
    }

    /// Closes the opened gate at once, without a program. Returns `false` where the rules are gone. The
    /// kernel's deadline counts anew, so these rules are not to stay.
    pub(super) fn arm(&self, id: &str) -> bool {
        let mut families = self.families().into_iter();
        let armed = matches!(self.clock, Clock::Recent(_))
            && families.all(|family| recent::arm(id, family).is_ok());
        if !armed {
            // One IP version may be armed.
            let _ = self.disarm(id);
        }
        armed
    }

    /// Whether the rules stood when they were listed last. Lists them only every now and then, unless the
    /// kernel shows at once that they are gone, and does not wait for that: many rules take long.
    pub(super) fn look(&mut self, programs: &Programs, id: &str) -> Result<(), Fault> {
        if self.misses_list(id, recent::exists) {
            self.found = Err(Fault::Changed);
        } else if let Some(listing) = &mut self.listing {
            if let Some(listed) = listing.ended() {
                // Rules that can't be listed may still be there.
                let _ = self.take_in(listed, id);
            }
        } else if self.listed_at.elapsed() >= LIST_EVERY.max(self.listing_took * LIST_PAUSE) {
            self.begin(programs);
        }
        self.found.clone()
    }

    /// See [`Backend::found_late`](crate::gate::backend::Backend::found_late).
    pub(super) fn found_late(&mut self, programs: &Programs, id: &str) -> Option<String> {
        // Where the gate opens by a change of its rules, these tell nothing any more.
        if !matches!(self.clock, Clock::Recent(_)) {
            return None;
        }
        let _ = self.list(programs, id);
        match self.found() {
            Err(Fault::Changed) => Some("the gate's rules are not as syngate made them".to_owned()),
            found => found.err().map(|fault| told(&self.made, &fault)),
        }
    }

    /// The ports that are closed now.
    ///
    /// # Errors
    /// The rules can't be listed.
    pub(super) fn shut(&mut self, programs: &Programs, id: &str) -> Result<PortSet> {
        if self.misses_list(id, recent::is_armed) {
            return Ok(PortSet::EMPTY);
        }
        if self.listed_at.elapsed() >= FRESH {
            self.list(programs, id)?;
        }
        Ok(match self.found {
            Ok(()) => self.rules.ports.clone(),
            Err(_) => PortSet::EMPTY,
        })
    }

    /// Whether a list of xt_recent that the rules need is not as it has to be.
    fn misses_list(&self, id: &str, is_so: fn(&str, Family) -> bool) -> bool {
        let mut made = self.made.iter();
        matches!(self.clock, Clock::Recent(_)) && made.any(|made| !is_so(id, made.family))
    }

    /// Begins to list the rules, if that would tell anything new.
    fn begin(&mut self, programs: &Programs) {
        let unfinished = self.listing.take().is_some();
        let changed = self.changes.as_mut().is_none_or(Changes::any);
        if !changed && !unfinished {
            self.listed_at = Instant::now();
            return;
        }
        self.listing = Some(Listing::begin(asks(&self.made, programs)));
    }

    /// Lists the rules, and waits for that.
    fn list(&mut self, programs: &Programs, id: &str) -> Result<()> {
        self.begin(programs);
        let Some(listing) = &mut self.listing else {
            return Ok(());
        };
        let listed = listing.wait_briefly();
        self.take_in(listed, id)
    }

    fn take_in(&mut self, listed: Vec<Result<String>>, id: &str) -> Result<()> {
        if let Some(listing) = self.listing.take() {
            (self.listed_at, self.listing_took) = (listing.began(), listing.took());
        }
        let checked = check(&mut self.made, listed, id, &self.rules.ports);
        if checked.is_err() {
            // What was not seen now may not change any more.
            self.changes = None;
        }
        self.found = checked?;
        Ok(())
    }
}

/// The fault in the words of a warning.
pub(super) fn told(made: &[Made], fault: &Fault) -> String {
    fault.told(made.first().map_or("", |made| made.place.table))
}

/// The programs that list these rules.
fn asks<'a>(made: &'a [Made], programs: &'a Programs) -> impl Iterator<Item = Ask<'a>> {
    made.iter().map(|made| Ask {
        programs,
        family: made.family,
        table: Some(made.place.table),
    })
}

/// Lists the rules of run `id`, and compares them with what was listed before.
///
/// # Errors
/// The rules can't be listed.
pub(super) fn list(
    made: &mut [Made],
    programs: &Programs,
    id: &str,
    ports: &PortSet,
) -> Result<Result<(), Fault>> {
    let listed = Listing::begin(asks(made, programs)).wait_briefly();
    check(made, listed, id, ports)
}

/// Compares what was `listed` with what was listed before.
///
/// # Errors
/// Something could not be listed.
fn check(
    made: &mut [Made],
    listed: Vec<Result<String>>,
    id: &str,
    ports: &PortSet,
) -> Result<Result<(), Fault>> {
    for (made, saved) in made.iter_mut().zip(listed) {
        if let Err(fault) = made.check(&saved?, id, ports) {
            return Ok(Err(fault));
        }
    }
    Ok(Ok(()))
}
