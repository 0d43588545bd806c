//! Decides whether the old service is drained. Pure.

use crate::kernel::sockets::Sample;

/// `--drain-until`: what the drain waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum DrainUntil {
    /// Handshakes are over and accept queues are empty: enough for reloads
    Handshakes,
    /// Also, no connection is in the middle of a request or an answer
    Requests,
    /// Also, every established connection has ended
    Connections,
}

/// What has become of `--drain-cmd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainCommand {
    Unwanted,
    Due,
    Runs,
    Ended,
}

/// What the drain still waits for, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Left {
    pub accept_queue: u32,
    /// Handshakes whose last ACK may still come.
    pub handshakes: u32,
    /// Connections in the middle of a request or an answer.
    pub busy: u32,
    /// 0 unless `--drain-until connections` was given.
    pub established: u32,
}

impl Left {
    /// Whether a handshake or the accept queue can still yield a connection.
    pub(crate) fn has_handshakes(&self) -> bool {
        self.accept_queue > 0 || self.handshakes > 0
    }

    pub(crate) fn is_nothing(&self) -> bool {
        *self == Left::default()
    }
}

/// `handshakes`: how many half-open connections are waited for.
pub(crate) fn left(sample: &Sample, until: DrainUntil, handshakes: u32) -> Left {
    let mut left = Left {
        accept_queue: sample.listeners.iter().map(|l| l.accept_queue).sum(),
        handshakes,
        ..Left::default()
    };
    let connections = sample.connections.unwrap_or_default();
    if until >= DrainUntil::Requests {
        left.busy = connections.busy;
    }
    if until >= DrainUntil::Connections {
        left.established = connections.established;
    }
    left
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [
            (self.accept_queue, "waiting to be accepted"),
            (self.handshakes, "in the handshake"),
            (self.busy, "busy"),
            (self.established, "established"),
        ];
        let parts: Vec<String> = kinds
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        f.write_str(&parts.join(", "))
    }
}
