//! The iptables backend.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::compile::{Clock, Script, date_stop, place};
use super::erase::erase_with;
use super::failures::{LockHeld, NotUndone, TooLate, no_such_table};
use super::present::has_ipv6;
use super::programs::Programs;
use super::recent;
use super::save::{Part, parts};
use crate::gate::backend::{Backend, Deadline, fail_on_demand};
use crate::gate::kinds::{Kind, Variant};
use crate::gate::rules::{Rules, Settings};
use crate::gate::watchdog::Watchdog;
use crate::gate::who::Who;
use crate::words::family::Family;
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;
use crate::words::steer::Steer;

/// Interval between listings of the rules where only a listing shows whether somebody has removed
/// them: with a wall-clock deadline, or when several jumps share one list.
pub(crate) const LIST_EVERY: Duration = Duration::from_millis(250);
/// How much later than `--max-closed` the kernel may open the gate by itself.
const LATEST: Duration = Duration::from_secs(1);
/// How often the backend tries to make the rules when that takes too long: the xtables lock is
/// busy, or there are many rules.
const MAKE_TRIES: usize = 3;
pub(crate) struct Iptables {
    variant: Variant,
    programs: Programs,
    id: String,
    who: Who,
    wait: Duration,
    lingers: Duration,
    /// The rules that should stand, until they are removed.
    rules: Option<Rules>,
    /// The rules that the backend has made.
    standing: Option<Standing>,
    watchdog: Option<Watchdog>,
    remarks: Vec<String>,
    /// SYNs counted by rules that somebody has removed since.
    counted_before: u64,
    listed_at: Instant,
    /// The result of the last check.
    found_intact: bool,
    /// The kernel may have taken a change, so there may be rules to remove.
    changed: bool,
    /// xt_recent can't be used. The backend does not try it again, because undoing the attempt may
    /// end NAT.
    by_date: bool,
}

struct Standing {
    /// With the ports that are gated now.
    rules: Rules,
    families: Vec<Family>,
    clock: Clock,
    /// When the kernel opens the gate, if its time counts from the arming.
    opens: Option<Deadline>,
    armed: bool,
}

impl Iptables {
    /// Changes nothing in the kernel.
    ///
    /// # Errors
    /// [`Lacking`]: the variant is not installed.
    pub(crate) fn new(variant: Variant, settings: &Settings) -> Result<Iptables> {
        let path = std::env::var_os("PATH");
        let programs = Programs::of(variant, path.as_deref()).map_err(Lacking)?;
        let variant = match variant {
            Variant::Default => programs.truly(),
            known => known,
        };
        Ok(Iptables {
            variant,
            programs,
            id: settings.run.clone(),
            who: settings.who.clone(),
            wait: settings.xtables_wait,
            lingers: settings.lingers,
            rules: None,
            standing: None,
            watchdog: None,
            remarks: Vec::new(),
            counted_before: 0,
            listed_at: Instant::now(),
            found_intact: true,
            changed: false,
            by_date: false,
        })
    }

    /// The IP versions to gate: those in the scope that this host has.
    fn families(&mut self, scope: &Scope) -> Result<Vec<Family>> {
        let mut families = Vec::new();
        for family in Family::ALL {
            if !scope.gates(family) {
                continue;
            }
            match (family, has_ipv6(), self.programs.has(family)) {
                (Family::V4, _, _) | (Family::V6, true, true) => families.push(family),
                (Family::V6, false, _) => self.remark("this host has no IPv6"),
                (Family::V6, true, false) => {
                    self.remark("IPv6 is not gated: ip6tables is not installed");
                }
            }
        }
        anyhow::ensure!(!families.is_empty(), Lacking(self.remarks.join("; ")));
        Ok(families)
    }

    fn remark(&mut self, text: &str) {
        if !self.remarks.iter().any(|remark| remark == text) {
            self.remarks.push(text.to_owned());
        }
    }

    /// Makes the rules with the first of the kernel's clocks that works here.
    fn make(&mut self, rules: &Rules, until: Deadline) -> Result<()> {
        let families = self.families(&rules.scope)?;
        // A process that may not list rules could not remove them either.
        self.listed(&families)?;
        if !self.watchdog.as_mut().is_some_and(Watchdog::lives) {
            let kind = Kind::Iptables(self.variant);
            let watchdog = Watchdog::start(kind, &self.id, until + self.lingers)?;
            self.watchdog = Some(watchdog);
        }
        if self.by_date {
            return self.make_by_date(rules, &families, until);
        }
        let (mut tries, mut late) = (0, Duration::ZERO);
        let refused = loop {
            tries += 1;
            // The seconds count from the arming. The programs will probably take as long as the last time, or
            // half as long again: slow programs do not take the same time each time.
            let left = time_left(until)?.saturating_sub(late + late / 2);
            let armed_for = Clock::Recent(left.as_secs_f64().ceil().max(1.0) as u64);
            let Err(error) = self.make_with(rules, &families, armed_for, until) else {
                return Ok(());
            };
            match error.downcast_ref::<TooLate>() {
                Some(TooLate(by)) if tries < MAKE_TRIES => late += *by,
                Some(_) => return Err(error),
                None if error.is::<LockHeld>() || error.is::<Lacking>() => return Err(error),
                None if error.is::<NotUndone>() => return Err(error),
                None => break error,
            }
        };
        self.make_by_date(rules, &families, until)?;
        self.by_date = true;
        self.remark(&format!(
            "the kernel opens the gate by the wall clock, since xt_recent can't be used: {refused:#}"
        ));
        Ok(())
    }

    fn make_by_date(&mut self, rules: &Rules, families: &[Family], until: Deadline) -> Result<()> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let stop = Clock::Until(date_stop(since_1970 + time_left(until)?));
        self.make_with(rules, families, stop, until)
    }

    fn make_with(
        &mut self,
        rules: &Rules,
        families: &[Family],
        clock: Clock,
        until: Deadline,
    ) -> Result<()> {
        let comment = self.who.again().to_string();
        let old = match self.changed {
            true => self.listed(families)?,
            false => vec![Part::default(); families.len()],
        };
        let mut made = Vec::new();
        for (family, old) in families.iter().zip(&old) {
            let script = Script {
                id: &self.id,
                family: *family,
                rules,
            };
            let script = script.install(&comment, &clock, old);
            match self.restore(*family, &script) {
                Ok(()) => {
                    self.changed = true;
                    made.push(*family);
                }
                Err(error) if *family == Family::V6 && no_such_table(&error) => {
                    self.remark(&format!("IPv6 is not gated: {error:#}"));
                }
                Err(error) if rules.steer.translates() && no_such_table(&error) => {
                    return Err(Lacking::nat(error).into());
                }
                Err(error) => return Err(self.undo(error)),
            }
        }
        anyhow::ensure!(!made.is_empty(), Lacking(self.remarks.join("; ")));
        let opens = match clock {
            Clock::Recent(seconds) => match self.arm(&made, rules, seconds, until) {
                Ok(opens) => Some(opens),
                Err(error) => return Err(self.undo(error)),
            },
            Clock::Until(_) => None,
        };
        self.listed_at = Instant::now();
        self.found_intact = true;
        self.standing = Some(Standing {
            rules: rules.clone(),
            families: made,
            clock,
            opens,
            armed: true,
        });
        Ok(())
    }

    /// Checks that the rules stand, and closes the gate. Returns when the kernel will open it.
    fn arm(
        &self,
        families: &[Family],
        rules: &Rules,
        seconds: u64,
        until: Deadline,
    ) -> Result<Deadline> {
        let listed = common_ports(&self.listed(families)?, rules);
        anyhow::ensure!(
            listed == rules.ports,
            "iptables took the rules, but lists {} as the gated ports",
            listed.brief()
        );
        let opens = Instant::now() + Duration::from_secs(seconds);
        anyhow::ensure!(
            opens <= until + LATEST,
            TooLate(opens.saturating_duration_since(until))
        );
        for family in families {
            recent::arm(&self.id, *family).context("arming xt_recent")?;
        }
        Ok(opens)
    }

    /// Makes a change. If the run is killed meanwhile, the watchdog waits for the end of the
    /// change.
    fn restore(&self, family: Family, script: &str) -> Result<()> {
        let restore = || self.programs.restore(family, script, self.wait);
        match &self.watchdog {
            Some(watchdog) => watchdog.waits_for(restore),
            None => restore(),
        }
    }

    fn erase(&self) -> Result<()> {
        let erase = || erase_with(&self.programs, &self.id, self.wait);
        match &self.watchdog {
            Some(watchdog) => watchdog.waits_for(erase),
            None => erase(),
        }
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
            for family in &standing.families {
                match recent::disarm(&self.id, *family) {
                    // The rule is gone, and so is its list.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
                    done => done.context("disarming xt_recent")?,
                }
            }
        } else {
            self.replace_ports(&PortSet::EMPTY, false)?;
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
        let script = |family: &Family, ports: &PortSet| {
            let script = Script {
                id: &self.id,
                family: *family,
                rules: &standing.rules,
            };
            let script = script.replace_ports(ports);
            let restore = || self.programs.restore(*family, &script, self.wait);
            match &self.watchdog {
                Some(watchdog) => watchdog.waits_for(restore),
                None => restore(),
            }
        };
        for (n, family) in standing.families.iter().enumerate() {
            if let Err(error) = script(family, ports) {
                for done in standing.families[..n].iter().filter(|_| undo) {
                    let _ = script(done, &standing.rules.ports);
                }
                return Err(error);
            }
        }
        standing.rules.ports = ports.clone();
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
        if let Some(standing) = self.standing.take() {
            self.counted_before += self
                .listed(&standing.families)
                .map_or(0, |parts| parts.iter().map(|part| part.syns_stopped).sum());
        }
        self.make(&rules, until)
    }

    fn listed(&self, families: &[Family]) -> Result<Vec<Part>> {
        let of = |family: &Family| {
            let saved = self.programs.save(*family)?;
            Ok(parts(&saved).remove(&self.id).unwrap_or_default())
        };
        families.iter().map(of).collect()
    }
}

impl Backend for Iptables {
    fn name(&self) -> &'static str {
        self.variant.name()
    }

    fn install(&mut self, rules: &Rules, until: Deadline) -> Result<()> {
        anyhow::ensure!(
            !matches!(rules.steer, Steer::Divert(_)),
            Lacking(
                "--syn divert can't be done: iptables can't remember connections by the packets that \
                 it sees"
                    .to_owned()
            )
        );
        fail_on_demand(rules.steer)?;
        self.make(rules, until)?;
        self.rules = Some(rules.clone());
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
        let Some(standing) = self.standing.as_ref().filter(|standing| standing.armed) else {
            return Ok(PortSet::EMPTY);
        };
        if matches!(standing.clock, Clock::Recent(_)) {
            // The backend has listed the rules before it armed them, and a list is there as long as its rule.
            let mut families = standing.families.iter();
            let armed = families.all(|family| recent::is_armed(&self.id, *family));
            return Ok(match armed {
                true => standing.rules.ports.clone(),
                false => PortSet::EMPTY,
            });
        }
        let listed = self.listed(&standing.families)?;
        Ok(common_ports(&listed, &standing.rules))
    }

    fn syns_stopped(&mut self) -> Result<u64> {
        let Some(standing) = &self.standing else {
            return Ok(self.counted_before);
        };
        let listed = self.listed(&standing.families)?;
        let counted = listed.iter().map(|part| part.syns_stopped).sum::<u64>();
        Ok(self.counted_before + counted)
    }

    fn exposed(&self) -> bool {
        self.rules.is_some()
    }

    fn intact(&mut self) -> bool {
        let Some(standing) = &self.standing else {
            // The backend could not make the rules once more: the run has to try again.
            return self.rules.is_none();
        };
        if matches!(standing.clock, Clock::Recent(_)) {
            let mut families = standing.families.iter();
            let exist = families.all(|family| recent::exists(&self.id, *family));
            // A list is there as long as any of the jumps.
            if !exist || jumps(&standing.rules) == 1 {
                return exist;
            }
        }
        if self.listed_at.elapsed() >= LIST_EVERY {
            let jumps = jumps(&standing.rules);
            let listed = self.listed(&standing.families);
            self.listed_at = Instant::now();
            // Rules that can't be listed may still be there.
            self.found_intact = listed.map_or(true, |parts| {
                parts.iter().all(|part| part.jumps.len() >= jumps)
            });
        }
        self.found_intact
    }

    fn empties_queues(&self) -> bool {
        // The built-in chains stay. Connection tracking may go with the last rule that needs it.
        let rules = self.rules.as_ref();
        rules.is_some_and(|rules| rules.steer.translates())
    }

    fn remarks(&self) -> &[String] {
        &self.remarks
    }

    fn remove(&mut self) -> Result<()> {
        if self.rules.is_none() && self.watchdog.is_none() {
            return Ok(());
        }
        if self.changed {
            self.erase()?;
        }
        self.rules = None;
        self.standing = None;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        Ok(())
    }
}

/// How many jumps lead to a run's chain.
fn jumps(rules: &Rules) -> usize {
    let (_, built_in) = place(rules);
    built_in.len()
}

/// The ports that are gated for all IP versions, in parts to which all jumps lead.
fn common_ports(parts: &[Part], rules: &Rules) -> PortSet {
    let mut shut = parts.iter().map(|part| match part.jumps.len() {
        n if n == jumps(rules) => part.ports.clone(),
        _ => PortSet::EMPTY,
    });
    let first = shut.next().unwrap_or_default();
    shut.fold(first, |all, ports| all.intersection(&ports))
}

fn time_left(until: Deadline) -> Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    anyhow::ensure!(!left.is_zero(), "the deadline (--max-closed) has passed");
    Ok(left)
}
