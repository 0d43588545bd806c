//! The iptables backend.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::around::{Fault, Table};
use super::compile::{Clock, End, Place, Script, date_stop, places};
use super::erase::erase_with;
use super::failures::{LockHeld, NotUndone, TooLate, can_be_done, hangs, no_such_table, time_left};
use super::listing;
use super::present::has_ipv6;
use super::programs::{BRIEFLY, Programs};
use super::recent;
use super::save::{Part, parts};
use super::standing::{Made, Standing, list, told};
use crate::gate::backend::{Backend, Deadline, Remark, fail_on_demand};
use crate::gate::kinds::{Kind, Variant};
use crate::gate::rules::Rules;
use crate::gate::settings::Settings;
use crate::gate::watchdog::Watchdog;
use crate::gate::who::Who;
use crate::words::family::Family;
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;

/// How much later than `--max-closed` the kernel may open the gate by itself.
const LATEST: Duration = Duration::from_secs(1);
/// How often the backend tries to make the rules when that takes too long: the xtables lock is
/// busy, or there are many rules.
const MAKE_TRIES: usize = 3;

/// The SYNs that the rules have stopped.
const STOPPED: fn(&Part) -> u64 = |part| part.syns_stopped;

pub(crate) struct Iptables {
    variant: Variant,
    programs: Programs,
    id: String,
    who: Who,
    wait: Duration,
    lingers: Duration,
    wanted: Rules,
    /// The rules that should stand, until they are removed.
    rules: Option<Rules>,
    /// The rules that the backend has made.
    standing: Option<Standing>,
    watchdog: Option<Watchdog>,
    remarks: Vec<Remark>,
    /// SYNs counted by rules that somebody has removed since.
    counted_before: u64,
    /// The kernel may have taken a change, so there may be rules to remove.
    changed: bool,
    /// xt_recent can't be used. The backend does not try it again, because undoing the attempt may
    /// end NAT.
    by_date: bool,
    /// How much longer than its tries have allowed for the programs have taken.
    late: Duration,
    /// iptables-restore hung when it should open the gate. The watchdog goes on trying, not the run.
    hangs: bool,
}

impl Iptables {
    /// Changes nothing in the kernel.
    ///
    /// # Errors
    /// [`Lacking`]: the variant is not installed.
    pub(crate) fn new(variant: Variant, settings: &Settings, rules: &Rules) -> Result<Iptables> {
        let path = std::env::var_os("PATH");
        let programs = Programs::of(variant, path.as_deref()).map_err(Lacking)?;
        let variant = match variant {
            Variant::Default => programs.truly(),
            known => known,
        };
        Ok(Iptables {
            variant,
            programs: programs.beside(settings.meanwhile.clone()),
            id: settings.run.clone(),
            who: settings.who.clone(),
            wait: settings.xtables_wait,
            lingers: settings.lingers,
            wanted: rules.clone(),
            rules: None,
            standing: None,
            watchdog: None,
            remarks: Vec::new(),
            counted_before: 0,
            changed: false,
            by_date: false,
            late: Duration::ZERO,
            hangs: false,
        })
    }

    /// The IP versions to gate: those in the scope that this host has.
    fn families(&mut self, rules: &Rules) -> Result<Vec<Family>> {
        let mut families = Vec::new();
        for family in Family::ALL {
            if !rules.are_for(family) {
                continue;
            }
            match (family, has_ipv6(), self.programs.has(family)) {
                (Family::V4, _, _) | (Family::V6, true, true) => families.push(family),
                (Family::V6, false, _) => {
                    self.remark(Remark::Detail("this host has no IPv6".to_owned()))
                }
                (Family::V6, true, false) => {
                    self.remark(Remark::Warning(
                        "IPv6 is not gated: ip6tables is not installed".to_owned(),
                    ));
                }
            }
        }
        anyhow::ensure!(!families.is_empty(), Lacking(self.remarked()));
        Ok(families)
    }

    fn remark(&mut self, remark: Remark) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    fn remarked(&self) -> String {
        let all: Vec<&str> = self.remarks.iter().map(Remark::text).collect();
        all.join("; ")
    }

    /// Makes the rules with the first of the kernel's clocks that works here.
    fn make(&mut self, rules: &Rules, until: Deadline) -> Result<()> {
        let families = self.families(rules)?;
        // A process that may not list rules could not remove them either.
        let mut saved = Some(listing::all(&self.programs, &families)?);
        if !self.watchdog.as_mut().is_some_and(Watchdog::is_ready) {
            let kind = Kind::Iptables(self.variant);
            let watchdog = Watchdog::start(kind, &self.id, until + self.lingers)?;
            self.watchdog = Some(watchdog);
        }
        if self.by_date {
            return self.make_by_date(rules, &families, until);
        }
        let mut tries = 0;
        let refused = loop {
            tries += 1;
            // The seconds count from the arming. The programs will probably take as long as the last time, or
            // half as long again: slow programs do not take the same time each time.
            let left = time_left(until)?.saturating_sub(self.late + self.late / 2);
            let armed_for = Clock::Recent(left.as_secs_f64().ceil().max(1.0) as u64);
            let Err(error) = self.make_with(rules, &families, saved.take(), armed_for, until)
            else {
                return Ok(());
            };
            match error.downcast_ref::<TooLate>() {
                // A closed gate stays closed meanwhile: the next try puts its rules in the place of these.
                Some(TooLate(by)) if tries < MAKE_TRIES => self.late += *by,
                Some(_) => return Err(self.undo(error)),
                None if error.is::<LockHeld>() || error.is::<Lacking>() => return Err(error),
                None if error.is::<NotUndone>() => return Err(error),
                None => break error,
            }
        };
        self.make_by_date(rules, &families, until)?;
        self.by_date = true;
        self.remark(Remark::Detail(format!(
            "the kernel opens the gate by the wall clock, since xt_recent can't be used: {refused:#}"
        )));
        Ok(())
    }

    fn make_by_date(&mut self, rules: &Rules, families: &[Family], until: Deadline) -> Result<()> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let stop = Clock::Until(date_stop(since_1970 + time_left(until)?));
        self.make_with(rules, families, None, stop, until)
    }

    /// `saved`: what iptables-save has just printed for each IP version.
    fn make_with(
        &mut self,
        rules: &Rules,
        families: &[Family],
        saved: Option<Vec<String>>,
        clock: Clock,
        until: Deadline,
    ) -> Result<()> {
        let saved = saved.map_or_else(|| listing::all(&self.programs, families), Ok)?;
        let mut made = Vec::new();
        for (family, saved) in families.iter().zip(&saved) {
            match self.make_one(*family, rules, saved, &clock) {
                Ok(place) => made.push(Made::new(*family, place, rules)),
                Err(error) if *family == Family::V6 && no_such_table(&error) => {
                    self.remark(Remark::Warning(format!("IPv6 is not gated: {error:#}")));
                }
                Err(error) if rules.steer.translates() && no_such_table(&error) => {
                    return Err(Lacking::nat(error).into());
                }
                Err(error) => return Err(self.undo(error)),
            }
        }
        anyhow::ensure!(!made.is_empty(), Lacking(self.remarked()));
        let opens = match self.arm(&mut made, rules, &clock, until) {
            Ok(opens) => opens,
            Err(error) if error.is::<TooLate>() => return Err(error),
            Err(error) => return Err(self.undo(error)),
        };
        self.standing = Some(Standing::new(rules, made, clock, opens, self.variant));
        Ok(())
    }

    /// Makes the rules for one IP version in the first table that the kernel has.
    fn make_one(
        &mut self,
        family: Family,
        rules: &Rules,
        saved: &str,
        clock: &Clock,
    ) -> Result<Place> {
        let comment = self.who.again().to_string();
        let old = parts(saved).remove(&self.id).unwrap_or_default();
        let mut refused = None;
        for place in places(rules) {
            let place = self.fit(place, rules, saved);
            let script = Script {
                id: &self.id,
                family,
                rules,
                place,
            };
            match self.restore(family, &script.install(&comment, clock, &old)) {
                Ok(()) => {
                    self.changed = true;
                    return Ok(place);
                }
                Err(error) if no_such_table(&error) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.context("there is a place for any rules")?)
    }

    /// Falls back to dropping SYNs where they can't be held: a rule of the host's lets them pass before the queue, or
    /// a rule behind the queue would not see them.
    fn fit(&mut self, place: Place, rules: &Rules, saved: &str) -> Place {
        if place.end == End::First {
            return place;
        }
        match Table::of(saved, place.table).takes(place, &rules.ports) {
            Ok(()) => place,
            Err(fault) => {
                let table = place.table;
                self.remark(Remark::Drops(format!(
                    "SYNs are dropped and not held: {}",
                    fault.told(table)
                )));
                place.first()
            }
        }
    }

    /// Checks that the rules stand, and closes the gate. Returns when the kernel will open it; `None`:
    /// by the wall clock.
    fn arm(
        &self,
        made: &mut [Made],
        rules: &Rules,
        clock: &Clock,
        until: Deadline,
    ) -> Result<Option<Deadline>> {
        if let Err(fault) = list(made, &self.programs, &self.id, &rules.ports)? {
            bail!("iptables took the rules, but {}", told(made, &fault));
        }
        let Clock::Recent(seconds) = clock else {
            return Ok(None);
        };
        let opens = Instant::now() + Duration::from_secs(*seconds);
        anyhow::ensure!(
            opens <= until + LATEST,
            TooLate(opens.saturating_duration_since(until))
        );
        for made in made {
            recent::arm(&self.id, made.family).context("arming xt_recent")?;
        }
        Ok(Some(opens))
    }

    /// Makes a change. If the run is killed meanwhile, the watchdog waits for the end of the
    /// change.
    fn restore(&self, family: Family, script: &str) -> Result<()> {
        Watchdog::waits_for(self.watchdog.as_ref(), || {
            self.programs.restore(family, script, self.wait)
        })
    }

    fn erase(&self) -> Result<()> {
        Watchdog::waits_for(self.watchdog.as_ref(), || {
            erase_with(&self.programs, &self.id, self.wait)
        })
    }

    fn undo(&self, error: anyhow::Error) -> anyhow::Error {
        if !self.changed {
            return error;
        }
        match self.erase() {
            Ok(()) => error,
            Err(undoing) => {
                NotUndone(format!("{error:#}; nor could it be undone: {undoing:#}")).into()
            }
        }
    }

    /// Opens the gate: disarms the rules or, if they were not armed, removes the ports' rules.
    fn open(&mut self) -> Result<()> {
        let Some(standing) = &mut self.standing else {
            return Ok(());
        };
        if matches!(standing.clock, Clock::Recent(_)) {
            standing.disarm(&self.id)?;
        } else {
            let opened = self.replace_ports(&PortSet::EMPTY, false);
            self.hangs = hangs(&opened);
            opened?;
        }
        if let Some(standing) = &mut self.standing {
            standing.armed = false;
        }
        Ok(())
    }

    /// Changes the ports for one IP version after the other. If the second change fails, and `undo` is set,
    /// the first one is undone.
    fn replace_ports(&mut self, ports: &PortSet, undo: bool) -> Result<()> {
        let Some(standing) = &mut self.standing else {
            bail!("no gate was closed");
        };
        let script = |made: &Made, ports: &PortSet| {
            let script = made.script(&self.id, &standing.rules).replace_ports(ports);
            let (programs, family) = (&self.programs, made.family);
            Watchdog::waits_for(self.watchdog.as_ref(), || match ports.is_empty() {
                true => programs.restore(family, &script, self.wait),
                false => programs.restore_soon(family, &script),
            })
        };
        for (n, made) in standing.made.iter().enumerate() {
            if let Err(error) = script(made, ports) {
                for done in standing.made[..n].iter().filter(|_| undo) {
                    let _ = script(done, &standing.rules.ports);
                }
                return Err(error);
            }
        }
        standing.ports_changed(ports);
        Ok(())
    }

    /// Makes the rules once more, after the gate was opened or somebody has removed them. The kernel gets a
    /// new deadline, because arming starts its time anew.
    fn make_again(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        let Some(rules) = &self.rules else {
            bail!("no gate was closed");
        };
        let rules = Rules {
            ports: ports.clone(),
            ..rules.clone()
        };
        let Some(mut was) = self.standing.take() else {
            return self.make(&rules, until);
        };
        let at_once = !was.armed && was.arm(&self.id);
        let counted = self.count(&was.families(), STOPPED).unwrap_or(0);
        if let Err(fault @ (Fault::Passes(_) | Fault::Behind(_))) = was.found() {
            self.remark(Remark::Warning(format!(
                "syngate put the gate's rules in their place again: {}",
                told(&was.made, &fault)
            )));
        }
        // A closed gate, but not with this deadline. The lock may be another program's for long.
        let wait = at_once.then(|| std::mem::replace(&mut self.wait, BRIEFLY));
        let made = self.make(&rules, until);
        self.wait = wait.unwrap_or(self.wait);
        let locked = made.as_ref().is_err_and(anyhow::Error::is::<LockHeld>);
        if at_once && locked && was.rules.ports == *ports {
            was.armed = true;
            self.standing = Some(was);
            return Ok(());
        }
        self.counted_before += counted;
        if at_once && made.is_err() {
            was.disarm(&self.id)?;
        }
        made
    }

    /// What the rules have counted.
    fn count(&self, families: &[Family], of: fn(&Part) -> u64) -> Result<u64> {
        let saved = listing::all(&self.programs, families)?;
        let counts = saved.iter().map(|saved| parts(saved).remove(&self.id));
        Ok(counts.flatten().map(|part| of(&part)).sum())
    }
}

impl Backend for Iptables {
    fn name(&self) -> &'static str {
        self.variant.name()
    }

    fn install(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        self.wanted.ports = ports.clone();
        can_be_done(&self.wanted)?;
        fail_on_demand(self.wanted.steer)?;
        self.make(&self.wanted.clone(), until)?;
        self.rules = Some(self.wanted.clone());
        Ok(())
    }

    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        if ports.is_empty() {
            return self.open();
        }
        let armed = self.standing.as_ref().is_some_and(|i| i.armed);
        if armed && self.intact() {
            return self.replace_ports(ports, true);
        }
        self.make_again(ports, until)
    }

    fn opens(&self) -> Option<Deadline> {
        self.standing.as_ref().and_then(|standing| standing.opens)
    }

    fn shut(&mut self) -> Result<PortSet> {
        match self.standing.as_mut().filter(|standing| standing.armed) {
            Some(standing) => standing.shut(&self.programs, &self.id),
            None => Ok(PortSet::EMPTY),
        }
    }

    fn syns_stopped(&mut self) -> Result<u64> {
        let standing = self.standing.as_ref();
        let counted = standing.map(|standing| self.count(&standing.families(), STOPPED));
        Ok(self.counted_before + counted.transpose()?.unwrap_or_default())
    }

    fn arrived(&mut self) -> Result<u64> {
        let families = self.standing.as_ref().map(Standing::families);
        self.count(&families.unwrap_or_default(), |part| part.arrived)
    }

    fn exposed(&self) -> bool {
        self.rules.is_some()
    }

    fn intact(&mut self) -> bool {
        match &mut self.standing {
            Some(standing) => standing.look(&self.programs, &self.id).is_ok(),
            // The backend could not make the rules once more: the run has to try again.
            None => self.rules.is_none(),
        }
    }

    fn found_late(&mut self) -> Option<String> {
        self.standing.as_mut()?.found_late(&self.programs, &self.id)
    }

    fn empties_queues(&self) -> bool {
        // The built-in chains stay. Connection tracking may go with the last rule that needs it.
        let rules = self.rules.as_ref();
        rules.is_some_and(|rules| rules.steer.translates())
    }

    fn keep_watched(&mut self, until: Deadline) -> Result<Option<String>> {
        let kind = Kind::Iptables(self.variant);
        Watchdog::keep(&mut self.watchdog, kind, &self.id, until + self.lingers)
    }

    fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    fn remove(&mut self) -> Result<()> {
        if self.rules.is_none() && self.watchdog.is_none() {
            return Ok(());
        }
        if self.changed {
            anyhow::ensure!(
                !self.hangs,
                "iptables-restore hangs: the watchdog goes on trying"
            );
            let erased = self.erase();
            self.hangs = hangs(&erased);
            erased?;
        }
        self.rules = None;
        self.standing = None;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        Ok(())
    }
}
