use std::{
    panic::resume_unwind,
    sync::mpsc::{Sender, channel},
    thread::{Scope, ScopedJoinHandle},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

/// A thread with its own table of open files. It takes over the work when the table of the thread before it is full,
/// because not even root can always make that longer.
pub struct Standby<'s> {
    thread: ScopedJoinHandle<'s, Result<()>>,
    next: Sender<u64>,
}

impl<'s> Standby<'s> {
    /// Returns when the thread has its table, a copy of the caller's. `go_on` gets the number of the thread's first
    /// request.
    pub fn new<'e>(
        scope: &'s Scope<'s, 'e>,
        go_on: impl FnOnce(u64) -> Result<()> + Send + 's,
    ) -> Result<Self> {
        let (ready, is_ready) = channel();
        let (next, word) = channel::<u64>();
        let thread = scope.spawn(move || {
            let unshared = unshare(CloneFlags::CLONE_FILES);
            ready.send(unshared)?;
            word.recv().map_or(Ok(()), go_on)
        });
        is_ready.recv()?.context("a table of files for a thread")?;
        Ok(Self { thread, next })
    }

    /// Hands the work over, from the request with this number on.
    pub fn begin(&self, next: u64) -> Result<()> {
        Ok(self.next.send(next)?)
    }

    /// Waits until it has done its work, if it has any.
    pub fn join(self) -> Result<()> {
        drop(self.next);
        join(self.thread)
    }
}

/// Waits for a thread's end.
pub fn join(thread: ScopedJoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}
