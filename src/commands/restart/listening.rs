//! Which of a host's listeners are the service's, and which of their ports a gate is for. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::kernel::sockets::holders::names;
use crate::kernel::sockets::{Listener, Sample};
use crate::words::ports::PortSet;

/// The pid of systemd, which holds the sockets of its socket units.
pub(super) const INIT: i32 = 1;

/// What tells the service's listeners from others.
#[derive(Debug, Clone, Default)]
pub(super) struct Owner {
    /// The control groups that its sockets were made in.
    pub(super) control_groups: BTreeSet<u64>,
    pub(super) processes: BTreeSet<i32>,
    /// The process that a restart ends, where it ends no others.
    pub(super) alone: Option<i32>,
    /// The process that holds sockets for services: systemd, where it does.
    pub(super) manager: Option<i32>,
    /// Ports that the kernel gives to sockets that name none.
    pub(super) random: PortSet,
}

/// What was found of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) ports: PortSet,
    /// Those of `ports` on which clients of this host alone are served.
    pub(super) loopback: PortSet,
    /// Those that stay open when the service ends, since systemd holds them.
    pub(super) kept: PortSet,
    /// Those that may be others after a restart, since the kernel may have chosen them.
    pub(super) random: PortSet,
    /// Who else listens on one of `ports`, and whether that is at an address of the service's.
    pub(super) beside: BTreeMap<(u16, bool), String>,
    /// The processes that hold its listeners.
    pub(super) processes: BTreeSet<i32>,
    /// The same, with names, for people.
    pub(super) who: String,
}

/// What a look at a service finds.
pub(super) struct Found {
    pub(super) listening: Listening,
    /// The ports on which somebody listens.
    pub(super) served: PortSet,
    /// The process that others come from, if it is known.
    pub(super) main: Option<i32>,
    /// Processes that may be the service and do not come from one, for people. `listening` has none of them.
    pub(super) several: Option<String>,
    /// Where was looked, for people.
    pub(super) looked_at: String,
}

impl Owner {
    fn has(&self, listener: &Listener, there: &Sample) -> bool {
        let holders = holders(listener, there);
        let made = |id: u64| self.control_groups.contains(&id);
        holders.iter().any(|pid| self.processes.contains(pid)) || listener.cgroup.is_some_and(made)
    }

    /// The listeners that a restart ends: all, unless it ends one process that has some.
    fn listeners<'a>(&self, there: &'a Sample) -> Vec<&'a Listener> {
        let all = there.listeners.iter();
        let mut own: Vec<&Listener> = all.filter(|one| self.has(one, there)).collect();
        let of_main = |listener: &&Listener| {
            let main = self.alone.as_ref();
            main.is_some_and(|main| holders(listener, there).contains(main))
        };
        if own.iter().any(of_main) {
            own.retain(of_main);
        }
        own
    }
}

/// Looks through all listeners of this host.
pub(super) fn listening(owner: &Owner, there: &Sample) -> Listening {
    let own = owner.listeners(there);
    let is_kept = |listener: &&Listener| {
        let manager = owner.manager.as_ref();
        manager.is_some_and(|pid| holders(listener, there).contains(pid))
    };
    let (kept, gated): (Vec<&Listener>, Vec<&Listener>) = own.iter().copied().partition(is_kept);
    let is_lasting = |one: &&Listener| !owner.random.contains(one.port);
    let (lasting, random): (Vec<&Listener>, Vec<&Listener>) =
        gated.iter().copied().partition(is_lasting);
    // Some services have such a port as their only one, and it is always the same.
    let (gated, random) = match lasting.is_empty() {
        true => (gated, Vec::new()),
        false => (lasting, random),
    };
    let ports = ports(&gated);
    let outside: Vec<&Listener> = gated.iter().copied().filter(|l| !is_local(l)).collect();
    let others = there.listeners.iter().filter(|other| {
        let is_own = own.iter().any(|one| one.id == other.id);
        ports.contains(other.port) && !is_own
    });
    let inodes: Vec<u32> = gated.iter().map(|listener| listener.inode).collect();
    Listening {
        loopback: ports.minus(&self::ports(&outside)),
        kept: self::ports(&kept).minus(&ports),
        random: self::ports(&random),
        beside: others
            .map(|other| {
                let shares = own.iter().any(|one| is_at(one, other));
                ((other.port, shares), names(&there.holders, &[other.inode]))
            })
            .collect(),
        processes: gated
            .iter()
            .flat_map(|listener| holders(listener, there))
            .collect(),
        who: names(&there.holders, &inodes),
        ports,
    }
}

impl Listening {
    /// What people are told first: `what` the service is, the `gated` ports, and what is special about them.
    pub(super) fn lines(&self, what: &str, gated: &PortSet) -> Vec<String> {
        let who = match self.who.is_empty() {
            true => String::new(),
            false => format!(" of {}", self.who),
        };
        let mut lines = vec![format!("{what}: {} {}{who}", gated.word(), gated.brief())];
        let loopback: PortSet = self
            .loopback
            .iter()
            .filter(|port| gated.contains(*port))
            .collect();
        if !loopback.is_empty() {
            lines.push(format!(
                "{}: on loopback alone, for clients of this host",
                loopback.brief()
            ));
        }
        let kept = self.kept.minus(gated);
        if !kept.is_empty() {
            let ports = kept.brief();
            lines.push(format!(
                "{ports}: left out, since systemd holds it open while the service restarts"
            ));
        }
        let random = self.random.minus(gated);
        if !random.is_empty() {
            let ports = random.brief();
            lines.push(format!(
                "{ports}: left out, since the kernel may have chosen it (ip_local_port_range), and may choose another one \
                 next time; if the service always has it, name all ports by --port"
            ));
        }
        let beside = self.beside.iter();
        for ((port, shares), who) in beside.filter(|((port, _), _)| gated.contains(*port)) {
            let who = match who.as_str() {
                "" => "another process",
                who => who,
            };
            lines.push(match shares {
                true => format!(
                    "{port}: {who} listens on it, too, at the same address (SO_REUSEPORT): its new connections are \
                     gated as well"
                ),
                false => format!(
                    "{port}: {who} listens on it, too, at another address; --to says which addresses are gated"
                ),
            });
        }
        lines
    }
}

/// The processes that hold it.
pub(super) fn holders(listener: &Listener, there: &Sample) -> Vec<i32> {
    let all = there.holders.iter();
    let holding = all.filter(|(_, holder)| holder.inodes.contains(&listener.inode));
    holding.map(|(pid, _)| *pid).collect()
}

/// The ports on which somebody listens.
pub(super) fn served(there: &Sample) -> PortSet {
    there
        .listeners
        .iter()
        .map(|listener| listener.port)
        .collect()
}

fn ports(listeners: &[&Listener]) -> PortSet {
    listeners.iter().map(|listener| listener.port).collect()
}

/// Whether both have the same address, port and interface.
fn is_at(one: &Listener, other: &Listener) -> bool {
    let place = |of: &Listener| (of.address, of.port, of.device.clone());
    place(one) == place(other)
}

fn is_local(listener: &Listener) -> bool {
    listener.address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sockets::SocketId;
    use crate::kernel::sockets::holders::Holder;

    /// Its inode is its number from 1 on, and each has these holders.
    fn sample(listeners: &[(&str, u16, Option<u64>, &[i32])]) -> Sample {
        let mut there = Sample::default();
        for (n, (address, port, cgroup, pids)) in listeners.iter().enumerate() {
            let inode = n as u32 + 1;
            there.listeners.push(Listener {
                cgroup: *cgroup,
                inode,
                id: SocketId {
                    netns: 1,
                    cookie: u64::from(inode),
                },
                ..Listener::made_up(address, *port, false)
            });
            for pid in *pids {
                let holder = there.holders.entry(*pid).or_insert_with(|| Holder {
                    name: format!("web{pid}"),
                    started: 1,
                    inodes: Vec::new(),
                    files: Vec::new(),
                });
                holder.inodes.push(inode);
            }
        }
        there
    }

    fn set(ports: &[u16]) -> PortSet {
        ports.iter().copied().collect()
    }

    #[test]
    fn a_unit_s_listeners_are_those_of_its_control_group_or_its_processes() {
        let there = sample(&[
            ("0.0.0.0", 80, Some(7), &[10, 11]),
            ("::", 443, Some(8), &[10]),
            ("127.0.0.1", 8404, None, &[11]),
            ("::1", 8404, None, &[11]),
            ("::ffff:127.0.0.1", 8405, Some(7), &[]),
            ("0.0.0.0", 22, Some(9), &[20]),
            ("10.0.0.9", 80, Some(9), &[20]),
        ]);
        let owner = Owner {
            control_groups: [7].into(),
            processes: [10, 11].into(),
            ..Owner::default()
        };
        let found = listening(&owner, &there);
        assert_eq!(found.ports, set(&[80, 443, 8404, 8405]));
        assert_eq!(found.loopback, set(&[8404, 8405]));
        assert_eq!(found.kept, PortSet::EMPTY);
        assert_eq!(found.processes, [10, 11].into());
        assert_eq!(found.who, "web10 (pid 10) and web11 (pid 11)");
        let beside = BTreeMap::from([((80, false), "web20 (pid 20)".to_owned())]);
        assert_eq!(found.beside, beside, "at another address");
        let lines = found.lines("web.service", &set(&[80, 443, 8404]));
        let expected = [
            "web.service: ports 80,443,8404 of web10 (pid 10) and web11 (pid 11)",
            "8404: on loopback alone, for clients of this host",
            "80: web20 (pid 20) listens on it, too, at another address; --to says which addresses are gated",
        ];
        assert_eq!(lines, expected);
        assert_eq!(found.lines("web", &set(&[443])).len(), 1);
        let nothing = listening(&Owner::default(), &there);
        assert_eq!(nothing, Listening::default());
    }

    /// In one SO_REUSEPORT group.
    #[test]
    fn who_listens_at_the_same_address_is_told() {
        let there = sample(&[
            ("0.0.0.0", 80, None, &[10]),
            ("0.0.0.0", 80, None, &[20]),
            ("10.0.0.9", 80, None, &[]),
        ]);
        let owner = Owner {
            processes: [10].into(),
            ..Owner::default()
        };
        let found = listening(&owner, &there);
        let lines = found.lines("web", &found.ports);
        let told = "listens on it, too, at";
        let expected = [
            "web: port 80 of web10 (pid 10)",
            &format!(
                "80: another process {told} another address; --to says which addresses are gated"
            ),
            &format!(
                "80: web20 (pid 20) {told} the same address (SO_REUSEPORT): its new connections are gated as well"
            ),
        ];
        assert_eq!(lines, expected);
    }

    /// The service has copies of what systemd holds.
    #[test]
    fn what_systemd_holds_needs_no_gate() {
        let there = sample(&[
            ("0.0.0.0", 80, Some(3), &[1, 10]),
            ("0.0.0.0", 81, Some(7), &[10]),
            ("0.0.0.0", 22, Some(3), &[1]),
        ]);
        let mut owner = Owner {
            processes: [10].into(),
            manager: Some(1),
            ..Owner::default()
        };
        let found = listening(&owner, &there);
        assert_eq!((&found.ports, &found.kept), (&set(&[81]), &set(&[80])));
        let line = found.lines("web", &found.ports).pop().unwrap();
        assert!(
            line.starts_with("80: left out, since systemd holds it"),
            "{line}"
        );
        owner.manager = None;
        let found = listening(&owner, &there);
        assert_eq!((found.ports, found.kept), (set(&[80, 81]), PortSet::EMPTY));
    }

    /// As JMX's and RMI's are. A service of one port keeps it.
    #[test]
    fn a_port_that_the_kernel_may_have_chosen_is_left_out_beside_others() {
        let owner = Owner {
            processes: [10].into(),
            random: PortSet::from_ranges([32768..=60999]),
            ..Owner::default()
        };
        let both = sample(&[("0.0.0.0", 80, None, &[10]), ("::", 40123, None, &[10])]);
        let found = listening(&owner, &both);
        assert_eq!((&found.ports, &found.random), (&set(&[80]), &set(&[40123])));
        let line = found.lines("web", &found.ports).pop().unwrap();
        assert!(
            line.starts_with("40123: left out, since the kernel may"),
            "{line}"
        );
        assert_eq!(found.lines("web", &set(&[80, 40123])).len(), 1);
        let alone = sample(&[("::", 40123, None, &[10])]);
        let found = listening(&owner, &alone);
        assert_eq!((found.ports, found.random), (set(&[40123]), PortSet::EMPTY));
    }

    /// sshd holds forwarded ports in processes that a restart leaves alone.
    #[test]
    fn of_a_service_whose_children_stay_only_the_main_process_counts() {
        let there = sample(&[
            ("0.0.0.0", 22, Some(7), &[10]),
            ("127.0.0.1", 9000, Some(7), &[11]),
        ]);
        let mut owner = Owner {
            control_groups: [7].into(),
            alone: Some(10),
            ..Owner::default()
        };
        assert_eq!(listening(&owner, &there).ports, set(&[22]));
        owner.alone = Some(12);
        let found = listening(&owner, &there);
        assert_eq!(found.ports, set(&[22, 9000]), "it holds none itself");
    }
}
