//! Where a service listens, and which processes hold its listeners. Pure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;

use serde::Serialize;

use crate::kernel::service_files::SCRIPTS;
use crate::kernel::sockets::holders::Holders;
use crate::kernel::sockets::{Device, Listener, shown};

/// An address and port that is listened on, by one socket or by a SO_REUSEPORT group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The interface that it is bound to.
    pub(crate) interface: Option<String>,
    /// How many sockets.
    pub(crate) sockets: usize,
    /// The shortest of their backlogs.
    pub(crate) backlog: u32,
    /// The connections that wait to be accepted, in the fullest of their queues.
    pub(crate) accept_queue: u32,
    /// The user who has made them; null if they are of several users.
    pub(crate) uid: Option<u32>,
    /// All have SO_REUSEPORT; null where that was not asked for, or no copy of the listeners can be had.
    pub(crate) reuseport: Option<bool>,
    /// Why its connections can't be parked; null where they can, or that was not asked for.
    pub(crate) unparkable: Option<String>,
    /// The processes that hold them, as far as they can be seen.
    pub(crate) processes: Vec<ListeningProcess>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct ListeningProcess {
    pub(crate) name: String,
    /// As seen in this pid namespace.
    pub(crate) pid: i32,
    /// What restarts it, as far as that can be told.
    pub(crate) control: Option<Control>,
    /// It is a worker of haproxy's, whose master lives on at a reload and hands the sockets on.
    #[serde(skip)]
    pub(crate) has_master: bool,
}

/// What restarts a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "by", content = "name", rename_all = "snake_case")]
pub(crate) enum Control {
    /// A unit of the system's systemd.
    Systemd(String),
    /// A script in /etc/init.d.
    Init(String),
}

impl Control {
    /// As people call it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Control::Systemd(name) | Control::Init(name) => name,
        }
    }

    /// For people: what it is, and its name.
    pub(crate) fn shown(&self) -> String {
        match self {
            Control::Systemd(unit) => unit.clone(),
            Control::Init(script) => format!("{SCRIPTS}/{script}"),
        }
    }

    /// The command for `restart` or `reload`.
    pub(crate) fn command(&self, verb: &str) -> Vec<OsString> {
        let words = match self {
            Control::Systemd(unit) => ["systemctl", verb, unit],
            Control::Init(script) => ["service", script, verb],
        };
        words.map(OsString::from).to_vec()
    }
}

impl Endpoint {
    /// Address and port, as `ss` shows them.
    pub(crate) fn shown(&self) -> String {
        shown(self.address, self.port, self.interface.as_deref())
    }

    pub(crate) fn is_group(&self) -> bool {
        self.sockets > 1
    }
}

/// Sockets with the same address, port and interface are one endpoint.
pub(super) fn endpoints(
    listeners: &[Listener],
    holders: &Holders,
    reuseport: impl Fn(&Listener) -> Option<Result<bool, String>>,
    control: impl Fn(i32, &str) -> Option<Control>,
    has_master: impl Fn(i32, &str) -> bool,
) -> Vec<Endpoint> {
    let mut groups: BTreeMap<_, Vec<&Listener>> = BTreeMap::new();
    for listener in listeners {
        let bound_to = (listener.port, listener.address, &listener.device);
        groups.entry(bound_to).or_default().push(listener);
    }
    let endpoint = |((port, address, device), group): ((_, _, &Device), Vec<&Listener>)| {
        let held = |inodes: &[u32]| group.iter().any(|l| inodes.contains(&l.inode));
        let mut options: Vec<_> = group.iter().map(|listener| reuseport(listener)).collect();
        let holding = holders.iter().filter(|(_, holder)| held(&holder.inodes));
        Endpoint {
            address,
            port,
            interface: device.name(),
            sockets: group.len(),
            backlog: group.iter().map(|l| l.backlog).min().unwrap_or(0),
            accept_queue: group.iter().map(|l| l.accept_queue).max().unwrap_or(0),
            uid: group
                .iter()
                .all(|l| l.uid == group[0].uid)
                .then_some(group[0].uid),
            reuseport: options
                .iter()
                .map(|one| one.as_ref()?.as_ref().ok().copied())
                .reduce(|all, one| Some(all? && one?))
                .flatten(),
            unparkable: options.drain(..).find_map(|one| one?.err()),
            processes: holding
                .map(|(pid, holder)| ListeningProcess {
                    name: holder.name.clone(),
                    pid: *pid,
                    control: control(*pid, &holder.name),
                    has_master: has_master(*pid, &holder.name),
                })
                .collect(),
        }
    };
    groups.into_iter().map(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sockets::SocketId;
    use crate::kernel::sockets::holders::Holder;

    #[test]
    fn sockets_of_one_address_are_one_endpoint() {
        let listener = |address: &str, inode, accept_queue| Listener {
            address: address.parse().unwrap(),
            port: 80,
            v6only: false,
            device: Device::Any,
            id: SocketId {
                netns: 1,
                cookie: u64::from(inode),
            },
            uid: 0,
            cgroup: None,
            inode,
            accept_queue,
            backlog: 100 + inode,
        };
        let listeners = [
            listener("0.0.0.0", 2, 0),
            listener("::", 3, 0),
            listener("0.0.0.0", 1, 7),
        ];
        let holder = |inodes: &[u32]| Holder {
            name: "web".to_owned(),
            started: 1,
            inodes: inodes.to_vec(),
            files: Vec::new(),
        };
        let holders = Holders::from([
            (10, holder(&[1, 2])),
            (11, holder(&[2])),
            (12, holder(&[9])),
        ]);
        let reuseport = |listener: &Listener| match listener.inode {
            3 => Some(Err("of MPTCP".to_owned())),
            inode => Some(Ok(inode > 1)),
        };
        let endpoints = endpoints(
            &listeners,
            &holders,
            reuseport,
            |_, _| None,
            |pid, _| pid == 11,
        );
        assert_eq!(endpoints.len(), 2);
        let group = &endpoints[0];
        assert_eq!(group.shown(), "0.0.0.0:80");
        assert!(group.is_group());
        assert_eq!((group.backlog, group.accept_queue), (101, 7));
        assert_eq!(group.reuseport, Some(false));
        assert_eq!(group.unparkable, None);
        assert_eq!(endpoints[1].reuseport, None);
        assert_eq!(endpoints[1].unparkable.as_deref(), Some("of MPTCP"));
        assert_eq!(group.uid, Some(0));
        let pids: Vec<i32> = group.processes.iter().map(|p| p.pid).collect();
        assert_eq!(pids, [10, 11]);
        assert!(!group.processes[0].has_master && group.processes[1].has_master);
        assert!(!endpoints[1].is_group() && endpoints[1].processes.is_empty());
    }
}
