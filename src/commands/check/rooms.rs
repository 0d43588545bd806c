//! What `--syn park` and `--syn handover` need of the host. Pure.

use serde::Serialize;

use super::support::Support;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Rooms {
    /// The kernel moves connections between listeners, and wakes the service. Tried.
    pub(crate) moves: Support,
    /// The service's listeners can be copied.
    pub(crate) copies: Support,
    /// A service that does not set SO_REUSEPORT can be given that. The program was loaded.
    pub(crate) lends: Support,
    /// COMMAND can have a control group of its own, by which its connections are known.
    pub(crate) own_group: Support,
}

impl Rooms {
    /// Why no service can be parked here; `None`: some can.
    pub(crate) fn refusal(&self) -> Option<&str> {
        [&self.moves, &self.copies]
            .into_iter()
            .find_map(Support::why)
    }
}
