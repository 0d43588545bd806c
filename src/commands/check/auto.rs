//! Whether a service can be parked here, and what `--syn auto` does. Pure.

use super::endpoint::Endpoint;
use super::host::Host;
use crate::action::rooms::choice::{Choice, first};

impl Host {
    /// What `--syn auto` does here for the services on the ports that were asked for. It tries actions in this order.
    /// `None`: as far as the host decides it.
    pub(crate) fn auto(&self, order: &[&'static str], endpoints: Option<&[Endpoint]>) -> Choice {
        let can = |action| match action {
            "park" | "handover" => match (self.rooms.refusal(), endpoints) {
                (Some(why), _) => Err(why.to_owned()),
                (None, Some([])) => Err("nobody listens".to_owned()),
                (None, known) => {
                    let mut all = known.unwrap_or_default().iter();
                    let cookies = action == "park" && self.always_sends_cookies();
                    all.try_for_each(|endpoint| {
                        let why = endpoint.unparkable.as_deref();
                        self.rooms.park_by_auto(cookies, endpoint.reuseport, why)
                    })
                }
            },
            "hold" => {
                let holding = self.holding();
                let why = holding.because.unwrap_or_default();
                holding.backend.map(drop).ok_or(why)
            }
            _ => Ok(()),
        };
        first(order, can)
    }

    /// Whether the kernel may reset clients of this service if they are parked.
    pub(crate) fn resets_cookies(&self, endpoint: &Endpoint) -> bool {
        self.always_sends_cookies() && endpoint.reuseport == Some(false)
    }

    fn always_sends_cookies(&self) -> bool {
        self.sysctl("net.ipv4.tcp_syncookies") == Some(2)
    }

    /// Whether connections to this service can be parked here, as far as can be told without a room.
    ///
    /// # Errors
    /// What is missing, in one line.
    pub(crate) fn parks(&self, endpoint: &Endpoint) -> Result<(), String> {
        self.rooms
            .park(endpoint.reuseport, endpoint.unparkable.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::rooms::choice::{AUTO, AUTO_FOR_RELOADS};
    use crate::commands::check::host::tests::{no, usual};

    fn endpoint(reuseport: bool) -> Endpoint {
        Endpoint {
            address: "0.0.0.0".parse().unwrap(),
            port: 80,
            interface: None,
            sockets: 1,
            backlog: 511,
            accept_queue: 0,
            uid: Some(0),
            reuseport: Some(reuseport),
            unparkable: None,
            processes: Vec::new(),
        }
    }

    #[test]
    fn what_is_missing_to_park() {
        type Change = fn(&mut Host, &mut Endpoint);
        let cases: [(bool, Change, &str); 8] = [
            (true, |_, _| (), ""),
            (false, |_, _| (), ""),
            (true, |h, _| h.rooms.moves = no(), "not in this kernel"),
            (true, |h, _| h.rooms.copies = no(), "not in this kernel"),
            (true, |h, _| h.rooms.lends = no(), ""),
            (
                false,
                |h, _| h.rooms.lends = no(),
                "does not set SO_REUSEPORT",
            ),
            (true, |h, _| h.rooms.own_group = no(), ""),
            (
                true,
                |_, e| e.unparkable = Some("of MPTCP".to_owned()),
                "MPTCP",
            ),
        ];
        for (n, (reuseport, change, says)) in cases.into_iter().enumerate() {
            let (mut host, mut endpoint) = (usual(), endpoint(reuseport));
            change(&mut host, &mut endpoint);
            let why = host.parks(&endpoint).err().unwrap_or_default();
            assert_eq!(why.is_empty(), says.is_empty(), "case {n}: {why}");
            assert!(why.contains(says), "case {n}: {why}");
        }
    }

    #[test]
    fn auto_takes_the_first_that_can_be_done() {
        let mut host = usual();
        assert_eq!(host.auto(&AUTO, None).action, AUTO[0]);
        host.nfqueue = no();
        assert_eq!(host.auto(&AUTO, None).action, "park");
        assert_eq!(
            host.auto(&AUTO, Some(&[])).lacking[0],
            "park: nobody listens"
        );
        let mut cookies = |value| {
            host.sysctls.insert("net.ipv4.tcp_syncookies", Some(value));
            [true, false].map(|reuseport| host.auto(&AUTO, Some(&[endpoint(reuseport)])).action)
        };
        assert_eq!(cookies(1), ["park", "park"]);
        assert_eq!(cookies(2), ["park", "drop"]);
        let reload = host.auto(&AUTO_FOR_RELOADS, Some(&[endpoint(false)]));
        assert_eq!(reload.action, "handover");
        (host.rooms.moves, host.rooms.copies) = (no(), no());
        let auto = host.auto(&AUTO, Some(&[endpoint(true)]));
        assert_eq!(auto.action, "drop");
        assert_eq!(auto.lacking.len(), AUTO.len() - 1, "{auto:?}");
    }
}
