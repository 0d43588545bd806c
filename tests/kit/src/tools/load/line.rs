use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::tools::first_if;

/// Brings idle connections and requests that wait together, both in the order in which they came.
pub struct Line {
    all: usize,
    idle: VecDeque<usize>,
    /// When the requests were due.
    waiting: VecDeque<Instant>,
}

impl Line {
    /// With so many connections, all idle.
    pub fn new(connections: usize) -> Self {
        Self {
            all: connections,
            idle: (0..connections).collect(),
            waiting: VecDeque::new(),
        }
    }

    /// A request lines up. They come in the order in which they are due.
    pub fn wait(&mut self, due: Instant) {
        self.waiting.push_back(due);
    }

    /// The connection is idle again.
    pub fn back(&mut self, connection: usize) {
        self.idle.push_back(connection);
    }

    /// Who has been idle longest, for the request that has waited longest.
    pub fn next(&mut self) -> Option<(usize, Instant)> {
        let pair = (*self.idle.front()?, *self.waiting.front()?);
        self.idle.pop_front();
        self.waiting.pop_front();
        Some(pair)
    }

    /// A request that has waited for longer than that; it no longer does.
    pub fn give_up(&mut self, now: Instant, timeout: Duration) -> Option<Instant> {
        first_if(&mut self.waiting, |due| *due + timeout <= now)
    }

    /// Nobody waits, neither here nor for an answer.
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.busy() == 0
    }

    /// How many connections aren't idle.
    pub fn busy(&self) -> usize {
        self.all - self.idle.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Line;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_is_idle_longest_is_next() {
        let (mut line, due) = (Line::new(2), Instant::now());
        (0..4).for_each(|_| line.wait(due));
        assert_eq!(line.next(), Some((0, due)));
        assert_eq!(line.next(), Some((1, due)));
        assert_eq!(line.next(), None);
        line.back(1);
        line.back(0);
        assert_eq!(line.next(), Some((1, due)));
        assert_eq!(line.next(), Some((0, due)));
    }

    #[test]
    fn who_waits_longest_is_next() {
        let (mut line, due) = (Line::new(1), Instant::now());
        line.wait(due);
        line.wait(due + SECOND);
        assert_eq!(line.next(), Some((0, due)));
        assert_eq!(line.next(), None);
        line.back(0);
        assert_eq!(line.next(), Some((0, due + SECOND)));
        line.back(0);
        assert_eq!(line.next(), None);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut line, due) = (Line::new(1), Instant::now());
        line.wait(due);
        line.wait(due + SECOND);
        assert_eq!(line.give_up(due + SECOND, 2 * SECOND), None);
        assert_eq!(line.give_up(due + 2 * SECOND, 2 * SECOND), Some(due));
        assert_eq!(line.give_up(due + 2 * SECOND, 2 * SECOND), None);
        assert_eq!(line.next(), Some((0, due + SECOND)));
    }

    #[test]
    fn quiet_when_all_are_idle_and_nobody_waits() {
        let mut line = Line::new(1);
        assert!(line.is_quiet());
        line.wait(Instant::now());
        assert!(!line.is_quiet());
        line.next();
        assert!(!line.is_quiet());
        line.back(0);
        assert!(line.is_quiet());
    }
}
