use std::{
    panic::resume_unwind,
    sync::mpsc::{Sender, channel},
    thread::{Scope, ScopedJoinHandle},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

/// A thread with a table of files of its own, which waits to go on with the work when the table
/// of the thread before it is full: not even root may always have a longer one.
pub struct Standby<'s> {
    thread: ScopedJoinHandle<'s, Result<()>>,
    next: Sender<u64>,
}

impl<'s> Standby<'s> {
    /// Returns when the thread has its table. What was open then is in both. `go_on` gets the number of
    /// the first request that is the thread's.
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

    /// Lets it go on with the request of that number.
    pub fn begin(&self, next: u64) -> Result<()> {
        Ok(self.next.send(next)?)
    }

    /// Waits for its end. If it never began, that is now.
    pub fn join(self) -> Result<()> {
        drop(self.next);
        join(self.thread)
    }
}

/// Waits for a thread's end.
pub fn join(thread: ScopedJoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}
