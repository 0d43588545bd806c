//! Which backend `--backend auto` takes on a host. Pure.

use serde::Serialize;

use super::host::Host;
use super::support::{NOT_PRIVILEGED, Support};
use crate::gate::kinds::Variant;
use crate::gate::kinds::{Choice, Kind};
use crate::kernel::caps;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AutoBackend {
    pub(crate) name: &'static str,
    /// Why it is not the first choice; null if it is.
    pub(crate) because: Option<String>,
}

impl Host {
    /// Which backend `--backend auto` takes here, or in one line why none.
    pub(crate) fn backend(&self) -> Result<AutoBackend, String> {
        if let Support::No(why) | Support::Unknown(why) = &self.sock_diag {
            return Err(format!("the service's listeners can't be seen: {why}"));
        }
        if !self.privileges.net_admin {
            return Err(caps::NEEDED.to_owned());
        }
        let lacking = match (&self.nf_tables, &self.timed_sets) {
            (Support::Yes, Support::Yes) => None,
            (Support::Unknown(why), _) if why == NOT_PRIVILEGED => {
                return Err(format!(
                    "{}; what this process has is over another user namespace",
                    caps::NEEDED
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
        let cases: [(Change, Result<&str, &str>); 10] = [
            (|_| (), Ok("nft")),
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
}
