//! Other ports of the processes that COMMAND restarts, which no gate is for: their clients are refused, and the run
//! would not notice.

use anyhow::Result;

use crate::gate::rooms;
use crate::kernel::port_range::chosen_by_kernel;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::holders::{Holders, find_in, names};
use crate::kernel::sockets::{Listener, Looks, Sample};
use crate::run::call::Call;
use crate::run::plan::Plan;
use crate::run::record::Record;
use crate::words::ports::PortSet;

/// systemd, which goes on listening.
const INIT: i32 = 1;

impl Call<'_> {
    /// Warns of ports that the processes behind the gated ones listen on as well. A look that fails tells nothing.
    pub(super) fn warn_of_forgotten_ports(&self, sockets: &mut Sockets, record: &mut Record) {
        // The other ports of a container are its own.
        if !self.plan.restarts() || sockets.netns().is_some() {
            return;
        }
        let told = self.plan.by_name.as_ref();
        let told = told.and_then(|by_name| by_name.forgotten.clone());
        let text = told.or_else(|| forgotten(self.plan, sockets, &record.before).ok().flatten());
        text.into_iter()
            .for_each(|text| record.warnings.warn(self.say, text));
    }
}

impl Plan {
    /// COMMAND may end the listeners before others are there. A reload does not.
    fn restarts(&self) -> bool {
        let reloads = |word: &std::ffi::OsString| word == "reload";
        !self.reload && self.action.name() != "handover" && !self.command.iter().any(reloads)
    }
}

fn forgotten(plan: &Plan, sockets: &mut Sockets, before: &Sample) -> Result<Option<String>> {
    let lasting: Vec<u32> = before
        .lasting(&before.sessions)
        .iter()
        .map(|listener| listener.inode)
        .collect();
    let holds = |inodes: &[u32]| inodes.iter().any(|inode| lasting.contains(inode));
    let holders = before.holders.iter();
    let pids = holders.filter(|(pid, holder)| **pid != INIT && holds(&holder.inodes));
    let pids: Vec<i32> = pids.map(|(pid, _)| *pid).collect();
    if pids.is_empty() {
        return Ok(None);
    }
    let known = plan.gated().listener_ports().union(&plan.gated().ports);
    let known = known.union(&chosen_by_kernel()?);
    let mut others = sockets.all_listeners()?;
    others.retain(|one| !known.contains(one.port) && !is_local(one));
    let inodes: Vec<u32> = others.iter().map(|one| one.inode).collect();
    if inodes.is_empty() {
        return Ok(None);
    }
    let kept = find_in([INIT].into_iter(), &inodes);
    others.retain(|one| !is_held(one, &kept));
    let holders = find_in(pids.into_iter(), &inodes);
    others.retain(|one| is_held(one, &holders));
    let inodes: Vec<u32> = others.iter().map(|one| one.inode).collect();
    let ports: PortSet = others.iter().map(|one| one.port).collect();
    if ports.is_empty() {
        return Ok(None);
    }
    // Of a keep, or of a run around this one.
    let (gates, _) = rooms::find();
    let gated = gates.iter().map(|gate| &gate.ports);
    let ports = ports.minus(&gated.fold(PortSet::EMPTY, |all, ports| all.union(ports)));
    Ok(words(
        &names(&holders, &inodes),
        &ports,
        &plan.gated().ports,
    ))
}

fn is_held(listener: &Listener, holders: &Holders) -> bool {
    let mut holders = holders.values();
    holders.any(|holder| holder.inodes.contains(&listener.inode))
}

/// Clients of this host alone connect to it.
fn is_local(listener: &Listener) -> bool {
    listener.address.to_canonical().is_loopback()
}

/// `who` listens on `ports`, too.
pub(crate) fn words(who: &str, ports: &PortSet, gated: &PortSet) -> Option<String> {
    let add = gated.union(ports);
    let also = match who.contains(" and ") {
        true => "also listen",
        false => "also listens",
    };
    let said = match ports.len() {
        0 => return None,
        1 => "which is not gated: its clients may be refused; add it",
        _ => "which are not gated: their clients may be refused; add them",
    };
    Some(format!(
        "{who} {also} on {}, {said}: --port {add}",
        ports.brief()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_to_add_are_told_with_those_that_are_gated() {
        let set = |ports: &[u16]| -> PortSet { ports.iter().copied().collect() };
        let told = |who: &str, ports: &[u16]| words(who, &set(ports), &set(&[80]));
        assert_eq!(told("haproxy (pid 7)", &[]), None);
        assert_eq!(
            told("haproxy (pid 7)", &[8080]).unwrap(),
            "haproxy (pid 7) also listens on 8080, which is not gated: its clients may be refused; add it: --port \
             80,8080"
        );
        assert_eq!(
            told("a (pid 7) and b (pid 8)", &[81, 443]).unwrap(),
            "a (pid 7) and b (pid 8) also listen on 81,443, which are not gated: their clients may be refused; add \
             them: --port 80-81,443"
        );
    }
}
