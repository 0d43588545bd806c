//! For `syngate keep`: whether a service has left a place for another one on the same port. The waiting connections
//! can't be moved there, and rooms would keep clients from a listener that gets them otherwise. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::kernel::room::Place;
use crate::kernel::sockets::Listener;

/// How long a service that has come back on another address may take to come back on its own as well.
pub(crate) const MOVES_WITHIN: Duration = Duration::from_millis(250);
/// The same, where a listener has been there all the time that gets the connections if no room does. The service may be
/// about to close that one, too.
pub(crate) const COVERED_WITHIN: Duration = Duration::from_millis(50);
/// For how long an address is not new on which somebody has listened.
pub(crate) const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Where somebody listened on kept ports before nobody of the service did, when that was seen, and the control group.
#[derive(Debug, Default)]
pub(crate) struct Before(BTreeMap<Place, (Instant, Option<u64>)>);

/// A listener that the service may have left a place for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub place: Place,
    /// It gets the connections to the place if no room does.
    pub covers: bool,
}

impl Before {
    /// These listen while no service on their ports is missed.
    pub(crate) fn note<'a>(&mut self, listeners: impl Iterator<Item = &'a Listener>, now: Instant) {
        let seen = listeners.map(|l| (Place::of(l), (now, l.cgroup)));
        self.0.extend(seen);
        let is_known = |at: Instant| now.duration_since(at) < KNOWN_FOR;
        self.0.retain(|_, (at, _)| is_known(*at));
    }

    /// Where the service may be that has left the place: where connections to it go, or on an address that is new.
    /// `control_group`: that of the listener which the place had.
    pub(crate) fn gone_to(
        &self,
        place: &Place,
        control_group: Option<u64>,
        listeners: &[Listener],
    ) -> Option<Elsewhere> {
        let others = listeners
            .iter()
            .filter(|l| l.port == place.port && l.uid == place.uid && !place.is_of(l));
        let mut others: Vec<Place> = others.map(Place::of).collect();
        others.sort();
        let may_be_it = |other: &&Place| !self.is_of_another(other, control_group);
        let covers = |other: &&Place| {
            listeners
                .iter()
                .any(|l| other.is_of(l) && place.is_covered_by(l))
        };
        let is_new = |other: &&Place| !self.0.contains_key(other);
        let covering = others.iter().filter(covers).find(may_be_it);
        let to = covering.or_else(|| others.iter().find(is_new))?;
        Some(Elsewhere {
            place: to.clone(),
            covers: covering.is_some(),
        })
    }

    /// Another service listened there. Users other than root don't always have control groups of their own.
    fn is_of_another(&self, other: &Place, control_group: Option<u64>) -> bool {
        let of_other = self.0.get(other).and_then(|(_, group)| *group);
        of_other.is_some() && control_group.is_some() && of_other != control_group
    }
}

/// Who gets new connections to the place if no room does.
pub(crate) fn who_gets<'a>(place: &Place, listeners: &'a [Listener]) -> Option<&'a Listener> {
    let mut listeners = listeners.iter();
    listeners.find(|l| !place.is_of(l) && place.is_covered_by(l))
}

/// What the looks in one gap have shown of it.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    /// Since when.
    to: Option<(Instant, Elsewhere)>,
    /// A look has shown nobody who gets the connections.
    was_bare: bool,
    /// The rooms keep new connections from a listener that has come.
    in_the_way: bool,
}

impl Leaves {
    pub(crate) fn see(&mut self, to: Option<Elsewhere>, now: Instant) {
        self.was_bare |= to.as_ref().is_none_or(|to| !to.covers);
        let before = self.to.take();
        let same = before.filter(|(_, before)| Some(before) == to.as_ref());
        self.to = same.or_else(|| Some((now, to?)));
    }

    /// Whether the rooms keep new connections from a listener that has come: those too would be reset later.
    pub(crate) fn note_in_the_way(&mut self, in_the_way: bool) {
        self.in_the_way = in_the_way;
    }

    /// Where the service is, once it is not likely to come back on its own place.
    pub(crate) fn is_over(&self, now: Instant) -> Option<&Elsewhere> {
        let (since, to) = self.to.as_ref()?;
        let within = match (self.in_the_way, to.covers && !self.was_bare) {
            (true, _) => Duration::ZERO,
            (false, true) => COVERED_WITHIN,
            (false, false) => MOVES_WITHIN,
        };
        (now.duration_since(*since) >= within).then_some(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, cgroup: u64) -> Listener {
        let mut listener = Listener::made_up(address, 80, false);
        listener.cgroup = Some(cgroup);
        listener
    }

    fn elsewhere(address: &str, covers: bool) -> Elsewhere {
        let place = Place::of(&listener(address, 1));
        Elsewhere { place, covers }
    }

    /// The service, of control group 1, has left 127.0.0.1. These listened before, and these do now.
    fn gone_to(before: &[Listener], now: &[Listener]) -> Option<Elsewhere> {
        let mut known = Before::default();
        known.note(before.iter(), Instant::now());
        known.gone_to(&Place::of(&listener("127.0.0.1", 1)), Some(1), now)
    }

    #[test]
    fn who_gets_the_connections_anyway_ends_the_wait() {
        let wide = [listener("0.0.0.0", 1)];
        let covers = Some(elsewhere("0.0.0.0", true));
        assert_eq!(gone_to(&[], &wide), covers, "it has come");
        assert_eq!(gone_to(&wide, &wide), covers, "it was there");
        let both = [listener("127.0.0.0", 1), wide[0].clone()];
        assert_eq!(gone_to(&[], &both), covers, "rather than one that is new");
        assert_eq!(gone_to(&[], &[listener("127.0.0.1", 1)]), None, "itself");
        let mut strange = wide[0].clone();
        strange.uid = 1_001;
        assert_eq!(gone_to(&[], &[strange]), None, "another user");
    }

    #[test]
    fn another_service_is_not_the_one_that_is_missed() {
        let wide = [listener("0.0.0.0", 2)];
        assert_eq!(gone_to(&wide, &wide), None);
        let again = [listener("0.0.0.0", 3)];
        assert_eq!(gone_to(&wide, &again), None, "it has been restarted, too");
        let covers = Some(elsewhere("0.0.0.0", true));
        assert_eq!(gone_to(&[], &wide), covers, "each start has a group");
        let mut unknown = wide.clone();
        unknown[0].cgroup = None;
        assert_eq!(gone_to(&unknown, &unknown), covers);
    }

    #[test]
    fn on_another_address_only_one_that_is_new_may_be_the_service() {
        let other = [listener("127.0.0.2", 1)];
        assert_eq!(gone_to(&other, &other), None);
        assert_eq!(gone_to(&[], &other), Some(elsewhere("127.0.0.2", false)));
        let mut another = other.clone();
        another[0].port = 81;
        assert_eq!(gone_to(&[], &another), None);
        let mut known = Before::default();
        let start = Instant::now();
        known.note(other.iter(), start);
        let gone =
            |known: &Before| known.gone_to(&elsewhere("127.0.0.1", true).place, None, &other);
        let moment = Duration::from_millis(1);
        known.note([].iter(), start + KNOWN_FOR - moment);
        assert_eq!(gone(&known), None);
        known.note([].iter(), start + KNOWN_FOR);
        assert!(gone(&known).is_some(), "it was long ago");
    }

    #[test]
    fn new_connections_go_where_the_address_is_covered() {
        let place = Place::of(&listener("127.0.0.1", 1));
        let there = [listener("127.0.0.1", 1), listener("127.0.0.2", 1)];
        assert!(who_gets(&place, &there).is_none());
        let wide = [listener("::", 1)];
        assert_eq!(who_gets(&place, &wide), Some(&wide[0]));
    }

    #[test]
    fn it_has_to_stay_there_for_a_moment() {
        let start = Instant::now();
        let at = |after| start + after;
        let (wide, new) = (elsewhere("0.0.0.0", true), elsewhere("127.0.0.2", false));
        let moment = Duration::from_millis(1);
        for (to, was_bare, within) in [
            (&wide, false, COVERED_WITHIN),
            (&wide, true, MOVES_WITHIN),
            (&new, false, MOVES_WITHIN),
        ] {
            let mut leaves = Leaves::default();
            if was_bare {
                leaves.see(None, start);
            }
            leaves.see(Some(to.clone()), start);
            assert_eq!(leaves.is_over(at(within - moment)), None);
            leaves.see(Some(to.clone()), at(within));
            assert_eq!(leaves.is_over(at(within)), Some(to));
            leaves.see(None, at(within));
            assert_eq!(leaves.is_over(at(within)), None, "it has gone");
            leaves.see(Some(to.clone()), at(within));
            assert_eq!(leaves.is_over(at(within + COVERED_WITHIN)), None, "anew");
            assert_eq!(leaves.is_over(at(within + MOVES_WITHIN)), Some(to));
        }
        let mut leaves = Leaves::default();
        leaves.see(Some(wide.clone()), start);
        leaves.note_in_the_way(true);
        assert_eq!(leaves.is_over(start), Some(&wide));
        leaves.see(None, start);
        assert_eq!(leaves.is_over(start), None);
        let mut leaves = Leaves::default();
        leaves.see(Some(new), start);
        leaves.see(Some(wide.clone()), start + COVERED_WITHIN);
        assert_eq!(leaves.is_over(at(MOVES_WITHIN)), None, "another one");
        assert_eq!(
            leaves.is_over(at(MOVES_WITHIN + COVERED_WITHIN)),
            Some(&wide)
        );
    }
}
