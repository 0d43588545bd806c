//! The held SYNs in order of arrival, by destination. Pure: it decides what becomes of a packet,
//! and `held.rs` gives the verdict to the kernel.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::kernel::nfqueue::packet::{Destination, Packet, Syn};
use crate::words::ports::PortSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `--max-held`: in total.
    pub held: u32,
    /// `--max-held-per-source`: from one IPv4 address or one IPv6 /64.
    pub per_source: u32,
}

/// What becomes of a packet that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Held,
    /// A copy of a held SYN: it takes the place of the older packet with this id, which is dropped.
    /// The newest copy has the timestamps that the client expects back. The kernel searches packets
    /// from the oldest on, so it finds the older one at once.
    Replaces(u32),
    /// The limit is reached: it is dropped.
    NoRoom,
    /// A copy of a released SYN: it is dropped. The listener would answer with another SYN-ACK, and
    /// the handshake would look like a scanner's.
    HadItsTurn,
    /// Not a new SYN to a gated port: a rule of the host's has sent it to this queue. It is dropped, as the
    /// kernel does when nobody reads the queue. ACCEPT would take it past the host's other rules.
    NotOurs,
}

/// The counts for the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Copies are not counted.
    pub held: u64,
    pub released: u64,
    pub duplicates: u64,
    pub no_room: u64,
    /// The part of `no_room` whose source had reached its own limit.
    pub of_one_source: u64,
    /// Packets that the gate's rules have not sent.
    pub not_ours: u64,
    /// The longest time that a SYN was held.
    pub longest: Duration,
}

pub(crate) struct Line {
    limits: Limits,
    gated: PortSet,
    began: Instant,
    hasher: RandomState,
    destinations: HashMap<Destination, usize>,
    waiting: Vec<Waiters>,
    /// Where a connection's SYN is, or was. The key is a keyed hash of its addresses and ports, so
    /// that nobody can provoke collisions.
    places: HashMap<u64, Slot>,
    len: usize,
    per_source: HashMap<u64, u32>,
    counts: Counts,
}

/// The held SYNs for one destination.
struct Waiters {
    destination: Destination,
    /// Without those that are lost.
    len: usize,
    held: VecDeque<Held>,
    /// How many have left the front of the queue.
    gone: u32,
}

struct Held {
    source: u64,
    /// Nanoseconds since the line was created.
    arrived: u64,
    /// The packet id. `None`: the kernel has dropped the packet, and the place is kept for a copy.
    id: Option<u32>,
}

#[derive(Clone, Copy)]
struct Slot {
    destination: u32,
    sequence: u32,
    /// Counted from the first SYN ever held for this destination.
    nth: u32,
}

impl Line {
    pub(crate) fn new(limits: Limits, gated: PortSet, now: Instant) -> Line {
        Line {
            limits,
            gated,
            began: now,
            hasher: RandomState::new(),
            destinations: HashMap::new(),
            waiting: Vec::new(),
            places: HashMap::new(),
            len: 0,
            per_source: HashMap::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn arrive(&mut self, packet: &Packet, now: Instant) -> Arrival {
        let ours = packet.syn.filter(|syn| self.gated.contains(syn.to.port));
        let Some(syn) = &ours else {
            self.counts.not_ours += 1;
            return Arrival::NotOurs;
        };
        let connection = self.hasher.hash_one((syn.from, syn.to, syn.looped));
        if let Some(arrival) = self.copy(connection, syn.sequence, packet.id) {
            self.counts.duplicates += 1;
            return arrival;
        }
        let source = self.hasher.hash_one(network(syn.from.0));
        let of_source = self.per_source.get(&source).copied().unwrap_or(0);
        let too_many = of_source >= self.limits.per_source;
        if too_many || self.len >= self.limits.held as usize {
            self.counts.no_room += 1;
            self.counts.of_one_source += u64::from(too_many);
            return Arrival::NoRoom;
        }
        self.per_source.insert(source, of_source + 1);
        self.join(syn, connection, source, packet.id, now);
        Arrival::Held
    }

    /// What becomes of a packet of a known connection. `None`: the client has given up and begins a
    /// new connection.
    fn copy(&mut self, connection: u64, sequence: u32, id: u32) -> Option<Arrival> {
        let place = self.places.get_mut(&connection)?;
        let waiting = &mut self.waiting[place.destination as usize];
        let Some(held) = waiting.at(*place) else {
            return (place.sequence == sequence).then_some(Arrival::HadItsTurn);
        };
        place.sequence = sequence;
        match held.id.replace(id) {
            None => {
                *self.per_source.entry(held.source).or_insert(0) += 1;
                waiting.len += 1;
                self.len += 1;
                Some(Arrival::Held)
            }
            Some(older) => Some(Arrival::Replaces(older)),
        }
    }

    fn join(&mut self, syn: &Syn, connection: u64, source: u64, id: u32, now: Instant) {
        let next = self.waiting.len();
        let destination = *self.destinations.entry(syn.to).or_insert(next);
        if destination == next {
            self.waiting.push(Waiters {
                destination: syn.to,
                len: 0,
                held: VecDeque::new(),
                gone: 0,
            });
        }
        // Released SYNs are remembered too, up to half of the limit.
        let most = self.limits.held as usize;
        if self.places.len() > most + most / 2 {
            self.forget_who_has_gone();
        }
        let waiting = &mut self.waiting[destination];
        let place = Slot {
            destination: destination as u32,
            sequence: syn.sequence,
            nth: waiting.gone.wrapping_add(waiting.held.len() as u32),
        };
        waiting.held.push_back(Held {
            source,
            arrived: (now - self.began).as_nanos() as u64,
            id: Some(id),
        });
        waiting.len += 1;
        self.places.insert(connection, place);
        self.len += 1;
        self.counts.held += 1;
    }

    /// Forgets released SYNs: the next SYN of the same client asks for a new connection.
    pub(crate) fn forget_who_has_gone(&mut self) {
        let waiting = &mut self.waiting;
        self.places
            .retain(|_, place| waiting[place.destination as usize].at(*place).is_some());
    }

    /// Removes, in order of arrival, the SYNs for `ports` that `may_go` lets pass. Once `may_go`
    /// refuses one, all others for its destination stay. Returns the packet ids.
    pub(crate) fn release(
        &mut self,
        ports: &PortSet,
        now: Instant,
        mut may_go: impl FnMut(Destination) -> bool,
    ) -> Vec<u32> {
        let now = (now - self.began).as_nanos() as u64;
        let mut first: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        for (n, waiting) in self.waiting.iter_mut().enumerate() {
            waiting.pass_over_lost();
            let held = waiting.held.front();
            if let Some(held) = held.filter(|_| ports.contains(waiting.destination.port)) {
                first.push(Reverse((held.arrived, n)));
            }
        }
        let mut ids = Vec::new();
        while let Some(Reverse((_, n))) = first.pop() {
            let waiting = &mut self.waiting[n];
            if !may_go(waiting.destination) {
                continue;
            }
            if let Some(held) = waiting.pop() {
                waiting.len -= 1;
                ids.extend(held.id);
                waiting.pass_over_lost();
                if let Some(next) = waiting.held.front() {
                    first.push(Reverse((next.arrived, n)));
                }
                self.leave(&held, now);
            }
        }
        ids
    }

    fn leave(&mut self, held: &Held, now: u64) {
        self.len -= 1;
        one_less(&mut self.per_source, held.source);
        let waited = Duration::from_nanos(now.saturating_sub(held.arrived));
        self.counts.longest = self.counts.longest.max(waited);
        self.counts.released += 1;
    }

    /// Marks the `count` oldest packets as lost, so that there is room for others. Returns how many
    /// were marked.
    pub(crate) fn lose_oldest(&mut self, count: usize) -> u64 {
        let all = self.waiting.iter().flat_map(|w| &w.held);
        let mut ids: Vec<u32> = all.filter_map(|held| held.id).collect();
        if count == 0 || count > ids.len() {
            return 0;
        }
        let (_, newest, _) = ids.select_nth_unstable(count - 1);
        let newest = *newest;
        for waiting in &mut self.waiting {
            let lost = waiting.held.iter_mut();
            for held in lost.filter(|held| held.id.is_some_and(|id| id <= newest)) {
                held.id = None;
                waiting.len -= 1;
                self.len -= 1;
                one_less(&mut self.per_source, held.source);
            }
        }
        count as u64
    }

    pub(crate) fn waited_for(&self, ports: &PortSet) -> PortSet {
        let waiting = self.waiting.iter().filter(|w| w.len > 0);
        let awaited: PortSet = waiting.map(|w| w.destination.port).collect();
        awaited.intersection(ports)
    }

    pub(crate) fn waiting_for(&self, ports: &PortSet) -> usize {
        let all = self.waiting.iter();
        all.filter(|w| ports.contains(w.destination.port))
            .map(|w| w.len)
            .sum()
    }
}

impl Waiters {
    /// `None`: it was released.
    fn at(&mut self, place: Slot) -> Option<&mut Held> {
        let index = place.nth.wrapping_sub(self.gone) as usize;
        self.held.get_mut(index)
    }

    fn pop(&mut self) -> Option<Held> {
        let held = self.held.pop_front()?;
        self.gone = self.gone.wrapping_add(1);
        Some(held)
    }

    fn pass_over_lost(&mut self) {
        while self.held.front().is_some_and(|held| held.id.is_none()) {
            let _ = self.pop();
        }
    }
}

fn one_less(counts: &mut HashMap<u64, u32>, of: u64) {
    if let Some(count) = counts.get_mut(&of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&of);
        }
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, because one host can use all
/// addresses of a /64 (RFC 4291, 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let mut segments = v6.segments();
            segments[4..].fill(0);
            IpAddr::from(segments)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn syn(id: u32, from: &str, to: &str) -> Packet {
        let from: std::net::SocketAddr = from.parse().unwrap();
        let to: std::net::SocketAddr = to.parse().unwrap();
        Packet {
            id,
            came_in: None,
            syn: Some(Syn {
                from: (from.ip(), from.port()),
                to: Destination {
                    address: to.ip(),
                    port: to.port(),
                },
                sequence: 1,
                looped: false,
            }),
        }
    }

    fn anew(packet: Packet) -> Packet {
        let syn = packet.syn.map(|syn| Syn { sequence: 2, ..syn });
        Packet { syn, ..packet }
    }

    fn line(held: u32, per_source: u32) -> (Line, Instant) {
        let now = Instant::now();
        let limits = Limits { held, per_source };
        (Line::new(limits, ports("80-82,443"), now), now)
    }

    fn ports(text: &str) -> PortSet {
        PortSet::parse(text, |_| None).unwrap()
    }

    const A: &str = "10.0.0.1:80";
    const B: &str = "10.0.0.2:80";
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn goes_in_order_of_arrival_across_destinations() {
        let (mut line, now) = line(10, 10);
        for (n, to) in [A, B, B, A, "10.0.0.1:443"].iter().enumerate() {
            let packet = syn(n as u32, &format!("10.1.0.1:{n}"), to);
            let at = now + MS * n as u32;
            assert_eq!(line.arrive(&packet, at), Arrival::Held);
        }
        assert_eq!(line.waited_for(&ports("1-1000")), ports("80,443"));
        let out = line.release(&ports("80"), now + MS * 10, |_| true);
        assert_eq!(out, [0, 1, 2, 3]);
        assert_eq!(line.waited_for(&ports("1-1000")), ports("443"));
        assert_eq!(line.counts().longest, MS * 10);
        assert_eq!((line.counts().held, line.counts().released), (5, 4));
        assert_eq!(line.len(), 1);
    }

    #[test]
    fn a_full_listener_keeps_only_its_own() {
        let (mut line, now) = line(10, 10);
        for (n, to) in [A, A, B, B].iter().enumerate() {
            line.arrive(
                &syn(n as u32, &format!("10.1.0.1:{n}"), to),
                now + MS * n as u32,
            );
        }
        let full = A.parse::<std::net::SocketAddr>().unwrap().ip();
        let out = line.release(&ports("80"), now + MS * 9, |to| to.address != full);
        assert_eq!(out, [2, 3]);
        assert_eq!(line.waiting_for(&ports("80")), 2);
        assert_eq!(line.release(&ports("80"), now + MS * 9, |_| true), [0, 1]);
        assert!(line.is_empty());
    }

    #[test]
    fn a_copy_takes_the_place_of_the_older_one() {
        let (mut line, now) = line(10, 10);
        line.arrive(&syn(1, "10.1.0.1:1000", A), now);
        line.arrive(&syn(2, "10.1.0.2:1000", A), now + MS);
        let copy = line.arrive(&syn(3, "10.1.0.1:1000", A), now + MS * 1000);
        assert_eq!(copy, Arrival::Replaces(1));
        assert_eq!(line.counts().duplicates, 1);
        // Also after an earlier SYN has left the queue.
        let mut once = true;
        let one = |_| std::mem::replace(&mut once, false);
        assert_eq!(line.release(&ports("80"), now + MS * 1001, one), [3]);
        let copy = line.arrive(&syn(4, "10.1.0.2:1000", A), now + MS * 1002);
        assert_eq!(copy, Arrival::Replaces(2));
        assert_eq!(line.counts().longest, MS * 1001, "counted from the first");
        let again = |id| syn(id, "10.1.0.1:1000", A);
        assert_eq!(line.arrive(&again(5), now), Arrival::HadItsTurn);
        assert_eq!(line.arrive(&anew(again(6)), now), Arrival::Held);
        assert_eq!(line.len(), 2);
        assert_eq!(line.release(&ports("80"), now, |_| true), [4, 6]);
        line.forget_who_has_gone();
        assert_eq!(line.arrive(&anew(again(7)), now), Arrival::Held);
    }

    #[test]
    fn who_has_given_up_and_begun_anew_waits_in_the_same_place() {
        let (mut line, now) = line(10, 10);
        line.arrive(&syn(1, "10.1.0.1:1000", A), now);
        let second = anew(syn(2, "10.1.0.1:1000", A));
        assert_eq!(line.arrive(&second, now), Arrival::Replaces(1));
        assert_eq!(line.release(&ports("80"), now, |_| true), [2]);
        assert_eq!(line.arrive(&second, now), Arrival::HadItsTurn);
    }

    #[test]
    fn those_who_have_gone_are_not_known_for_ever() {
        let (mut line, now) = line(10, 10);
        for n in 0..100 {
            line.arrive(&syn(n, &format!("10.1.0.1:{n}"), A), now);
            line.release(&ports("80"), now, |_| true);
        }
        assert!(line.places.len() <= 16, "{}", line.places.len());
    }

    /// The room for held SYNs and half as much: a copy of any of these has had its turn.
    #[test]
    fn those_who_have_gone_are_known_for_a_while() {
        let (mut line, now) = line(10, 10);
        let nth = |n: u32| syn(n, &format!("10.1.0.1:{n}"), A);
        for n in 0..15 {
            line.arrive(&nth(n), now);
            line.release(&ports("80"), now, |_| true);
        }
        assert_eq!(line.arrive(&nth(15), now), Arrival::Held);
        for n in 0..15 {
            assert_eq!(line.arrive(&nth(n), now), Arrival::HadItsTurn, "{n}");
        }
        assert_eq!(line.arrive(&nth(16), now), Arrival::Held);
        assert_eq!(line.arrive(&nth(0), now), Arrival::Held, "forgotten");
        assert_eq!(line.arrive(&nth(15), now), Arrival::Replaces(15));
    }

    #[test]
    fn who_is_refused_leaves_nothing_behind() {
        let (mut line, now) = line(1, 1);
        line.arrive(&syn(1, "10.1.0.1:1", A), now);
        for n in 2..9 {
            let refused = line.arrive(&syn(n, &format!("10.1.0.{n}:1"), A), now);
            assert_eq!(refused, Arrival::NoRoom);
        }
        line.release(&ports("80"), now, |_| true);
        assert!(line.per_source.is_empty());
    }

    #[test]
    fn who_is_lost_leaves_room_and_may_come_back() {
        let (mut line, now) = line(4, 2);
        for (id, from) in [(1, "10.1.0.1:1"), (2, "10.1.0.1:2"), (3, "10.1.0.2:1")] {
            assert_eq!(line.arrive(&syn(id, from, A), now), Arrival::Held);
        }
        assert_eq!(line.lose_oldest(2), 2);
        assert_eq!((line.len(), line.waiting_for(&ports("80"))), (1, 1));
        assert_eq!(line.arrive(&syn(4, "10.1.0.1:3", A), now), Arrival::Held);
        assert_eq!(
            line.arrive(&syn(5, "10.1.0.1:1", A), now),
            Arrival::Held,
            "back"
        );
        assert_eq!(
            line.arrive(&syn(6, "10.1.0.1:1", A), now),
            Arrival::Replaces(5)
        );
        let third = line.arrive(&syn(7, "10.1.0.1:4", A), now);
        assert_eq!(third, Arrival::NoRoom, "who is back counts");
        assert_eq!(line.release(&ports("80"), now, |_| true), [6, 3, 4]);
        assert!(line.is_empty() && line.per_source.is_empty());
        assert_eq!(line.lose_oldest(1), 0);
    }

    #[test]
    fn all_may_be_lost() {
        let (mut line, now) = line(3, 3);
        line.arrive(&syn(1, "10.1.0.1:1", A), now);
        line.arrive(&syn(2, "10.1.0.1:2", B), now);
        assert_eq!(line.lose_oldest(2), 2);
        assert!(line.is_empty());
    }

    #[test]
    fn limits() {
        let (mut line, now) = line(3, 2);
        assert_eq!(line.arrive(&syn(1, "10.1.0.1:1", A), now), Arrival::Held);
        assert_eq!(line.arrive(&syn(2, "10.1.0.1:2", A), now), Arrival::Held);
        assert_eq!(line.arrive(&syn(3, "10.1.0.1:3", A), now), Arrival::NoRoom);
        assert_eq!(line.arrive(&syn(4, "10.1.0.2:1", A), now), Arrival::Held);
        assert_eq!(line.arrive(&syn(5, "10.1.0.3:1", A), now), Arrival::NoRoom);
        let counts = line.counts();
        assert_eq!((counts.no_room, counts.of_one_source), (2, 1));
        let copy = line.arrive(&syn(6, "10.1.0.1:1", A), now);
        assert_eq!(copy, Arrival::Replaces(1), "needs no room");
        assert_eq!(line.release(&ports("80"), now, |_| true).len(), 3);
        assert_eq!(line.arrive(&syn(7, "10.1.0.1:3", A), now), Arrival::Held);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let (mut line, now) = line(9, 2);
        let to = "[fd00::1]:80";
        assert_eq!(line.arrive(&syn(1, "[fd01::1]:1", to), now), Arrival::Held);
        assert_eq!(line.arrive(&syn(2, "[fd01::2]:1", to), now), Arrival::Held);
        assert_eq!(
            line.arrive(&syn(3, "[fd01::3]:1", to), now),
            Arrival::NoRoom
        );
        assert_eq!(
            line.arrive(&syn(4, "[fd01:0:0:1::3]:1", to), now),
            Arrival::Held
        );
    }

    #[test]
    fn what_is_no_syn_goes_on() {
        let (mut line, now) = line(9, 9);
        let packet = Packet {
            id: 1,
            came_in: None,
            syn: None,
        };
        assert_eq!(line.arrive(&packet, now), Arrival::NotOurs);
        let elsewhere = syn(2, "10.1.0.1:1000", "10.0.0.1:81");
        assert_eq!(line.arrive(&elsewhere, now), Arrival::Held, "gated");
        let elsewhere = syn(2, "10.1.0.1:1000", "10.0.0.1:90");
        assert_eq!(line.arrive(&elsewhere, now), Arrival::NotOurs);
        assert_eq!((line.len(), line.counts().not_ours), (1, 2));
    }

    proptest! {
        /// For any sequence of events, each SYN is released or replaced once, in order of arrival.
        #[test]
        fn everyone_goes_once(
            steps in prop::collection::vec((0u16..20, 0u8..3, 0usize..4), 1..200),
        ) {
            let (mut line, start) = line(15, 8);
            let (mut inside, mut arrivals) = (HashMap::new(), HashMap::new());
            for (n, (port, to, leave)) in steps.into_iter().enumerate() {
                let now = start + MS * n as u32;
                let from = format!("10.1.0.{}:{port}", port % 3);
                let packet = syn(n as u32, &from, &format!("10.0.0.1:{}", 80 + u16::from(to)));
                match line.arrive(&packet, now) {
                    Arrival::Held => {
                        inside.insert(packet.id, now);
                        arrivals.insert(packet.id, now);
                    }
                    Arrival::Replaces(old) => {
                        let at = inside.remove(&old).expect("it was inside");
                        inside.insert(packet.id, at);
                        arrivals.insert(packet.id, at);
                    }
                    _ => (),
                }
                let mut places = leave;
                let out = line.release(&ports("80-81"), now, |_| {
                    places = places.saturating_sub(1);
                    places > 0
                });
                let times: Vec<Instant> = out.iter().map(|id| arrivals[id]).collect();
                prop_assert!(times.is_sorted());
                for id in out {
                    prop_assert!(inside.remove(&id).is_some());
                }
                prop_assert_eq!(inside.len(), line.len());
                prop_assert!(line.len() <= 15);
            }
            let rest = line.release(&ports("1-100"), start + MS * 1000, |_| true);
            prop_assert_eq!(rest.len(), inside.len());
            prop_assert!(line.per_source.is_empty());
        }
    }
}
