//! For `syngate keep`: some of its groups are given back, and the others stay.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::figures::Figures;
use super::groups::Rooms;
use super::policy::HANDED_OVER_WITHIN;
use crate::decide::policy::Answer;
use crate::kernel::room::Place;
use crate::kernel::sockets::Looks;
use crate::kernel::sockets::diag::Sockets;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

/// Groups that are just being given back. The guard of the others has them, too, until that is done.
pub(crate) struct Leaving {
    rooms: Rooms,
    patience: Patience,
}

impl Leaving {
    /// Takes these groups from the others. The connections that wait there go to listeners, or are reset.
    ///
    /// # Errors
    /// The kernel lets this process look at no more sockets. Nothing has changed.
    pub(crate) fn begin(
        rooms: &mut Rooms,
        numbers: &[usize],
        max_wait: Duration,
    ) -> Result<Leaving> {
        let mut rooms = rooms.part(numbers)?;
        rooms.hand_all_over();
        // Also where the rooms were closed before.
        rooms.await_handshakes();
        Ok(Leaving {
            rooms,
            patience: Patience::new(max_wait),
        })
    }

    /// Goes on. `true`: the listeners have nothing of syngate's any more.
    pub(crate) fn is_done(&mut self) -> bool {
        let answer = self.rooms.progress();
        let over = self.patience.is_over(&answer, Instant::now());
        if over {
            self.end();
        }
        over
    }

    /// Gives back all at once.
    pub(crate) fn end(&mut self) {
        self.rooms.shut_all();
        self.rooms.give_back();
    }

    pub(crate) fn ports(&self) -> PortSet {
        let groups = self.rooms.groups.iter();
        groups.map(|group| group.place.port).collect()
    }

    pub(crate) fn addresses(&self) -> BTreeSet<String> {
        let groups = self.rooms.groups.iter();
        groups.map(|group| group.place.shown()).collect()
    }

    pub(crate) fn has(&self, place: &Place) -> bool {
        let mut groups = self.rooms.groups.iter();
        groups.any(|group| group.place == *place)
    }

    /// The cookies of its rooms.
    pub(crate) fn cookies(&self) -> Vec<u64> {
        self.rooms.cookies()
    }

    /// What became of the connections that waited.
    pub(crate) fn figures(&self) -> Figures {
        self.rooms.figures
    }
}

/// How long a hand-over at the end may take.
pub(crate) struct Patience {
    last: Instant,
    until: Instant,
}

impl Patience {
    /// The connections that wait for a place in the service's queue have so long.
    pub(crate) fn new(max_wait: Duration) -> Patience {
        let now = Instant::now();
        Patience {
            last: now + max_wait,
            until: now + HANDED_OVER_WITHIN,
        }
    }

    /// Whether all is done, or no more is waited for.
    pub(crate) fn is_over(&mut self, answer: &Answer, now: Instant) -> bool {
        if let Answer::Waiting(_) = answer {
            self.until = self.last.min(now + HANDED_OVER_WITHIN);
        }
        matches!(answer, Answer::Left(Some(0))) || now >= self.until
    }
}

impl Rooms {
    /// Rooms of their own that have these groups, which are in these no more.
    fn part(&mut self, numbers: &[usize]) -> Result<Rooms> {
        let those = numbers.iter().map(|number| &self.groups[*number]);
        let ports = those.map(|group| group.place.port).collect();
        let mut sockets = Sockets::new(&ports, &Scope::default())?;
        if let Some(netns) = self.netns() {
            sockets.look_in(netns)?;
        }
        let mut part = Rooms::new(sockets, self.first, self.old.clone())?;
        (part.keeps, part.any, part.of_unit) = (self.keeps, self.any, self.of_unit);
        part.lent = self.lent.as_ref().map(|lent| lent.again()).transpose()?;
        let groups = std::mem::take(&mut self.groups).into_iter().enumerate();
        let (those, others): (Vec<_>, Vec<_>) = groups.partition(|(n, _)| numbers.contains(n));
        let groups = |some: Vec<_>| some.into_iter().map(|(_, group)| group).collect();
        (part.groups, self.groups) = (groups(those), groups(others));
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::policy::Waiting;

    #[test]
    fn those_who_wait_have_max_wait_and_all_else_has_a_moment() {
        let max_wait = HANDED_OVER_WITHIN * 4;
        let mut patience = Patience::new(max_wait);
        let start = patience.last - max_wait;
        let mut is_over = |answer, after| patience.is_over(&answer, start + after);
        assert!(!is_over(Answer::Left(Some(1)), Duration::ZERO));
        let waits = || Answer::Waiting(Waiting::default());
        for times in [1, 2, 3] {
            assert!(!is_over(waits(), HANDED_OVER_WITHIN * times));
        }
        assert!(!is_over(Answer::Left(None), HANDED_OVER_WITHIN * 3));
        assert!(is_over(waits(), max_wait));
        let mut patience = Patience::new(max_wait);
        assert!(patience.is_over(&Answer::Left(Some(0)), start));
        assert!(patience.is_over(&Answer::Left(Some(1)), start + HANDED_OVER_WITHIN * 2));
    }
}
