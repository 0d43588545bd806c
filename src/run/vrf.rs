//! VRFs, by which packets come in that rules before routing do not take for this host's.

use crate::kernel::interface::Interface;
use crate::kernel::release::{is_at_least, release};
use crate::kernel::route::Routing;
use crate::words::scope::{Scope, Where};
use crate::words::steer::Steer;

/// nf_tables looks for an address in the VRF's own table from this release on
/// (nft_fib_l3mdev_master_ifindex_rcu()). x_tables does not (xt_addrtype).
const SINCE: (u32, u32) = (6, 16);

/// Tells of a VRF from which connections would not meet the gate.
pub(super) fn warning(steer: Steer, scope: &Scope, nft: bool) -> Option<String> {
    if sees(steer, scope.hook, nft, is_at_least(&release(), SINCE)) {
        return None;
    }
    let vrf = of_this_host(scope)?;
    let hint = match steer {
        Steer::Drop | Steer::Queue(_) | Steer::Refuse => "with --hook input it does",
        Steer::Redirect(_) | Steer::Divert(_) => "with nft on Linux 6.16 and newer it does",
    };
    Some(format!(
        "the gate does not see connections that come in by the VRF {vrf}, since rules before routing do \
         not know its addresses as this host's ({hint})"
    ))
}

/// Whether a gate, by nft or by iptables, sees what comes in by a VRF. `looks_there`: nf_tables knows the
/// addresses of VRFs.
fn sees(steer: Steer, hook: Where, nft: bool, looks_there: bool) -> bool {
    match (steer, hook) {
        (Steer::Drop | Steer::Queue(_) | Steer::Refuse, Where::Input) => true,
        // It has a second chain in the input hook.
        (Steer::Drop, Where::Prerouting) => nft,
        _ => nft && looks_there,
    }
}

/// The first VRF that packets in this scope come in by.
fn first<'a>(present: &'a [Interface], scope: &Scope) -> Option<&'a str> {
    let named =
        |name: &str| scope.interfaces.is_empty() || scope.interfaces.iter().any(|n| n == name);
    let mut members = present.iter().filter(|one| one.master_kind == "vrf");
    members.find_map(|member| {
        let vrf = present
            .iter()
            .find(|one| Some(one.index) == member.master)?;
        (named(&member.name) || named(&vrf.name)).then_some(vrf.name.as_str())
    })
}

/// The first VRF of this host that packets in this scope come in by. `None` also where interfaces can't
/// be listed.
pub(super) fn of_this_host(scope: &Scope) -> Option<String> {
    let present = Routing::open().and_then(|mut routing| Ok(routing.interfaces()?));
    first(&present.ok()?, scope).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_gates_see_vrfs() {
        use Where::{Input, Prerouting};
        let hold = Steer::Queue(0);
        for (steer, hook, nft, looks_there, expected) in [
            (Steer::Drop, Input, false, false, true),
            (hold, Input, true, false, true),
            (Steer::Drop, Prerouting, true, false, true),
            (Steer::Drop, Prerouting, false, true, false),
            (hold, Prerouting, true, false, false),
            (hold, Prerouting, true, true, true),
            (Steer::Redirect(81), Input, true, false, false),
            (Steer::Redirect(81), Input, true, true, true),
            (Steer::Redirect(81), Input, false, true, false),
        ] {
            let seen = sees(steer, hook, nft, looks_there);
            assert_eq!(seen, expected, "{steer:?} {hook:?} {nft} {looks_there}");
        }
    }

    #[test]
    fn a_vrf_is_known_by_its_members() {
        let one = |name: &str, index, master, kind: &str| Interface {
            index,
            name: name.to_owned(),
            alternative_names: Vec::new(),
            master,
            master_kind: kind.to_owned(),
        };
        let present = [
            one("eth0", 2, None, ""),
            one("eth1", 3, Some(9), "vrf"),
            one("eth2", 4, Some(8), "bridge"),
            one("red", 9, None, ""),
        ];
        let by = |names: &[&str]| {
            let scope = Scope {
                interfaces: names.iter().map(|n| (*n).to_owned()).collect(),
                ..Scope::default()
            };
            first(&present, &scope).map(str::to_owned)
        };
        assert_eq!(by(&[]).as_deref(), Some("red"));
        assert_eq!(by(&["eth1"]).as_deref(), Some("red"));
        assert_eq!(by(&["red"]).as_deref(), Some("red"));
        assert_eq!(by(&["eth0", "eth2"]), None);
        assert_eq!(first(&present[..1], &Scope::default()), None);
    }
}
