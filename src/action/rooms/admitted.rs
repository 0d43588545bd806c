//! What is known of processes of other users that tried to listen where rooms are.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use crate::kernel::room::lending::Binding;

const ROOT: u32 = 0;

/// What was done about processes of other users that tried to listen.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// Where the service's processes are. Those of strangers get no rooms.
    pub(super) groups: Vec<PathBuf>,
    /// When the socket with that cookie was seen first; `None`: it is done with.
    pub(super) since: BTreeMap<u64, Option<Instant>>,
    /// What to tell of that.
    pub(super) told: Vec<String>,
}

impl Admitted {
    /// By the control group: any user may try to listen on a port, and what waits is the service's.
    pub(super) fn is_service(&self, binding: &Binding, own: Option<&PathBuf>) -> bool {
        let mut groups = self.groups.iter().chain(own);
        let is = |group: &PathBuf| {
            group
                .metadata()
                .is_ok_and(|there| there.ino() == binding.group)
        };
        binding.uid == ROOT || groups.any(is)
    }
}
