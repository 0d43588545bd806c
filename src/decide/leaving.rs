//! When a load balancer has taken this host out: no new connections come any more.

use std::time::{Duration, Instant};

/// What comes to an end of the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// No new connection has come for as long as was asked for.
    Quiet,
    /// The time is over, and new connections still come, or they can't be counted.
    TimedOut,
}

/// The wait, from the refusal of health checks on.
#[derive(Debug)]
pub(crate) struct Leaving {
    quiet: Duration,
    until: Instant,
    /// When the last new connection was seen, or the wait began.
    last: Instant,
    /// What the counter has shown last.
    counter: u64,
    connections: u64,
}

impl Leaving {
    pub(crate) fn new(quiet: Duration, timeout: Duration, now: Instant) -> Leaving {
        Leaving {
            quiet,
            until: now + timeout,
            last: now,
            counter: 0,
            connections: 0,
        }
    }

    /// Takes what the counter shows. `None`: it can't be read, so connections may have come.
    pub(crate) fn saw(&mut self, counter: Option<u64>, now: Instant) {
        if counter == Some(self.counter) {
            return;
        }
        self.last = now;
        if let Some(counter) = counter {
            // Rules that somebody has removed, and that stand again, count anew.
            self.connections += counter.checked_sub(self.counter).unwrap_or(counter);
            self.counter = counter;
        }
    }

    pub(crate) fn is_over(&self, now: Instant) -> Option<Left> {
        if now >= self.last + self.quiet {
            return Some(Left::Quiet);
        }
        (now >= self.until).then_some(Left::TimedOut)
    }

    /// When to look again, if not before.
    pub(crate) fn wake(&self) -> Instant {
        self.until.min(self.last + self.quiet)
    }

    /// How many new connections have come.
    pub(crate) fn connections(&self) -> u64 {
        self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn begun() -> (Leaving, Instant) {
        let now = Instant::now();
        (Leaving::new(ms(1_000), ms(5_000), now), now)
    }

    #[test]
    fn without_connections_it_lasts_as_long_as_quiet() {
        let (mut leaving, began) = begun();
        leaving.saw(Some(0), began + ms(999));
        assert_eq!(leaving.is_over(began + ms(999)), None);
        assert_eq!(leaving.wake(), began + ms(1_000));
        assert_eq!(leaving.is_over(began + ms(1_000)), Some(Left::Quiet));
        assert_eq!(leaving.connections(), 0);
    }

    #[test]
    fn each_connection_begins_the_quiet_anew() {
        let (mut leaving, began) = begun();
        for (at, counter, connections) in [(300, 2, 2), (900, 2, 2), (1_200, 7, 7), (1_900, 7, 7)] {
            leaving.saw(Some(counter), began + ms(at));
            assert_eq!(leaving.is_over(began + ms(at)), None, "{at}");
            assert_eq!(leaving.connections(), connections);
        }
        assert_eq!(leaving.wake(), began + ms(2_200));
        assert_eq!(leaving.is_over(began + ms(2_199)), None);
        assert_eq!(leaving.is_over(began + ms(2_200)), Some(Left::Quiet));
    }

    #[test]
    fn it_ends_in_time_though_connections_come() {
        let (mut leaving, began) = begun();
        for n in 1..=50 {
            leaving.saw(Some(n), began + ms(n * 100 - 1));
        }
        assert_eq!(leaving.is_over(began + ms(4_999)), None);
        assert_eq!(leaving.wake(), began + ms(5_000));
        assert_eq!(leaving.is_over(began + ms(5_000)), Some(Left::TimedOut));
        // Quiet at the same moment is quiet.
        let (mut leaving, began) = begun();
        leaving.saw(Some(1), began + ms(4_000));
        assert_eq!(leaving.is_over(began + ms(5_000)), Some(Left::Quiet));
    }

    /// What can't be counted is not told as nothing.
    #[test]
    fn a_counter_that_can_t_be_read_is_not_quiet() {
        let (mut leaving, began) = begun();
        for n in 1..=6 {
            leaving.saw(None, began + ms(n * 900));
        }
        assert_eq!(leaving.is_over(began + ms(5_400)), Some(Left::TimedOut));
        assert_eq!(leaving.connections(), 0);
    }

    #[test]
    fn a_counter_that_begins_anew_has_counted_connections() {
        let (mut leaving, began) = begun();
        leaving.saw(Some(9), began + ms(100));
        leaving.saw(Some(2), began + ms(500));
        assert_eq!(leaving.connections(), 11);
        assert_eq!(leaving.wake(), began + ms(1_500));
        leaving.saw(Some(0), began + ms(700));
        assert_eq!(
            (leaving.connections(), leaving.wake()),
            (11, began + ms(1_700))
        );
    }
}
