//! How many held SYNs may be released at once: a listener with full queues would drop the rest.
//! Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::kernel::nfqueue::packet::Destination;
use crate::kernel::sockets::{Cookies, HalfOpen, Listener, Sample, SynLimits};
use crate::words::family::Family;
use crate::words::listen_ports::ListenPorts;
use crate::words::ports::PortSet;

/// The number of SYNs that a round releases to a port whose listeners can't be seen (another
/// network namespace).
pub(crate) const BLIND: u32 = 16;

/// What is known of the listeners at one moment.
pub(crate) struct Pace<'a> {
    sample: &'a Sample,
    limits: SynLimits,
    translation: &'a Translation,
    finally: bool,
    /// No more than these are let go.
    most: usize,
    /// The remaining room of each group.
    rooms: HashMap<Group, u32>,
}

/// How the gate's addresses and ports relate to those of the listeners.
#[derive(Debug, Clone, Default)]
pub(crate) struct Translation {
    pub listen_ports: ListenPorts,
    /// The listeners may have other addresses than the SYNs.
    pub of_addresses: bool,
    /// Ports on which a listener was seen before.
    pub seen: PortSet,
}

/// The listeners that share the connections to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Group {
    bound: Bound,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bound {
    /// Bound to this address, which may be a wildcard.
    At(IpAddr),
    /// All listeners of the port: the SYN's address does not tell which one.
    Any,
    /// No listener.
    Nowhere,
}

/// Whether each listener has room for twice as many SYNs. Then handshakes need not be counted,
/// which is slow where there are many connections (20 ms and more with 100,000 in TIME_WAIT). The
/// other half is for connections that were not held.
pub(crate) fn has_plenty(sample: &Sample, limits: SynLimits, comers: u64) -> bool {
    let plenty = |l: &Listener| u64::from(l.backlog.saturating_sub(l.accept_queue)) / 2 >= comers;
    // With cookies off the SYN backlog is a further limit. With cookies always on, handshakes can't
    // be seen.
    limits.cookies == Cookies::WhenFull
        && !sample.listeners.is_empty()
        && sample.listeners.iter().all(plenty)
}

impl<'a> Pace<'a> {
    /// `finally`: the ports open in any case.
    pub(crate) fn new(
        sample: &'a Sample,
        limits: SynLimits,
        translation: &'a Translation,
        finally: bool,
    ) -> Pace<'a> {
        Pace {
            sample,
            limits,
            translation,
            finally,
            most: usize::MAX,
            rooms: HashMap::new(),
        }
    }

    /// Lets no more go than so many, to all listeners.
    pub(crate) fn most(&mut self, most: usize) {
        self.most = most;
    }

    /// Whether SYN cookies hide the handshakes in progress.
    pub(crate) fn is_blind(&self) -> bool {
        self.limits.cookies == Cookies::Always
    }

    /// Takes one place for a SYN, if there is one.
    pub(crate) fn take(&mut self, to: Destination) -> bool {
        if self.most == 0 {
            return false;
        }
        let gated: PortSet = [to.port].into_iter().collect();
        let listened = self.translation.listen_ports.listeners_of(&gated);
        let group = self.group(to.address, listened.iter().next().unwrap_or(to.port));
        if !self.rooms.contains_key(&group) {
            let room = self.room(group);
            self.rooms.insert(group, room);
        }
        let Some(room) = self.rooms.get_mut(&group).filter(|room| **room > 0) else {
            return false;
        };
        *room -= 1;
        self.most -= 1;
        true
    }

    /// The kernel prefers a listener bound to the exact address, and then one of its own IP version
    /// to a dual-stack one (compute_score(), net/ipv4/inet_hashtables.c).
    fn group(&self, address: IpAddr, port: u16) -> Group {
        let bound = match self.translation.of_addresses {
            true => Bound::Any,
            false => self.bound(address.to_canonical(), port),
        };
        Group { bound, port }
    }

    fn bound(&self, address: IpAddr, port: u16) -> Bound {
        let any_v4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let any_v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let candidates = match address {
            IpAddr::V4(_) => [address, any_v4, any_v6],
            IpAddr::V6(_) => [address, any_v6, any_v6],
        };
        let family = Family::of(address);
        let listens = |at: &IpAddr| {
            let mut listeners = self.sample.listeners.iter();
            listeners.any(|l| l.port == port && bound_to(l) == *at && l.serves(family))
        };
        candidates
            .into_iter()
            .find(listens)
            .map_or(Bound::Nowhere, Bound::At)
    }

    /// The room of the fullest listener of a group, because nobody knows which one the kernel will
    /// choose. A handshake takes a place in the accept queue when it completes.
    fn room(&self, group: Group) -> u32 {
        let handshakes = self.handshakes(group);
        // An old handshake is a scanner's or part of a flood, and will not complete. With cookies
        // off it still takes a place in the SYN backlog.
        let stale = match self.limits.cookies {
            Cookies::Never => handshakes.slow + handshakes.stale,
            _ => 0,
        };
        let under_way = handshakes.young + stale;
        let free = |l: &Listener| {
            // listen(fd, 0) still accepts one connection.
            l.backlog.max(1).saturating_sub(l.accept_queue + under_way)
        };
        let members = self.sample.listeners.iter().filter(|l| group.has(l));
        let Some(free) = members.map(free).min() else {
            return self.room_of_nobody(group.port);
        };
        if self.limits.cookies != Cookies::Never {
            return free;
        }
        // With cookies off the kernel reserves the last quarter of the backlog for known clients
        // (tcp_conn_request(), net/ipv4/tcp_input.c).
        let most = self.limits.max_syn_backlog - self.limits.max_syn_backlog / 4;
        free.min(most.saturating_sub(under_way))
    }

    fn room_of_nobody(&self, port: u16) -> u32 {
        let listened = self.sample.listeners.iter().any(|l| l.port == port);
        if listened || (self.finally && self.translation.seen.contains(port)) {
            return u32::MAX; // an open gate would not serve them better
        }
        match self.translation.seen.contains(port) {
            true => 0, // it has gone, and may come back
            false => BLIND,
        }
    }

    fn handshakes(&self, group: Group) -> HalfOpen {
        let mut sum = HalfOpen::default();
        for ((address, port), some) in &self.sample.handshakes {
            if *port == group.port && self.group(*address, *port) == group {
                sum.young += some.young;
                sum.slow += some.slow;
                sum.stale += some.stale;
            }
        }
        sum
    }
}

impl Group {
    fn has(&self, listener: &Listener) -> bool {
        listener.port == self.port
            && match self.bound {
                Bound::At(address) => bound_to(listener) == address,
                Bound::Any => true,
                Bound::Nowhere => false,
            }
    }
}

fn bound_to(listener: &Listener) -> IpAddr {
    listener.address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sockets::{Device, SocketId};

    const COOKIES: SynLimits = SynLimits {
        cookies: Cookies::WhenFull,
        max_syn_backlog: 256,
    };
    const NO_COOKIES: SynLimits = SynLimits {
        cookies: Cookies::Never,
        max_syn_backlog: 256,
    };

    const ALWAYS_COOKIES: SynLimits = SynLimits {
        cookies: Cookies::Always,
        max_syn_backlog: 256,
    };

    fn listener(address: &str, port: u16, backlog: u32, accept_queue: u32) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            port,
            v6only: false,
            device: Device::Any,
            id: SocketId {
                netns: 1,
                cookie: 1,
            },
            uid: 0,
            cgroup: None,
            inode: 1,
            accept_queue,
            backlog,
        }
    }

    fn sample(listeners: Vec<Listener>, handshakes: &[(&str, u16, u32, u32)]) -> Sample {
        let handshakes = handshakes.iter().map(|(address, port, young, stale)| {
            let (young, stale) = (*young, *stale);
            let at = (address.parse().unwrap(), *port);
            let slow = 0;
            (at, HalfOpen { young, slow, stale })
        });
        Sample {
            listeners,
            handshakes: handshakes.collect(),
            ..Sample::default()
        }
    }

    #[test]
    fn where_there_is_plenty_of_room_nobody_is_counted() {
        let two = |queue| {
            sample(
                vec![listener("::", 80, 100, 0), listener("::", 81, 400, queue)],
                &[],
            )
        };
        assert!(has_plenty(&two(300), COOKIES, 50));
        assert!(!has_plenty(&two(301), COOKIES, 50), "in the queue");
        assert!(!has_plenty(&two(300), COOKIES, 51), "by one");
        assert!(!has_plenty(&two(300), NO_COOKIES, 1));
        assert!(!has_plenty(&two(300), ALWAYS_COOKIES, 1));
        assert!(
            !has_plenty(&sample(vec![], &[]), COOKIES, 1),
            "nobody listens"
        );
    }

    /// The kernel keeps nothing of a handshake that it has answered with a cookie.
    #[test]
    fn handshakes_cannot_be_counted_where_each_gets_a_cookie() {
        let (seen, each) = (sample(Vec::new(), &[]), Translation::default());
        let is_blind = |limits| Pace::new(&seen, limits, &each, false).is_blind();
        assert!(is_blind(ALWAYS_COOKIES));
        assert!(!is_blind(COOKIES) && !is_blind(NO_COOKIES));
    }

    /// How many of `each` SYNs go to each destination.
    fn go(sample: &Sample, limits: SynLimits, each: &Translation, to: &[(&str, u16)]) -> Vec<u32> {
        let mut pace = Pace::new(sample, limits, each, false);
        let mut gone = vec![0; to.len()];
        for _ in 0..1_000 {
            for (n, (address, port)) in to.iter().enumerate() {
                let address = address.parse().unwrap();
                let to = Destination {
                    address,
                    port: *port,
                };
                gone[n] += u32::from(pace.take(to));
            }
        }
        gone
    }

    fn plainly(sample: &Sample, limits: SynLimits, to: &[(&str, u16)]) -> Vec<u32> {
        go(sample, limits, &Translation::default(), to)
    }

    #[test]
    fn what_waits_and_what_is_under_way_takes_places() {
        let seen = sample(
            vec![listener("0.0.0.0", 80, 16, 3)],
            &[("10.0.0.1", 80, 4, 5), ("10.0.0.1", 81, 9, 0)],
        );
        assert_eq!(plainly(&seen, COOKIES, &[("10.0.0.1", 80)]), [9]);
        assert_eq!(plainly(&seen, NO_COOKIES, &[("10.0.0.1", 80)]), [4]);
        // One more whose last ACK takes long: it may still come, or be a scanner's.
        let mut slow = seen.clone();
        slow.handshakes.values_mut().for_each(|some| some.slow = 1);
        assert_eq!(plainly(&slow, COOKIES, &[("10.0.0.1", 80)]), [9]);
        assert_eq!(plainly(&slow, NO_COOKIES, &[("10.0.0.1", 80)]), [3]);
        let full = sample(vec![listener("0.0.0.0", 80, 16, 17)], &[]);
        assert_eq!(plainly(&full, COOKIES, &[("10.0.0.1", 80)]), [0]);
        let least = sample(vec![listener("0.0.0.0", 80, 0, 0)], &[]);
        assert_eq!(plainly(&least, COOKIES, &[("10.0.0.1", 80)]), [1]);
    }

    #[test]
    fn no_more_go_than_the_rate_allows() {
        let seen = sample(vec![listener("0.0.0.0", 80, 16, 3)], &[]);
        let each = Translation::default();
        let mut pace = Pace::new(&seen, COOKIES, &each, false);
        pace.most(5);
        let address = "10.0.0.1".parse().unwrap();
        let gone = (0..100).filter(|_| pace.take(Destination { address, port: 80 }));
        assert_eq!(gone.count(), 5);
    }

    #[test]
    fn a_quarter_is_kept_where_there_are_no_cookies() {
        let seen = sample(
            vec![listener("0.0.0.0", 80, 4096, 0)],
            &[("10.0.0.1", 80, 2, 0)],
        );
        assert_eq!(plainly(&seen, NO_COOKIES, &[("10.0.0.1", 80)]), [190]);
        assert_eq!(plainly(&seen, COOKIES, &[("10.0.0.1", 80)]), [1_000]);
    }

    #[test]
    fn the_fullest_of_a_group_counts() {
        let group = vec![
            listener("::", 80, 16, 1),
            listener("::", 80, 16, 9),
            listener("::", 80, 16, 0),
        ];
        let seen = sample(group, &[("::ffff:10.0.0.1", 80, 2, 0)]);
        assert_eq!(plainly(&seen, COOKIES, &[("fd00::1", 80)]), [5]);
        // Both IP versions share these listeners.
        let both = [("10.0.0.1", 80), ("fd00::1", 80)];
        assert_eq!(plainly(&seen, COOKIES, &both), [3, 2]);
    }

    #[test]
    fn each_address_has_its_own_room() {
        let seen = sample(
            vec![
                listener("10.0.0.1", 80, 8, 0),
                listener("0.0.0.0", 80, 4, 0),
                listener("::", 80, 2, 0),
            ],
            &[("10.0.0.1", 80, 3, 0), ("10.0.0.2", 80, 1, 0)],
        );
        let all = [("10.0.0.1", 80), ("10.0.0.2", 80), ("fd00::1", 80)];
        assert_eq!(plainly(&seen, COOKIES, &all), [5, 3, 2]);
        let wildcards = [("10.0.0.2", 80), ("10.0.0.3", 80)];
        assert_eq!(plainly(&seen, COOKIES, &wildcards), [2, 1], "shared");
    }

    #[test]
    fn what_cannot_be_seen_goes_slowly() {
        let elsewhere = sample(vec![listener("10.0.0.9", 81, 4096, 0)], &[]);
        assert_eq!(plainly(&elsewhere, COOKIES, &[("10.0.0.1", 80)]), [BLIND]);
    }

    #[test]
    fn nobody_goes_to_a_listener_that_has_gone() {
        let gone = sample(Vec::new(), &[]);
        let each = Translation {
            seen: [80].into_iter().collect(),
            ..Translation::default()
        };
        let to = [("10.0.0.1", 80)];
        assert_eq!(go(&gone, COOKIES, &each, &to), [0]);
        let port = to[0].1;
        let mut finally = Pace::new(&gone, COOKIES, &each, true);
        let address = to[0].0.parse().unwrap();
        assert!((0..1_000).all(|_| finally.take(Destination { address, port })));
        // One address of several has lost its listener: an open gate would refuse there too.
        let v6only = Listener {
            v6only: true,
            ..listener("::", 80, 4096, 0)
        };
        let other = sample(vec![v6only], &[]);
        assert_eq!(go(&other, COOKIES, &each, &to), [1_000]);
    }

    #[test]
    fn translated_ports_and_addresses() {
        let seen = sample(
            vec![listener("172.17.0.2", 8080, 10, 0)],
            &[("172.17.0.2", 8080, 3, 0)],
        );
        let each = Translation {
            listen_ports: ListenPorts::parse("8080", |_| None).unwrap(),
            of_addresses: true,
            seen: PortSet::EMPTY,
        };
        let to = [("10.0.0.1", 80), ("10.0.0.2", 443)];
        assert_eq!(go(&seen, COOKIES, &each, &to), [4, 3]);
    }
}
