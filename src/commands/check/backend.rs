//! Which backend `--backend auto` takes on a host. Pure.

use serde::Serialize;

use super::host::Host;
use crate::gate::kinds::Variant;
use crate::gate::kinds::{Choice, Kind};
use crate::kernel::caps::NEEDED;
use crate::kernel::support::{NOT_PRIVILEGED, Support};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AutoBackend {
    pub(crate) name: &'static str,
    /// Why it is not the first choice; null if it is.
    pub(crate) because: Option<String>,
}

/// What holds SYNs with `--syn hold`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Holding {
    /// Null if nothing does.
    pub(crate) backend: Option<&'static str>,
    /// Why it is not nft; null if it is.
    pub(crate) because: Option<String>,
}

impl Host {
    /// Which backend `--backend auto` takes here, or in one line why none.
    pub(crate) fn backend(&self) -> Result<AutoBackend, String> {
        if let Support::No(why) | Support::Unknown(why) = &self.sock_diag {
            return Err(format!("the service's listeners can't be seen: {why}"));
        }
        if !self.privileges.net_admin {
            return Err(NEEDED.to_owned());
        }
        let lacking = match (&self.nf_tables, &self.timed_sets) {
            (Support::Yes, Support::Yes) => None,
            (Support::Unknown(why), _) if why == NOT_PRIVILEGED => {
                return Err(format!(
                    "{NEEDED}; what this process has is over another user namespace"
                ));
            }
            (Support::Unknown(why), _) | (Support::Yes, Support::Unknown(why)) => {
                return Err(format!("nf_tables: {why}"));
            }
            (Support::No(why), _) | (_, Support::No(why)) => Some(why),
        };
        let Some(why) = lacking else {
            let name = Kind::Nft.name();
            return Ok(AutoBackend {
                name,
                because: None,
            });
        };
        let mut others = Choice::Auto
            .kinds()
            .into_iter()
            .filter_map(|kind| self.installed(kind));
        match others.next() {
            Some(name) => Ok(AutoBackend {
                name,
                because: Some(format!("nft does not work here ({why})")),
            }),
            None => Err(format!(
                "nft does not work here ({why}), and no iptables is installed"
            )),
        }
    }

    /// Which backend holds SYNs here, without `--backend`. Whether iptables works is not tried.
    pub(crate) fn holding(&self) -> Holding {
        let no = |because: String| Holding {
            backend: None,
            because: Some(because),
        };
        let by_iptables = |name, because: String| match &self.xt_nfqueue {
            Support::No(why) => no(format!("{because}; xt_NFQUEUE: {why}")),
            Support::Yes | Support::Unknown(_) => Holding {
                backend: Some(name),
                because: Some(because),
            },
        };
        if let Support::No(why) | Support::Unknown(why) = &self.nfqueue {
            return no(why.clone());
        }
        let auto = match self.backend() {
            Ok(auto) => auto,
            Err(why) => return no(why),
        };
        match (&self.nft_queue, auto.because) {
            (Support::Yes, None) => Holding {
                backend: Some(auto.name),
                because: None,
            },
            (Support::Yes, Some(why)) => by_iptables(auto.name, why),
            (Support::Unknown(why), _) => no(format!("whether nft's queue works: {why}")),
            (Support::No(why), _) => {
                let because = format!("nft's queue: {why}");
                match self.installed(Kind::Iptables(Variant::Legacy)) {
                    Some(legacy) => by_iptables(legacy, because),
                    None => no(format!("{because}; iptables-legacy is not installed")),
                }
            }
        }
    }

    /// The variant's name, if it is installed and its part of the kernel is there.
    fn installed(&self, kind: Kind) -> Option<&'static str> {
        let Kind::Iptables(variant) = kind else {
            return None;
        };
        let found = self.iptables.iter().find(|installed| match variant {
            Variant::Default => installed.default,
            known => installed.variant == known.name(),
        })?;
        let on_nf_tables = found.variant == Variant::Nft.name();
        (!on_nf_tables || self.nf_tables.is_yes()).then_some(found.variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::host::tests::{no, usual};

    #[test]
    fn which_backend_and_why() {
        type Change = fn(&mut Host);
        let cases: [(Change, Result<&str, &str>); 11] = [
            (|_| (), Ok("nft")),
            (
                |h| h.nf_tables = Support::Unknown("it hangs".to_owned()),
                Err("nf_tables: it hangs"),
            ),
            (|h| h.owner_tables = no(), Ok("nft")),
            // iptables-nft stands on a table as well, and does without timed sets.
            (|h| h.timed_sets = no(), Ok("iptables-nft")),
            (
                |h| (h.nf_tables, h.timed_sets) = (no(), no()),
                Ok("iptables-legacy"),
            ),
            (
                |h| {
                    h.timed_sets = no();
                    h.iptables.clear();
                },
                Err("no iptables is installed"),
            ),
            (
                |h| {
                    (h.nf_tables, h.timed_sets) = (no(), no());
                    h.iptables.remove(0);
                },
                Err("no iptables is installed"),
            ),
            (|h| h.privileges.net_admin = false, Err("run it as root")),
            (
                |h| h.nf_tables = Support::Unknown(NOT_PRIVILEGED.to_owned()),
                Err("another user namespace"),
            ),
            (
                |h| h.timed_sets = Support::Unknown("it refuses".to_owned()),
                Err("nf_tables: it refuses"),
            ),
            (|h| h.sock_diag = no(), Err("listeners can't be seen")),
        ];
        for (n, (change, expected)) in cases.into_iter().enumerate() {
            let mut host = usual();
            change(&mut host);
            match (host.backend(), expected) {
                (Ok(backend), Ok(name)) => {
                    assert_eq!(backend.name, name, "case {n}");
                    assert_eq!(backend.because.is_none(), name == "nft", "case {n}");
                }
                (Err(why), Err(says)) => assert!(why.contains(says), "case {n}: {why}"),
                (backend, expected) => panic!("case {n}: {backend:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn which_backend_holds_syns_and_why() {
        type Change = fn(&mut Host);
        let cases: [(Change, Option<&str>, &str); 10] = [
            (|_| (), Some("nft"), ""),
            (|h| h.xt_nfqueue = no(), Some("nft"), ""),
            (
                |h| h.nft_queue = no(),
                Some("iptables-legacy"),
                "nft's queue: not in",
            ),
            (
                |h| {
                    h.nft_queue = no();
                    h.xt_nfqueue = Support::Unknown("no nft_compat".to_owned());
                },
                Some("iptables-legacy"),
                "nft's queue",
            ),
            (
                |h| (h.nft_queue, h.xt_nfqueue) = (no(), no()),
                None,
                "nft's queue: not in this kernel; xt_NFQUEUE: not in this kernel",
            ),
            (
                |h| {
                    h.nft_queue = no();
                    h.iptables.remove(0);
                },
                None,
                "iptables-legacy is not installed",
            ),
            (
                |h| h.timed_sets = no(),
                Some("iptables-nft"),
                "nft does not work here",
            ),
            (
                |h| (h.timed_sets, h.xt_nfqueue) = (no(), no()),
                None,
                "xt_NFQUEUE",
            ),
            (|h| h.nfqueue = no(), None, "not in this kernel"),
            (|h| h.privileges.net_admin = false, None, "run it as root"),
        ];
        for (n, (change, backend, says)) in cases.into_iter().enumerate() {
            let mut host = usual();
            change(&mut host);
            let holding = host.holding();
            assert_eq!(holding.backend, backend, "case {n}: {holding:?}");
            let why = holding.because.unwrap_or_default();
            assert!(why.contains(says), "case {n}: {why}");
            assert_eq!(why.is_empty(), backend == Some("nft"), "case {n}: {why}");
        }
    }
}
