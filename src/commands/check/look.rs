//! Looks what this host can do: tried without a trace, and never guessed.

use super::host::{COUNTS, Host, Privileges, SYSCTLS, VariantSummary};
use super::nf_tables::NfTables;
use super::proc::{conntrack, ipvs, sysctl};
use super::rules::{legacy, nat, published};
use crate::action::rooms::able::Rooms;
use crate::gate::firewall;
use crate::gate::iptables::holdings;
use crate::gate::iptables::present::default_variant;
use crate::kernel::caps;
use crate::kernel::release::{made_from, release};
use crate::kernel::sockets::netstat;
use crate::kernel::support::Support;

impl Host {
    /// `sock_diag`: whether the host's sockets could be listed.
    pub(crate) fn look(sock_diag: Support) -> Host {
        let asked = NfTables::ask();
        let holdings = holdings::take(caps::net_admin());
        let default = default_variant();
        let (published, published_unseen) = published(&holdings);
        Host {
            kernel: release(),
            made_from: made_from(),
            privileges: Privileges::mine(),
            nf_tables: asked.table,
            timed_sets: asked.gate,
            owner_tables: asked.owner,
            prerouting: asked.prerouting,
            nft_dup: asked.dup,
            nft_reject: asked.reject,
            nfqueue: asked.nfqueue,
            nft_queue: asked.queue,
            xt_nfqueue: asked.xt_nfqueue,
            rooms: Rooms::look(),
            iptables: holdings
                .iter()
                .map(|i| VariantSummary::counted(i, default))
                .collect(),
            xt_recent: asked.recent,
            sock_diag,
            ipvs: ipvs(),
            conntrack: conntrack(),
            sysctls: SYSCTLS
                .into_iter()
                .map(|name| (name, sysctl(name)))
                .collect(),
            counts: COUNTS
                .into_iter()
                .map(|name| (name, netstat(name)))
                .collect(),
            published,
            published_unseen,
            firewall: firewall::look_beside(legacy(&holdings)),
            by_port: firewall::by_port_beside(legacy(&holdings)).unwrap_or_default(),
            nat: nat(&holdings),
        }
    }
}
