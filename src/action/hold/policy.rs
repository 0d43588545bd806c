//! When held SYNs are released: before their ports open, in rounds. Pure.

use std::time::{Duration, Instant};

use super::release::Release;
use crate::decide::policy::{Answer, Conclusion, Noted, Policy};
use crate::words::ports::PortSet;

/// The pause between rounds, or the duration of the last round if that was longer. A released SYN
/// takes a place until the service has accepted it.
pub(crate) const RELEASE_EVERY: Duration = Duration::from_micros(200);

#[derive(Debug)]
pub(crate) struct HoldPolicy {
    /// `None`: all held SYNs are released at once.
    release: Option<Release>,
    noted: Noted,
}

impl HoldPolicy {
    pub(crate) fn new(timeout: Duration, closed_at: Instant) -> HoldPolicy {
        HoldPolicy {
            release: Some(Release::new(timeout, closed_at)),
            noted: Noted::default(),
        }
    }
}

impl Policy for HoldPolicy {
    fn aim(&mut self, ports: PortSet) -> bool {
        let Some(release) = &mut self.release else {
            return false;
        };
        release.aim(ports);
        true
    }

    fn aim_at_all(&mut self, ports: PortSet) {
        if let Some(release) = &mut self.release {
            release.aim_at_all(ports);
        }
    }

    fn holds_all_back(&self) -> bool {
        self.release.as_ref().is_some_and(Release::is_of_all)
    }

    fn before_open(&self) -> Option<(Instant, &PortSet)> {
        self.release.as_ref()?.due()
    }

    /// A port opens once no SYN for it is held. SYNs that arrive meanwhile are queued behind the
    /// held ones.
    fn answered(
        &mut self,
        answer: Answer,
        cost: Duration,
        deadline: Instant,
        now: Instant,
    ) -> Conclusion {
        let (Answer::Waiting(after), Some(release)) = (answer, &mut self.release) else {
            return Conclusion::GoOn;
        };
        let pause = RELEASE_EVERY.max(cost);
        let round = release.round(after, [cost, pause], deadline, now);
        self.noted.release_cut = round.cut.or(self.noted.release_cut);
        if let Some(took) = round.took {
            *self.noted.released_in.get_or_insert_default() += took;
        }
        Conclusion::MayOpen(round.done)
    }

    fn cut(&mut self) {
        self.release = None;
    }

    fn waits_for(&self) -> Option<String> {
        Some("letting the held SYNs go".to_owned())
    }

    fn noted(&self) -> Noted {
        self.noted
    }
}
