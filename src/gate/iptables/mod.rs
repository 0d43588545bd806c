//! The iptables backend, for hosts without nf_tables, or whose firewall is iptables. Each IP
//! version has its own rules, each changed in one go by iptables-restore(8). Nothing of it goes by
//! itself when we do, so a watchdog is there first; and the kernel stops matching after a time.
//!
//! The gate closes when it is armed, and opens when it is disarmed, through xt_recent: at once,
//! and without the lock of iptables. Where that can't be used, adding and removing rules does it.

pub mod census;
pub mod compile;
mod recent;
pub(crate) mod save;
pub mod variant;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use self::compile::{Clock, Script, date_stop, place};
use self::save::{Part, parts};
use self::variant::{LockHeld, Programs};
use super::backend::{Backend, Deadline};
use super::found::Found;
use super::kinds::{Kind, Variant};
use super::rules::{Rules, Settings};
use super::watchdog::Watchdog;
use super::who::Who;
use crate::words::family::Family;
use crate::words::lacking::Lacking;
use crate::words::ports::PortSet;
use crate::words::scope::{Networks, Scope};
use crate::words::steer::Steer;

/// Where the kernel's deadline follows the wall clock, or several jumps have one list, only the
/// rules themselves tell whether somebody has removed them: they are listed this often.
pub const LIST_EVERY: Duration = Duration::from_millis(250);
/// How much later than `--max-closed` the kernel may open by itself.
const LATEST: Duration = Duration::from_secs(1);
/// How often the rules are made anew because it took too long: the lock of iptables was busy, or many
/// rules are there.
const MAKE_TRIES: usize = 3;
/// How long the kernel may take to let go of a removed rule's list, and how often that is looked at.
const GONE_WITHIN: Duration = Duration::from_millis(500);
const GONE_LOOK: Duration = Duration::from_millis(1);
/// Somebody may change the rules between our look at them and our change: how often to try again.
const ERASE_TRIES: usize = 5;

/// One run's rules.
pub struct Iptables {
    variant: Variant,
    programs: Programs,
    id: String,
    who: Who,
    wait: Duration,
    lingers: Duration,
    /// What shall stand, until it is removed.
    rules: Option<Rules>,
    /// What does stand.
    installed: Option<Installed>,
    watchdog: Option<Watchdog>,
    remarks: Vec<String>,
    /// Counted in rules that others have removed.
    counted_before: u64,
    listed_at: Instant,
    /// What was seen then.
    found_intact: bool,
    /// Whether the kernel has taken anything.
    changed: bool,
    /// Whether xt_recent can't be used: it is not tried again, since undoing that may end NAT.
    by_date: bool,
}

struct Installed {
    /// With the ports that are gated now.
    rules: Rules,
    families: Vec<Family>,
    clock: Clock,
    /// When the kernel opens, if that counts from when the rules were armed.
    opens: Option<Deadline>,
    /// Whether new SYNs are stopped at all.
    armed: bool,
}

impl Iptables {
    /// A backend for a run. Changes nothing.
    ///
    /// # Errors
    /// [`Lacking`]: it is not installed.
    pub fn new(variant: Variant, settings: &Settings) -> Result<Iptables> {
        let path = std::env::var_os("PATH");
        let programs = variant.programs(path.as_deref()).map_err(Lacking)?;
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
            installed: None,
            watchdog: None,
            remarks: Vec::new(),
            counted_before: 0,
            listed_at: Instant::now(),
            found_intact: true,
            changed: false,
            by_date: false,
        })
    }

    /// The IP versions to gate: those that the scope names and that this host has.
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

    /// Makes the rules, with the first of the kernel's clocks that works here.
    fn make(&mut self, rules: &Rules, until: Deadline) -> Result<()> {
        let families = self.families(&rules.scope)?;
        // Whoever may not list them could not remove them either.
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
            // The seconds count from when the rules are armed: as late as the last time, probably, or half
            // as much later again, since where programs are slow they are not so evenly.
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
        let standing = match self.changed {
            true => self.listed(families)?,
            false => vec![Part::default(); families.len()],
        };
        let mut made = Vec::new();
        for (family, standing) in families.iter().zip(&standing) {
            let script = Script {
                id: &self.id,
                family: *family,
                rules,
            };
            let script = script.install(&comment, &clock, standing);
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
        self.installed = Some(Installed {
            rules: rules.clone(),
            families: made,
            clock,
            opens,
            armed: true,
        });
        Ok(())
    }

    /// Closes, once it is seen that the rules stand. When the kernel will open.
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

    /// One change, which the watchdog waits for as well.
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

    /// What was made before the error must not stay.
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

    /// Opens by disarming, or, where that is not how it closed, by taking the ports' rules away.
    fn open(&mut self) -> Result<()> {
        let Some(installed) = &mut self.installed else {
            return Ok(());
        };
        if matches!(installed.clock, Clock::Recent(_)) {
            for family in &installed.families {
                match recent::disarm(&self.id, *family) {
                    // The rule is gone, and so is its list.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
                    done => done.context("disarming xt_recent")?,
                }
            }
        } else {
            self.replace_ports(&PortSet::EMPTY, false)?;
        }
        if let Some(installed) = &mut self.installed {
            installed.armed = false;
        }
        Ok(())
    }

    /// For one IP version after the other; if the second fails, the first is undone, unless it is
    /// good as it is.
    fn replace_ports(&mut self, ports: &PortSet, undo: bool) -> Result<()> {
        let Some(installed) = &mut self.installed else {
            bail!("no gate was closed");
        };
        let script = |family: &Family, ports: &PortSet| {
            let script = Script {
                id: &self.id,
                family: *family,
                rules: &installed.rules,
            };
            let script = script.replace_ports(ports);
            let restore = || self.programs.restore(*family, &script, self.wait);
            match &self.watchdog {
                Some(watchdog) => watchdog.waits_for(restore),
                None => restore(),
            }
        };
        for (n, family) in installed.families.iter().enumerate() {
            if let Err(error) = script(family, ports) {
                for done in installed.families[..n].iter().filter(|_| undo) {
                    let _ = script(done, &installed.rules.ports);
                }
                return Err(error);
            }
        }
        installed.rules.ports = ports.clone();
        Ok(())
    }

    /// Closed once more after it was opened, or after somebody has removed the rules: with a new
    /// deadline for the kernel, since arming starts its time anew.
    fn make_again(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        let Some(rules) = &self.rules else {
            bail!("no gate was closed");
        };
        let rules = Rules {
            ports: ports.clone(),
            ..rules.clone()
        };
        if let Some(installed) = self.installed.take() {
            self.counted_before += self
                .listed(&installed.families)
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
        super::backend::fail_on_demand(rules.steer)?;
        self.make(rules, until)?;
        self.rules = Some(rules.clone());
        Ok(())
    }

    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        if ports.is_empty() {
            return self.open();
        }
        let armed = self.installed.as_ref().is_some_and(|i| i.armed);
        if armed && self.intact() {
            return self.replace_ports(ports, true);
        }
        self.make_again(ports, until)
    }

    fn opens(&self) -> Option<Deadline> {
        self.installed
            .as_ref()
            .and_then(|installed| installed.opens)
    }

    fn shut(&mut self) -> Result<PortSet> {
        let Some(installed) = self.installed.as_ref().filter(|installed| installed.armed) else {
            return Ok(PortSet::EMPTY);
        };
        if matches!(installed.clock, Clock::Recent(_)) {
            // The rules were listed before they were armed, and a list is there as long as its rule.
            let mut families = installed.families.iter();
            let armed = families.all(|family| recent::is_armed(&self.id, *family));
            return Ok(match armed {
                true => installed.rules.ports.clone(),
                false => PortSet::EMPTY,
            });
        }
        let listed = self.listed(&installed.families)?;
        Ok(common_ports(&listed, &installed.rules))
    }

    fn syns_stopped(&mut self) -> Result<u64> {
        let Some(installed) = &self.installed else {
            return Ok(self.counted_before);
        };
        let listed = self.listed(&installed.families)?;
        let counted = listed.iter().map(|part| part.syns_stopped).sum::<u64>();
        Ok(self.counted_before + counted)
    }

    fn exposed(&self) -> bool {
        self.rules.is_some()
    }

    fn intact(&mut self) -> bool {
        let Some(installed) = &self.installed else {
            // They could not be made once more: to be tried again.
            return self.rules.is_none();
        };
        if matches!(installed.clock, Clock::Recent(_)) {
            let mut families = installed.families.iter();
            let exist = families.all(|family| recent::exists(&self.id, *family));
            // A list is there as long as any of the jumps.
            if !exist || jumps(&installed.rules) == 1 {
                return exist;
            }
        }
        if self.listed_at.elapsed() >= LIST_EVERY {
            let jumps = jumps(&installed.rules);
            let listed = self.listed(&installed.families);
            self.listed_at = Instant::now();
            // What can't be listed may still be there.
            self.found_intact = listed.map_or(true, |parts| {
                parts.iter().all(|part| part.jumps.len() >= jumps)
            });
        }
        self.found_intact
    }

    fn empties_queues(&self) -> bool {
        // The built-in chains stay; connection tracking may go with the last rule that needs it.
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
        self.installed = None;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        Ok(())
    }
}

/// How many jumps lead to the chains of a run.
fn jumps(rules: &Rules) -> usize {
    let (_, built_in) = place(rules);
    built_in.len()
}

/// The ports that are gated for all IP versions, and that packets are led to.
fn common_ports(parts: &[Part], rules: &Rules) -> PortSet {
    let mut shut = parts.iter().map(|part| match part.jumps.len() {
        n if n == jumps(rules) => part.ports.clone(),
        _ => PortSet::EMPTY,
    });
    let first = shut.next().unwrap_or_default();
    shut.fold(first, |all, ports| all.intersection(&ports))
}

/// Removes what run `id` has made; nothing there is no error.
///
/// # Errors
/// What the programs say; something may still stand.
pub fn erase(variant: Variant, id: &str) -> Result<()> {
    let path = std::env::var_os("PATH");
    let programs = variant.programs(path.as_deref()).map_err(Lacking)?;
    erase_with(&programs, id, super::rules::XTABLES_WAIT)
}

/// Something was made, and could neither be completed nor removed: the watchdog goes on trying.
#[derive(Debug)]
struct NotUndone(String);

impl std::error::Error for NotUndone {}

impl std::fmt::Display for NotUndone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kernel would open so much later than it may: its seconds count from the arming.
#[derive(Debug)]
struct TooLate(Duration);

impl std::error::Error for TooLate {}

impl std::fmt::Display for TooLate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "iptables took too long: its lock was busy, or it has many rules to look through",
        )
    }
}

/// Lists, deletes what is listed, and lists again to see that it is gone.
fn erase_with(programs: &Programs, id: &str, wait: Duration) -> Result<()> {
    // Opens at once, whatever holds up the rest.
    for family in Family::ALL {
        let _ = recent::disarm(id, family);
    }
    for family in Family::ALL {
        if !programs.has(family) || (family == Family::V6 && !has_ipv6()) {
            continue;
        }
        let mut tries = 0;
        while let Some(part) = parts(&programs.save(family)?).remove(id) {
            tries += 1;
            match programs.restore(family, &part.delete(), wait) {
                Err(error) if error.is::<LockHeld>() || tries >= ERASE_TRIES => return Err(error),
                Ok(()) if tries >= ERASE_TRIES => bail!("the rules of run {id} come back"),
                _ => (),
            }
        }
        // What the program does not list, because it does not understand the table any more, it has
        // not removed either. nf_tables takes a moment to let go of a match.
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

/// The gates that stand in iptables of any variant, and why some may be missing. Leaves no trace:
/// the tables of iptables-legacy are looked at only if they are there.
pub fn find(has_nft: bool) -> (Vec<Found>, Vec<String>) {
    let (mut found, mut unseen) = (Vec::new(), Vec::new());
    for (variant, programs) in installed_variants() {
        let has_tables = match variant {
            Variant::Legacy => has_legacy_tables(),
            _ => has_nft,
        };
        if !has_tables {
            continue;
        }
        for family in Family::ALL {
            if !programs.has(family) || (family == Family::V6 && !has_ipv6()) {
                continue;
            }
            match programs.save(family) {
                Ok(saved) => add_parts(variant, family, &saved, &mut found),
                Err(error) => unseen.push(format!("{}: {error:#}", variant.name())),
            }
        }
    }
    (found, unseen)
}

/// Whether a list of a run's is left: then so are its rules. Cheap.
pub fn has_signs() -> bool {
    recent::any()
}

fn add_parts(variant: Variant, family: Family, saved: &str, found: &mut Vec<Found>) {
    for (run, part) in parts(saved) {
        let kind = Kind::Iptables(variant);
        let at = found
            .iter()
            .position(|gate| gate.kind == kind && gate.run == run);
        let at = at.unwrap_or_else(|| {
            found.push(Found {
                kind,
                run: run.clone(),
                owned: false,
                who: None,
                ports: PortSet::EMPTY,
                scope: Scope::default(),
                syns_stopped: None,
                opens_in: None,
            });
            found.len() - 1
        });
        add_part(family, part, &mut found[at]);
    }
}

fn add_part(family: Family, part: Part, gate: &mut Found) {
    let who = part.who.clone().unwrap_or_default();
    // xt_recent's clock is one that nobody sets; a date is one of the wall clock's.
    let (since, now) = match part.by_date {
        false => (who.up, super::who::up()),
        true => (who.since, super::who::now()),
    };
    let until = part
        .closes_for
        .map(|time| since.saturating_add(time.as_secs()));
    let left = until.map(|until| until.saturating_sub(now));
    let over = left == Some(0);
    let disarmed = recent::exists(&gate.run, family) && !recent::is_armed(&gate.run, family);
    if !part.jumps.is_empty() && !disarmed && !over {
        gate.ports = gate.ports.union(&part.ports);
        gate.opens_in = gate.opens_in.max(left.map(Duration::from_secs));
    }
    let counted = gate.syns_stopped.unwrap_or(0);
    gate.syns_stopped = Some(counted.saturating_add(part.syns_stopped));
    gate.scope.hook = part.scope.hook;
    gate.scope.allow_local |= part.scope.allow_local;
    let join = |a: &Networks, b: &Networks| Networks::new([a.all(), b.all()].concat());
    gate.scope.to = join(&gate.scope.to, &part.scope.to);
    gate.scope.allow_from = join(&gate.scope.allow_from, &part.scope.allow_from);
    gate.scope.interfaces = part.scope.interfaces;
    gate.who = gate.who.take().or(part.who);
}

/// What holds for any text of iptables-save's, of both IP versions: what is found there is shown.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for family in Family::ALL {
        add_parts(Variant::Nft, family, text, &mut found);
    }
    found
}

/// The variants that are installed, each once.
pub fn installed_variants() -> Vec<(Variant, Programs)> {
    let path = std::env::var_os("PATH");
    let mut variants: Vec<(Variant, Programs)> = [Variant::Legacy, Variant::Nft]
        .into_iter()
        .filter_map(|variant| Some((variant, variant.programs(path.as_deref()).ok()?)))
        .collect();
    if let Ok(programs) = Variant::Default.programs(path.as_deref()) {
        let truly = programs.truly();
        if !variants.iter().any(|(variant, _)| *variant == truly) {
            variants.push((truly, programs));
        }
    }
    variants
}

/// Whether x_tables has any table in this network namespace. Asking iptables-legacy would make one.
pub fn has_legacy_tables() -> bool {
    let tables = |family| census::legacy_tables(family).unwrap_or_default();
    Family::ALL
        .into_iter()
        .any(|family| !tables(family).is_empty())
}

/// Whether the kernel has IPv6 at all.
pub fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// The kernel, or this container, has no ip6_tables.
fn no_such_table(error: &anyhow::Error) -> bool {
    let said = error.to_string();
    [
        "unable to initialize table",
        "Table does not exist",
        "can't initialize",
    ]
    .iter()
    .any(|what| said.contains(what))
}

fn time_left(until: Deadline) -> Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    anyhow::ensure!(!left.is_zero(), "the deadline (--max-closed) has passed");
    Ok(left)
}
