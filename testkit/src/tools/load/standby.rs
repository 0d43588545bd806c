use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread::{Scope, ScopedJoinHandle},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use super::{Fresh, Plan, join};

/// A thread with a table of files of its own, which waits to go on with a [`Fresh`] when the table
/// of the thread before it is full: not even root may always have a longer one.
pub struct Standby<'s> {
    thread: ScopedJoinHandle<'s, Result<()>>,
    next: Sender<u64>,
}

impl<'s> Standby<'s> {
    /// Returns when the thread has its table. What was open then is in both.
    pub fn new<'e>(plan: &'e Plan<'e>, scope: &'s Scope<'s, 'e>) -> Result<Self> {
        let (ready, is_ready) = channel();
        let (next, word) = channel();
        let thread = scope.spawn(move || {
            let unshared = unshare(CloneFlags::CLONE_FILES);
            ready.send(unshared)?;
            wait_and_go_on(plan, scope, &word)
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

fn wait_and_go_on<'s, 'e>(
    plan: &'e Plan<'e>,
    scope: &'s Scope<'s, 'e>,
    word: &Receiver<u64>,
) -> Result<()> {
    match word.recv() {
        Ok(next) => Fresh::new(plan, scope, next)?.run(),
        Err(_) => Ok(()),
    }
}
