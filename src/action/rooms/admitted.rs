//! What is known of processes of other users that tried to listen where rooms are.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::kernel::room::reuseport::Binding;

const ROOT: u32 = 0;

/// What was done about processes of other users that tried to listen.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// Where the service's processes are. Those of strangers get no rooms.
    pub(super) groups: BTreeSet<PathBuf>,
    /// The cookies of the sockets for which that was done.
    pub(super) done: BTreeSet<u64>,
}

impl Admitted {
    /// The control groups from which somebody may tell the service to stop. Where this process is in one of them as
    /// well, the service's clients may be, too, and COMMAND is in a group of its own.
    pub(super) fn that_may_stop_it<'a>(
        &'a self,
        own: Option<&'a Path>,
    ) -> impl Iterator<Item = &'a PathBuf> {
        let groups = self.groups.iter();
        groups.filter(move |group| own.is_none_or(|own| !own.starts_with(group)))
    }

    /// Whether that is one of these control groups, by its id.
    pub(super) fn has(&self, id: Option<u64>) -> bool {
        let is = |group: &PathBuf| group.metadata().is_ok_and(|there| Some(there.ino()) == id);
        self.groups.iter().any(is)
    }

    /// By the control group: any user may try to listen on a port, and what waits is the service's.
    pub(super) fn is_service(&self, binding: &Binding, own: Option<&PathBuf>) -> bool {
        let mut groups = self.groups.iter().chain(own);
        let is = |group: &PathBuf| {
            group
                .metadata()
                .is_ok_and(|there| there.ino() == binding.group)
        };
        binding.user == ROOT || groups.any(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_this_process_shares_is_left_out() {
        let admitted = Admitted {
            groups: ["/c/web.service", "/c/user"]
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            ..Admitted::default()
        };
        let may = |own: &str| {
            let groups = admitted.that_may_stop_it(Some(Path::new(own)));
            groups
                .map(|group| group.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(may("/c/cron.service"), ["/c/user", "/c/web.service"]);
        assert_eq!(may("/c/user/session"), ["/c/web.service"]);
        assert_eq!(may("/c/user"), ["/c/web.service"]);
    }
}
