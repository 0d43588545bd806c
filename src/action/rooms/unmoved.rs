//! What the kernel itself counts as not moved. The run counts who is reset by its looks, and a client may come between
//! two of them.

use super::groups::Rooms;
use crate::kernel::sockets::netns;
use crate::kernel::sockets::netstat;

impl Rooms {
    /// Counts from now on.
    pub(crate) fn count_unmoved(&mut self) {
        self.unmoved_before = self.all_unmoved();
    }

    /// How many connections and handshakes the kernel could not move since then, in the network namespace.
    /// `None`: it does not tell.
    pub(crate) fn unmoved(&self) -> Option<u64> {
        self.all_unmoved()?.checked_sub(self.unmoved_before?)
    }

    fn all_unmoved(&self) -> Option<u64> {
        // Another namespace may have its name meanwhile.
        let home = self.home;
        let count = || netstat("TCPMigrateReqFailure").filter(|_| netns::identity() == home);
        match self.netns() {
            None => count(),
            Some(netns) => netns.within(count).ok().flatten(),
        }
    }
}
