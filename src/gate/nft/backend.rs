//! The nf_tables backend.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use nftnl::ProtoFamily;
use nix::errno::Errno;

use super::answers;
use super::compile::compile;
use super::divert::{self, Flow};
use super::names::{ARRIVED, CLOSING, FLOWS, NO_ROOM, STOPPED, WENT_ON, table_name};
use super::plain::{self, Watch};
use super::refused::{ClockRefused, Lack, OwnerRefused, explain, refuses_clock, refuses_owners};
use super::ruleset::Ruleset;
use super::tables::{Tables, gone};
use super::transaction::{self, ChainRules};
use crate::gate::backend::{Backend, Deadline, Flows, Remark, fail_on_demand};
use crate::gate::kinds::Kind;
use crate::gate::rules::Rules;
use crate::gate::settings::Settings;
use crate::gate::watchdog::Watchdog;
use crate::kernel::netlink::Refusal;
use crate::kernel::sockets::Connection;
use crate::words::ports::PortSet;

pub(crate) struct Nft {
    tables: Tables,
    id: String,
    comment: String,
    wanted: Rules,
    lingers: Duration,
    installed: Option<Installed>,
    /// For kernels without owner tables.
    watchdog: Option<Watchdog>,
    /// SYNs counted in tables that somebody has removed since.
    counted_before: u64,
    remarks: Vec<Remark>,
    /// The kernel may have taken a change, so there may be tables to remove.
    changed: bool,
}

struct Installed {
    rules: Ruleset,
    /// All rules are in their chains. Opening removes those that need not stay.
    rules_up: bool,
    /// The ports that are gated.
    shut: PortSet,
    until: Deadline,
    /// The count that was read last.
    counted: u64,
    /// For tables without an owner.
    watch: Watch,
}

impl Installed {
    /// Whether the rules are there, as the run has made them.
    ///
    /// # Errors
    /// The tables can't be listed.
    fn stands(&mut self, tables: &mut Tables) -> Result<bool, Refusal> {
        match self.rules.owned {
            // Nobody else can change them.
            true => tables.has_rules(&self.rules, !self.rules_up),
            false => self.watch.look(tables, &self.rules, &self.shut, self.until),
        }
    }
}

impl Nft {
    /// Opens a socket and changes nothing.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink.
    pub(crate) fn new(settings: &Settings, rules: &Rules) -> Result<Nft> {
        Ok(Nft {
            tables: Tables::open()?,
            id: settings.run.clone(),
            comment: settings.who.to_string(),
            wanted: rules.clone(),
            lingers: settings.lingers,
            installed: None,
            watchdog: None,
            counted_before: 0,
            remarks: Vec::new(),
            changed: false,
        })
    }

    fn create(&mut self, rules: Ruleset, until: Deadline) -> Result<()> {
        let transaction = transaction::create(&rules, time_left(until)?);
        let (owned, ends, lacks) = (rules.owned, rules.end().is_some(), Lack::of(&rules));
        // Before the change, so that remove() tries to undo it however the change ends.
        let installed = self.installed.insert(Installed {
            rules_up: true,
            shut: rules.ports.clone(),
            until,
            counted: 0,
            watch: Watch::default(),
            rules,
        });
        if ends && crate::words::fault::is("no-meta-time") {
            bail!(ClockRefused);
        }
        let created = self.tables.commit(&transaction);
        self.changed |= !matches!(&created, Err(refusal) if refusal.answered);
        created.map_err(|refusal| match refusal {
            refusal if owned && refuses_owners(&refusal) => anyhow!(OwnerRefused),
            refusal if ends && refuses_clock(&refusal) => anyhow!(ClockRefused),
            refusal => explain(&refusal, lacks),
        })?;
        if !owned {
            installed.watch.begin(&mut self.tables, &installed.rules);
        }
        Ok(())
    }

    fn create_owned(&mut self, rules: &Ruleset, until: Deadline) -> Result<()> {
        if crate::words::fault::is("no-owner-tables") {
            bail!(OwnerRefused);
        }
        self.create(rules.clone(), until)
    }

    fn create_plain(&mut self, rules: Ruleset, until: Deadline) -> Result<()> {
        self.watch(until)?;
        self.remarks.push(Remark::Detail(
            "this kernel has no tables with an owner (Linux 5.12): a watchdog process removes the rules if \
             syngate is killed"
                .to_owned(),
        ));
        let rules = Ruleset {
            owned: false,
            ..rules
        };
        match self.create(rules.ending(Some(first_end(until)?)), until) {
            Err(error) if error.is::<ClockRefused>() => self.create(rules, until),
            done => done,
        }
    }

    fn watch(&mut self, until: Deadline) -> Result<()> {
        let watchdog = Watchdog::start(Kind::Nft, &self.id, until + self.lingers)?;
        self.watchdog = Some(watchdog);
        Ok(())
    }

    /// Opens each table by itself, when somebody has removed some of them.
    fn open_each(&mut self) -> Result<()> {
        let Some(Installed { rules, .. }) = &self.installed else {
            return Ok(());
        };
        for table in &rules.tables {
            let one = Ruleset {
                tables: vec![table.clone()],
                ..rules.clone()
            };
            gone(self.tables.commit(&transaction::open(&one)))?;
        }
        Ok(())
    }

    /// Makes the tables again after somebody has removed them.
    fn create_again(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        if !self.watchdog.as_mut().is_some_and(Watchdog::is_ready) {
            self.watch(until)?;
        }
        let Some(installed) = &mut self.installed else {
            bail!("no gate was closed");
        };
        self.counted_before += std::mem::take(&mut installed.counted);
        // Some of the old tables may be left.
        self.tables.delete_all(&installed.rules.name)?;
        let rules = Ruleset {
            ports: ports.clone(),
            ..installed.rules.clone()
        };
        self.create(plain::renewed(&rules, time_left(until)?), until)
    }

    /// Changes the ports of tables without an owner, and puts their rules back.
    fn renew(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        let Some(installed) = &mut self.installed else {
            bail!("no gate was closed");
        };
        if installed.watch.is_over(&installed.rules) {
            self.remarks.push(Remark::Warning(
                "somebody set the clock beyond the end of the gate's rules, which opened the gate: syngate \
                 has made the rules end later"
                    .to_owned(),
            ));
        }
        let left = time_left(until)?;
        let rules = plain::renewed(&installed.rules, left);
        let renewal = transaction::replace_ports(&rules, ports, left, ChainRules::Renew);
        let renewed = match installed.watch.needs_new_tables {
            true => Err(Errno::ENOENT.into()),
            false => self.tables.commit(&renewal),
        };
        match renewed {
            Err(refusal) if refusal.errno == Errno::ENOENT => {
                return self.create_again(ports, until);
            }
            done => done?,
        }
        installed.rules = rules;
        installed.rules_up = true;
        (installed.shut, installed.until) = (ports.clone(), until);
        installed.watch.begin(&mut self.tables, &installed.rules);
        Ok(())
    }
}

/// Removes the tables of run `id`. It is no error if there are none.
pub(crate) fn erase(id: &str) -> Result<()> {
    Tables::open()?.delete_all(&table_name(id))
}

impl Backend for Nft {
    fn name(&self) -> &'static str {
        "nft"
    }

    fn install(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        fail_on_demand(self.wanted.steer)?;
        self.wanted.ports = ports.clone();
        let rules = compile(&self.wanted, &self.id, &self.comment);
        match self.create_owned(&rules, until) {
            Err(error) if error.is::<OwnerRefused>() => self.create_plain(rules, until),
            done => done,
        }
    }

    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        let Some(installed) = &mut self.installed else {
            bail!("no gate was closed");
        };
        let (rules, open) = (&installed.rules, ports.is_empty());
        if !rules.owned && !open {
            return self.renew(ports, until);
        }
        let transaction = match (open, installed.rules_up) {
            (true, _) => transaction::open(rules),
            (false, up) => {
                let chain_rules = if up {
                    ChainRules::Keep
                } else {
                    ChainRules::Add
                };
                transaction::replace_ports(rules, ports, time_left(until)?, chain_rules)
            }
        };
        match self.tables.commit(&transaction) {
            // Somebody has removed some of the tables.
            Err(refusal) if refusal.errno == Errno::ENOENT && !rules.owned => self.open_each()?,
            done => done?,
        }
        if let Some(installed) = &mut self.installed {
            installed.rules_up = !open;
            installed.shut = ports.clone();
            installed.watch.opened();
        }
        Ok(())
    }

    fn shut(&mut self) -> Result<PortSet> {
        let Some(installed) = self.installed.as_mut().filter(|i| i.rules_up) else {
            return Ok(PortSet::EMPTY);
        };
        let owned = installed.rules.owned;
        match installed.stands(&mut self.tables) {
            Ok(true) => Ok(self.tables.ports_in_sets(&installed.rules)?),
            Ok(false) => Ok(PortSet::EMPTY),
            // Somebody has removed the tables.
            Err(refusal) if refusal.errno == Errno::ENOENT && !owned => Ok(PortSet::EMPTY),
            Err(refusal) => Err(refusal.into()),
        }
    }

    fn syns_stopped(&mut self) -> Result<u64> {
        let Some(installed) = &mut self.installed else {
            return Ok(self.counted_before);
        };
        match self.tables.all_stopped(&installed.rules) {
            Err(refusal) if refusal.errno == Errno::ENOENT && !installed.rules.owned => (),
            counted => installed.counted = counted?,
        }
        Ok(self.counted_before + installed.counted)
    }

    fn arrived(&mut self) -> Result<u64> {
        let Some(Installed { rules, .. }) = &self.installed else {
            return Ok(0);
        };
        Ok(self.tables.count(ProtoFamily::Inet, &rules.name, ARRIVED)?)
    }

    fn spare(&mut self, connections: &[Connection]) -> Result<()> {
        match &self.installed {
            Some(Installed { rules, .. }) if rules.diverts() && !connections.is_empty() => Ok(self
                .tables
                .commit(&transaction::spare(rules, connections))?),
            _ => Ok(()),
        }
    }

    fn flows(&mut self) -> Result<Flows> {
        let mut flows = Flows::default();
        let Some(Installed { rules, .. }) = &self.installed else {
            return Ok(flows);
        };
        for table in rules.tables.iter().filter(|table| !table.flows.is_empty()) {
            let (family, name) = (table.family, &rules.name);
            flows.all += self.tables.count(family, name, STOPPED)?;
            flows.no_room += self.tables.count(family, name, NO_ROOM)?;
            flows.went_on += self.tables.count(family, name, WENT_ON)?;
            let read = |row: &[u8]| {
                let elements = answers::elements(row);
                let timed = elements.filter_map(|e| Some((e.key.to_vec(), e.expires?)));
                timed.collect()
            };
            let going: Vec<Flow> = self.tables.elements(family, name, FLOWS, read)?;
            let closing = self.tables.elements(family, name, CLOSING, read)?;
            let (left, open) = divert::left(&going, &closing);
            flows.left += left;
            flows.open += open;
        }
        Ok(flows)
    }

    fn exposed(&self) -> bool {
        let installed = self.installed.as_ref();
        installed.is_some_and(|installed| !installed.rules.owned)
    }

    fn intact(&mut self) -> bool {
        let Some(installed) = &mut self.installed else {
            return true;
        };
        let stands = installed.stands(&mut self.tables);
        // In case somebody removes the tables.
        if let Ok(counted) = self.tables.all_stopped(&installed.rules) {
            installed.counted = counted;
        }
        // Rules that can't be read (a torn dump) may still be there.
        stands.unwrap_or_else(|r| r.errno != Errno::ENOENT)
    }

    fn empties_queues(&self) -> bool {
        true
    }

    fn keep_watched(&mut self, until: Deadline) -> Result<Option<String>> {
        let kind = Kind::Nft;
        Watchdog::keep(&mut self.watchdog, kind, &self.id, until + self.lingers)
    }

    fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    fn remove(&mut self) -> Result<()> {
        let Some(Installed { rules, .. }) = &self.installed else {
            return Ok(());
        };
        if self.changed {
            match self.tables.commit(&transaction::delete(rules)) {
                // Somebody may have removed some of the tables.
                Err(refusal) if refusal.errno == Errno::ENOENT => {
                    let name = rules.name.clone();
                    self.tables.delete_all(&name)?;
                }
                done => done?,
            }
        }
        self.installed = None;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        // The remaining tables do not depend on the socket, and this backend makes no more. So the
        // run need not wait until the socket is closed.
        let _ = self.tables.socket.close_in_background();
        Ok(())
    }
}

/// The end of the rules by the wall clock, when the gate is closed for the first time.
fn first_end(until: Deadline) -> Result<u64> {
    let left = time_left(until)?;
    // The clock is set forwards by almost all the time that is left.
    let as_set = crate::words::fault::is("clock-set-forwards");
    Ok(plain::end_after(if as_set { Duration::ZERO } else { left }))
}

fn time_left(until: Deadline) -> Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    anyhow::ensure!(!left.is_zero(), "the deadline (--max-closed) has passed");
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gate_is_closed_after_its_deadline() {
        assert!(time_left(Instant::now() - Duration::from_secs(1)).is_err());
        assert!(time_left(Instant::now() + Duration::from_secs(9)).is_ok());
    }
}
