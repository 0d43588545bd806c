//! With `--any`: the socket that is bound where the service listened, and does not listen itself. Pure.

use std::time::{Duration, Instant};

/// A socket that was bound listens within this time, if it is the service's.
pub(crate) const LISTENS_WITHIN: Duration = Duration::from_secs(1);

/// The socket that is bound where the service listened, with `--any`. Others are refused there.
#[derive(Debug, Clone, Default)]
pub(super) struct Bound {
    /// The one that does not listen, and since when.
    idle: Option<(u64, Instant)>,
    /// When the process was started that was refused, and how often one was.
    refused: Option<(u64, u32)>,
}

impl Bound {
    /// `cookie`: that of a socket that does not listen. Returns whether it is none of the service's: a client may have
    /// the port as its own.
    pub(super) fn is_idle(&mut self, cookie: Option<u64>, now: Instant) -> bool {
        let before = self.idle.filter(|(before, _)| Some(*before) == cookie);
        self.idle = before.or(cookie.map(|cookie| (cookie, now)));
        before.is_some_and(|(_, since)| now.duration_since(since) >= LISTENS_WITHIN)
    }

    /// The process that was refused, each time that one was.
    pub(super) fn newly_refused(&mut self, refused: Option<(u64, u32)>) -> Option<u64> {
        let before = std::mem::replace(&mut self.refused, refused);
        refused
            .filter(|_| before != refused)
            .map(|(started, _)| started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_seen_once() {
        let mut bound = Bound::default();
        let mut refused = |one| bound.newly_refused(one);
        assert_eq!(refused(None), None);
        assert_eq!(
            [refused(Some((7, 1))), refused(Some((7, 1)))],
            [Some(7), None]
        );
        assert_eq!(
            [refused(Some((7, 2))), refused(Some((8, 3)))],
            [Some(7), Some(8)]
        );
        assert_eq!(refused(None), None, "another socket has the place");
        assert_eq!(refused(Some((8, 1))), Some(8));
    }

    #[test]
    fn a_socket_that_does_not_listen_is_none_of_the_service_s() {
        let start = Instant::now();
        let mut bound = Bound::default();
        let mut is_idle = |cookie, after| bound.is_idle(cookie, start + after);
        assert!(!is_idle(None, Duration::ZERO));
        assert!(!is_idle(Some(7), Duration::ZERO));
        assert!(!is_idle(Some(7), LISTENS_WITHIN / 2));
        assert!(!is_idle(Some(8), LISTENS_WITHIN), "another one");
        assert!(!is_idle(
            Some(8),
            LISTENS_WITHIN * 2 - Duration::from_millis(1)
        ));
        assert!(is_idle(Some(8), LISTENS_WITHIN * 2));
        assert!(!is_idle(None, LISTENS_WITHIN * 2));
        assert!(!is_idle(Some(8), LISTENS_WITHIN * 3), "it begins anew");
    }
}
