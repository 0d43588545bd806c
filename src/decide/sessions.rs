//! Listeners that a session of a service has made for itself, as FTP does for its data (PASV, RFC 959).
//! They go with their session, and no restart brings them back. Pure.

use std::net::SocketAddr;

use crate::kernel::sockets::holders::Holders;
use crate::kernel::sockets::passing::Served;
use crate::kernel::sockets::{Listener, Sample, SocketId};
use crate::words::ports::PortSet;

/// A listener with a larger backlog is not a session's: that waits for one client. vsftpd and ProFTPD
/// have 1, Pure-FTPd has 8.
pub(crate) const SESSION_BACKLOG: u32 = 16;

/// A listener that only processes of sessions hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suspect<'a> {
    listener: &'a Listener,
    /// The processes that hold it.
    pids: Vec<i32>,
    /// The ports on which the parent of all of them listens.
    ports: PortSet,
}

/// Finds listeners for a client or two, on one address, whose holders were started by a process that
/// listens on another port and does not hold them. A server's workers have their listeners from their
/// parent, or a larger backlog.
pub(crate) fn suspects(seen: &Sample, descends: impl Fn(i32, i32) -> bool) -> Vec<Suspect<'_>> {
    let suspect = |listener| {
        let pids = holding(&seen.holders, listener);
        let parents = |other: &&Listener| {
            let mut parents = holding(&seen.holders, other).into_iter();
            parents.any(|parent| {
                let descends = |pid: &i32| *pid != parent && descends(*pid, parent);
                !pids.contains(&parent) && pids.iter().all(descends)
            })
        };
        let others = seen.listeners.iter().filter(|l| l.port != listener.port);
        let ports: PortSet = others.filter(parents).map(|l| l.port).collect();
        (!pids.is_empty() && !ports.is_empty()).then_some(Suspect {
            listener,
            pids,
            ports,
        })
    };
    let small = |l: &&Listener| l.backlog <= SESSION_BACKLOG && !l.address.is_unspecified();
    seen.listeners
        .iter()
        .filter(small)
        .filter_map(suspect)
        .collect()
}

/// The suspects whose holders serve a client that has come to such a port, at the same address.
/// `clients`: the processes that hold those connections.
pub(crate) fn confirmed(
    suspects: &[Suspect],
    served: &[Served],
    clients: &Holders,
) -> Vec<SocketId> {
    let serves = |suspect: &&Suspect| {
        let came_there = |served: &&Served| comes_by(suspect, served.local);
        let inodes: Vec<u32> = served.iter().filter(came_there).map(|s| s.inode).collect();
        let serves = |pid: &i32| {
            let held = clients.get(pid).map_or(&[][..], |holder| &holder.inodes);
            held.iter().any(|inode| inodes.contains(inode))
        };
        suspect.pids.iter().all(serves)
    };
    let confirmed = suspects.iter().filter(serves);
    confirmed.map(|suspect| suspect.listener.id).collect()
}

/// Whether a client that has come to that address may be one of the suspect's.
pub(crate) fn comes_by(suspect: &Suspect, local: SocketAddr) -> bool {
    let here = local.ip().to_canonical() == suspect.listener.address.to_canonical();
    here && suspect.ports.contains(local.port())
}

fn holding(holders: &Holders, listener: &Listener) -> Vec<i32> {
    let holds = holders
        .iter()
        .filter(|(_, h)| h.inodes.contains(&listener.inode));
    holds.map(|(pid, _)| *pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sockets::holders::Holder;

    const MASTER: i32 = 10;

    fn held(by: &[(i32, &[u32])]) -> Holders {
        let holder = |inodes: &[u32]| Holder {
            name: "ftpd".to_owned(),
            started: 1,
            inodes: inodes.to_vec(),
            files: Vec::new(),
        };
        by.iter()
            .map(|(pid, inodes)| (*pid, holder(inodes)))
            .collect()
    }

    fn listener(address: &str, port: u16, inode: u32, backlog: u32) -> Listener {
        Listener {
            inode,
            backlog,
            id: SocketId {
                netns: 1,
                cookie: inode.into(),
            },
            ..Listener::made_up(address, port, false)
        }
    }

    /// The cookies of the sessions' listeners, where processes from 11 on descend from the master, and
    /// the client's connection is 100.
    fn sessions(
        listeners: &[Listener],
        holders: &[(i32, &[u32])],
        clients: &[(i32, &[u32])],
    ) -> Vec<u64> {
        let seen = Sample {
            listeners: listeners.to_vec(),
            holders: held(holders),
            ..Sample::default()
        };
        let suspects = suspects(&seen, |pid, of| of == MASTER && pid > MASTER);
        let served = [Served {
            local: "10.0.0.1:21".parse().unwrap(),
            inode: 100,
        }];
        let found = confirmed(&suspects, &served, &held(clients));
        found.iter().map(|id| id.cookie).collect()
    }

    #[test]
    fn the_data_of_ftp() {
        let (control, data) = (
            listener("0.0.0.0", 21, 1, 32),
            listener("10.0.0.1", 30_066, 2, 1),
        );
        let both = [control, data];
        // vsftpd and ProFTPD.
        assert_eq!(
            sessions(
                &both,
                &[(10, &[1]), (11, &[2])],
                &[(11, &[100]), (12, &[100])]
            ),
            [2]
        );
        // Pure-FTPd's sessions keep the listener of their parent.
        assert_eq!(
            sessions(&both, &[(10, &[1]), (11, &[1, 2])], &[(11, &[100])]),
            [2]
        );
        let mapped = [
            listener("::", 21, 1, 32),
            listener("::ffff:10.0.0.1", 30_066, 2, 1),
        ];
        assert_eq!(
            sessions(&mapped, &[(10, &[1]), (11, &[2])], &[(11, &[100])]),
            [2]
        );
        // One process for all: it can't be told.
        assert!(sessions(&both, &[(10, &[1, 2])], &[(10, &[100])]).is_empty());
    }

    #[test]
    fn what_is_a_service_s() {
        let control = || listener("0.0.0.0", 21, 1, 32);
        let data = || listener("10.0.0.1", 30_066, 2, 1);
        let of_session: [(i32, &[u32]); 2] = [(10, &[1]), (11, &[2])];
        let client: [(i32, &[u32]); 1] = [(11, &[100])];
        for (other, holders, clients, why) in [
            (
                data(),
                &[(10, &[1, 2][..]), (11, &[1, 2])][..],
                &client[..],
                "a worker's",
            ),
            (data(), &of_session, &[], "nobody is served"),
            (
                data(),
                &[(10, &[1][..]), (9, &[2])],
                &[(9, &[100][..])],
                "a stranger's",
            ),
            (
                data(),
                &[(10, &[1][..]), (11, &[2]), (9, &[2])],
                &client,
                "a stranger's too",
            ),
            (data(), &[], &client, "nobody knows whose"),
            (data(), &[(10, &[1])], &client, "its holder can't be seen"),
            (
                listener("10.0.0.1", 30_066, 2, 128),
                &of_session,
                &client,
                "many may wait",
            ),
            (
                listener("0.0.0.0", 30_066, 2, 1),
                &of_session,
                &client,
                "on all addresses",
            ),
            (
                listener("10.0.0.2", 30_066, 2, 1),
                &of_session,
                &client,
                "elsewhere",
            ),
            (
                listener("10.0.0.1", 21, 2, 1),
                &of_session,
                &client,
                "on the service's port",
            ),
        ] {
            let found = sessions(&[control(), other], holders, clients);
            assert!(found.is_empty(), "{why}");
        }
    }
}
