//! What is known of this host. `look.rs` finds it out.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::action::rooms::able::Rooms;
use crate::gate::by_port::PortRule;
use crate::gate::consumers::Firewall;
use crate::kernel::support::Support;
use crate::words::family::Family;

/// The settings of this network namespace that matter to a gate.
pub(super) const SYSCTLS: [&str; 7] = [
    "net.core.somaxconn",
    "net.ipv4.ip_forward",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_migrate_req",
    "net.ipv4.tcp_syn_linear_timeouts",
    "net.ipv4.tcp_syncookies",
];
/// The counts of TCP in this network namespace that matter to a gate.
pub(super) const COUNTS: [&str; 3] = ["ListenDrops", "ListenOverflows", "SyncookiesSent"];

/// The privileges of this process.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Privileges {
    pub(crate) uid: u32,
    pub(crate) net_admin: bool,
    /// Other users' processes can be looked into.
    pub(crate) sys_ptrace: bool,
    /// It is the root of the host, not of a user namespace.
    pub(crate) host_root: bool,
}

/// How full connection tracking is.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct ConntrackUse {
    pub(crate) count: u64,
    pub(crate) max: u64,
}

/// A variant of iptables that is installed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct VariantSummary {
    /// `iptables-nft`, `iptables-legacy`.
    pub(crate) variant: &'static str,
    /// Plain `iptables` is this one.
    pub(crate) default: bool,
    /// ip6tables is installed, too.
    pub(crate) ipv6: bool,
    /// How many rules it holds; null if the rules can't be read.
    pub(crate) rules: Option<usize>,
    /// Why the rules can't be read.
    pub(crate) unseen: Option<String>,
}

/// A port whose packets a rule sends elsewhere before the input hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Published {
    pub(crate) port: u16,
    /// Table and chain of the rule.
    pub(crate) by: String,
}

/// A field is null where this can't be told.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Host {
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The release of kernel.org that it was made from.
    #[serde(skip)]
    pub(crate) made_from: String,
    pub(crate) privileges: Privileges,
    /// A table can be made.
    pub(crate) nf_tables: Support,
    /// A whole gate, with sets whose elements expire.
    pub(crate) timed_sets: Support,
    /// Tables that the kernel removes with the socket that made them.
    pub(crate) owner_tables: Support,
    /// A gate in the prerouting hook, for `--hook prerouting`.
    pub(crate) prerouting: Support,
    /// Copies of packets to a neighbour, for `--syn divert`.
    pub(crate) nft_dup: Support,
    /// Resets in answer to packets, for `--leave`.
    pub(crate) nft_reject: Support,
    /// Queues that a program can read.
    pub(crate) nfqueue: Support,
    /// nft's expression that sends packets into such a queue.
    pub(crate) nft_queue: Support,
    /// The target of x_tables by which iptables does the same.
    pub(crate) xt_nfqueue: Support,
    /// Waiting rooms, for `--syn park` and `--syn handover`.
    pub(crate) rooms: Rooms,
    pub(crate) iptables: Vec<VariantSummary>,
    /// What opens an iptables gate if all of syngate is killed.
    pub(crate) xt_recent: Support,
    /// The host's sockets can be listed.
    pub(crate) sock_diag: Support,
    /// The virtual TCP services of IPVS, if its module is loaded.
    pub(crate) ipvs: Option<Vec<String>>,
    /// `None` if the module is not loaded.
    pub(crate) conntrack: Option<ConntrackUse>,
    pub(crate) sysctls: BTreeMap<&'static str, Option<u64>>,
    /// Since the network namespace was made.
    pub(crate) counts: BTreeMap<&'static str, Option<u64>>,
    pub(crate) published: Vec<Published>,
    /// Why some may be missing.
    pub(crate) published_unseen: Option<String>,
    /// Rules that matter to where the gate stands.
    #[serde(skip)]
    pub(crate) firewall: Firewall,
    /// Rules that act on a destination port.
    #[serde(skip)]
    pub(crate) by_port: Vec<PortRule>,
    /// The IP versions for which rules of others do NAT.
    pub(crate) nat: Option<Vec<Family>>,
}

impl Host {
    pub(crate) fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctls.get(name).copied().flatten()
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().flatten().unwrap_or(0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gate::kinds::Variant;

    /// A host that supports everything, and needs no advice.
    pub(crate) fn usual() -> Host {
        let settings = [4096, 0, 0, 2048, 0, 4, 1].map(Some);
        Host {
            kernel: "6.18.44".to_owned(),
            made_from: "6.18.44".to_owned(),
            privileges: Privileges {
                uid: 0,
                net_admin: true,
                sys_ptrace: true,
                host_root: true,
            },
            nf_tables: Support::Yes,
            timed_sets: Support::Yes,
            owner_tables: Support::Yes,
            prerouting: Support::Yes,
            nft_dup: Support::Yes,
            nft_reject: Support::Yes,
            nfqueue: Support::Yes,
            nft_queue: Support::Yes,
            xt_nfqueue: Support::Yes,
            rooms: Rooms {
                moves: Support::Yes,
                copies: Support::Yes,
                lends: Support::Yes,
                own_group: Support::Yes,
            },
            iptables: vec![
                iptables(Variant::Legacy, false),
                iptables(Variant::Nft, true),
            ],
            xt_recent: Support::Yes,
            sock_diag: Support::Yes,
            ipvs: None,
            conntrack: None,
            sysctls: SYSCTLS.into_iter().zip(settings).collect(),
            counts: COUNTS.into_iter().zip([Some(0); 3]).collect(),
            published: Vec::new(),
            published_unseen: None,
            firewall: Firewall::default(),
            by_port: Vec::new(),
            nat: Some(Vec::new()),
        }
    }

    fn iptables(variant: Variant, default: bool) -> VariantSummary {
        VariantSummary {
            variant: variant.name(),
            default,
            ipv6: true,
            rules: Some(0),
            unseen: None,
        }
    }

    pub(crate) fn no() -> Support {
        Support::No("not in this kernel".to_owned())
    }
}
