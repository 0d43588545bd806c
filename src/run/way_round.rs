//! Whether connections begin on a shut port, which the gate should have kept from the service.

use std::collections::{BTreeSet, HashSet};

use anyhow::Result;

use crate::kernel::route::Routing;
use crate::kernel::sockets::arrivals::Arrivals;
use crate::kernel::sockets::passing::{Ends, Passing, Progress, accepted, how_many, passing};
use crate::kernel::sockets::{Cookies, Looks};
use crate::run::scene::Scene;
use crate::words::gated::Gated;
use crate::words::scope::Where;
use crate::words::steer::Steer;

/// With more TCP sockets than this in the network namespace, a look does not tell new connections from old ones. With
/// more sockets and TIME_WAIT together, it does not tell those that are over already.
pub(crate) const ONLOOK_CONNECTIONS: usize = 20_000;

#[derive(Debug)]
pub(super) struct WayRound {
    watches: bool,
    /// The gate steers connections elsewhere, and lets those pass that it has not steered.
    steers: bool,
    redirects: bool,
    known: Option<Known>,
}

/// What there was just after the gate had closed.
#[derive(Debug)]
struct Known {
    connections: HashSet<Ends>,
    /// Shows SYNs that arrive since then. `None`: this process may not see them, or the listeners are in
    /// another network namespace, which the socket would keep alive.
    arrivals: Option<Arrivals>,
    /// The ports that had a listener.
    listening: BTreeSet<u16>,
    /// Those in TIME_WAIT are among the connections.
    over: bool,
    accepted: Option<u64>,
}

impl WayRound {
    pub(super) fn new(steer: Option<Steer>) -> WayRound {
        WayRound {
            watches: true,
            steers: matches!(steer, Some(Steer::Redirect(_) | Steer::Divert(_))),
            redirects: steer.is_some_and(Steer::translates),
            known: None,
        }
    }

    /// The next look is the first one.
    pub(super) fn begins(&self) -> bool {
        self.watches && self.known.is_none()
    }

    pub(super) fn costs_nothing(&self) -> bool {
        self.known
            .as_ref()
            .is_none_or(|known| known.arrivals.is_some())
    }

    pub(super) fn begin_anew(&mut self) {
        self.known = None;
    }

    pub(super) fn stop(&mut self) {
        self.watches = false;
        self.known = None;
    }

    /// A connection that began on a shut port. Tells of the first one only.
    pub(super) fn look(&mut self, scene: &Scene) -> Result<Option<String>> {
        let gated = scene.view.gated;
        if !self.watches || !gated.scope.interfaces.is_empty() {
            return Ok(None);
        }
        let Some(known) = &mut self.known else {
            self.known = self.begin(scene)?;
            self.watches = self.known.is_some();
            return Ok(None);
        };
        let newcomers = known.newcomers(scene)?;
        let found = of_clients_to_stop(newcomers, scene)?;
        if found.is_some() {
            self.stop();
        }
        Ok(found.map(|ends| match self.redirects {
            true => tell_of_main_port(ends),
            false => tell_of_way_round(ends, gated),
        }))
    }

    /// `None`: newcomers could not be told.
    fn begin(&self, scene: &Scene) -> Result<Option<Known>> {
        let netns = scene.sockets.netns();
        let listed = scene.view.gated.listener_ports();
        let arrivals = match netns {
            None => Arrivals::open(&listed).ok(),
            Some(_) => None,
        };
        // A gate that steers lets a SYN pass that a client of before sends again.
        if arrivals.is_some() && !self.steers {
            return Ok(Some(Known::of(&[], false, None, arrivals)));
        }
        let few = how_many(netns).filter(|n| n.0 <= ONLOOK_CONNECTIONS);
        let Some((sockets, over)) = few else {
            return Ok(None);
        };
        let over = arrivals.is_none() && sockets + over <= ONLOOK_CONNECTIONS;
        let accepted = accepted(netns);
        // Twice: the kernel lists them in portions, and may pass one by.
        let look = || passing(netns, &listed, over);
        let seen = [look()?, look()?].concat();
        Ok(Some(Known::of(&seen, over, accepted, arrivals)))
    }
}

impl Known {
    fn of(
        seen: &[Passing],
        over: bool,
        accepted: Option<u64>,
        arrivals: Option<Arrivals>,
    ) -> Known {
        Known {
            listening: listening(seen),
            connections: seen.iter().map(Passing::ends).collect(),
            arrivals,
            over,
            accepted,
        }
    }

    /// The connections that began on shut ports.
    fn newcomers(&mut self, scene: &Scene) -> Result<Vec<Ends>> {
        let ports = scene.view.gated.listen_ports.listeners_of(scene.view.shut);
        if let Some(arrivals) = &self.arrivals {
            let arrived = arrivals.read();
            let ends = arrived.iter().map(|arrival| (arrival.to, arrival.from));
            let new = ends
                .filter(|ends| ports.contains(ends.0.port()) && !self.connections.contains(ends));
            return Ok(new.collect());
        }
        let netns = scene.sockets.netns();
        let accepted = accepted(netns);
        // Nobody has accepted a connection, on any port.
        if accepted.is_some() && accepted == self.accepted {
            return Ok(Vec::new());
        }
        self.accepted = accepted;
        let cookies = scene.sockets.sent_cookies_meanwhile()
            || scene.sockets.syn_limits().cookies == Cookies::Always;
        let seen = passing(netns, &ports, self.over)?;
        Ok(self.begun(&seen, cookies).map(Passing::ends).collect())
    }

    /// The connections whose handshakes began after the gate had closed: half-open connections that were not there,
    /// and established ones that were not even half-open before. With SYN cookies nothing is seen of a handshake
    /// before its end, so those don't count. Where nobody listened, it may be this host that has connected to another
    /// one, from this port.
    fn begun<'a>(&self, seen: &'a [Passing], cookies: bool) -> impl Iterator<Item = &'a Passing> {
        let listening = listening(seen);
        let began = move |one: &&Passing| {
            let port = one.local.port();
            let known = self.connections.contains(&one.ends());
            !known
                && match one.state {
                    Progress::HalfOpen => true,
                    Progress::Established | Progress::Ended => {
                        !cookies && self.listening.contains(&port) && listening.contains(&port)
                    }
                    Progress::Listening => false,
                }
        };
        seen.iter().filter(began)
    }
}

/// The first of them that the gate should have kept from the service.
fn of_clients_to_stop(newcomers: Vec<Ends>, scene: &Scene) -> Result<Option<Ends>> {
    let gated = scene.view.gated;
    let scope = &gated.scope;
    // A published port of a container is another address to this host's own clients, before any
    // hook that the gate could be in: the manual says so.
    let published = scope.hook == Where::Prerouting && !gated.listeners_are_here;
    let lets_local = scope.allow_local || published || scene.view.check_passes;
    let asks = lets_local && !newcomers.is_empty();
    let mut routing = asks.then(Routing::open).transpose()?;
    let mut is_allowed = |client: std::net::IpAddr| {
        let is_here = routing.as_mut().is_some_and(|r| r.is_here(client));
        is_here || scope.allow_from.contain(client)
    };
    let reached = match gated.addresses_are_known() {
        true => scope.clone(),
        false => gated.listener_scope(),
    };
    let reaches = |(local, _): &Ends| reached.reaches(local.ip());
    let mut newcomers = newcomers.into_iter().filter(reaches);
    Ok(newcomers.find(|(_, client)| !is_allowed(client.ip())))
}

/// The ports of the listeners.
fn listening(seen: &[Passing]) -> BTreeSet<u16> {
    let listeners = seen.iter().filter(|one| one.state == Progress::Listening);
    listeners.map(|one| one.local.port()).collect()
}

fn tell_of_main_port((local, client): Ends) -> String {
    format!(
        "the closed gate did not redirect a connection from {client} to {local} (does a rule keep it from \
         connection tracking, or do its NAT first?): such clients are refused while nobody listens there"
    )
}

fn tell_of_way_round((local, client): Ends, gated: &Gated) -> String {
    let hint = match (gated.listeners_are_here, gated.scope.hook) {
        (false, Where::Input) => {
            "its listener is in another network namespace: --hook prerouting sees the packets for it"
        }
        (false, Where::Prerouting) => {
            "packets for the container's own address do not come by --hook prerouting"
        }
        (true, _) => "does a rule before the gate's let it in, or NAT from another port?",
    };
    format!(
        "a connection from {client} to {local} has bypassed the closed gate ({hint}): such clients are \
         refused while nobody listens there"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(peer: &str, port: u16, state: Progress) -> Passing {
        Passing {
            local: ([10, 0, 0, 1], port).into(),
            peer: peer.parse().unwrap(),
            state,
        }
    }

    #[test]
    fn a_connection_that_begins_is_told_from_one_in_flight() {
        use Progress::{Ended, Established, HalfOpen, Listening};
        let listener = one("0.0.0.0:0", 80, Listening);
        let before = [
            listener,
            one("10.0.0.2:1", 80, HalfOpen),
            one("10.0.0.2:2", 80, Established),
        ];
        let known = Known::of(&before, true, None, None);
        let new = |seen: &[Passing], cookies| known.begun(seen, cookies).count();
        for (peer, port, state, cookies, expected) in [
            ("10.0.0.2:1", 80, Established, false, 0),
            ("10.0.0.2:2", 80, Established, false, 0),
            ("10.0.0.2:3", 80, Established, false, 1),
            ("10.0.0.2:3", 80, Established, true, 0),
            ("10.0.0.2:3", 80, HalfOpen, true, 1),
            ("10.0.0.2:3", 80, Ended, false, 1),
            ("10.0.0.2:3", 80, Ended, true, 0),
            // Nobody listened there: this host's own connection to another one.
            ("10.0.0.2:443", 81, Established, false, 0),
        ] {
            let seen = [listener, one(peer, port, state)];
            assert_eq!(new(&seen, cookies), expected, "{peer} {port} {state:?}");
        }
        assert_eq!(new(&[one("10.0.0.2:3", 80, Established)], false), 0);
    }
}
