//! A copy of a listener that was there before the run, and which processes have that.

use crate::kernel::room::{Stowed, copy};
use crate::kernel::sockets::Listener;
use crate::kernel::sockets::holders::{self, Holder, Holders};

pub(crate) struct OldListener {
    pub(super) cookie: u64,
    pub(super) inode: u32,
    /// The processes that have it, with its descriptor there.
    holders: Vec<(i32, i32)>,
    pub(super) copy: Stowed,
}

impl OldListener {
    /// `None` if no process is seen to have it, or this one may open no more files.
    pub(super) fn of(listener: &Listener, holders: &Holders) -> Option<OldListener> {
        let inode = listener.inode;
        Some(OldListener {
            cookie: listener.id.cookie,
            inode,
            holders: files_of(inode, holders),
            copy: Stowed::of(&copy::of(listener, holders).ok()?).ok()?,
        })
    }

    /// Whether none of the processes has it any more that are known to have had it.
    pub(super) fn is_closed(&self) -> bool {
        let mut holders = self.holders.iter();
        !holders.any(|(pid, file)| holders::has(*pid, *file, self.inode))
    }

    /// These processes have it now.
    pub(super) fn held_by(&mut self, holders: &Holders) {
        self.holders = files_of(self.inode, holders);
    }

    pub(super) fn close(self) {
        self.copy.close();
    }
}

fn files_of(inode: u32, holders: &Holders) -> Vec<(i32, i32)> {
    let file = |(pid, holder): (&i32, &Holder)| Some((*pid, holder.file_of(inode)?));
    holders.iter().filter_map(file).collect()
}
