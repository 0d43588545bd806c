//! How syngate itself ends.

/// COMMAND exited with 0, and the promise was not kept.
pub const NOT_KEPT: u8 = 124;
/// COMMAND was not run.
pub const NOT_RUN: u8 = 125;
/// COMMAND was not run: its file is there and can't be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// COMMAND was not run: it was not found.
pub const NOT_FOUND: u8 = 127;

/// The exit status of this process, or the signal that it ends itself by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A status.
    Status(u8),
    /// SIGINT: so that a shell that runs us in a loop stops the loop on Ctrl-C, it must see that
    /// the signal ended us (a status of 130 would not do).
    Interrupt,
}

impl Exit {
    /// The status for a process that a signal ended, as shells count it.
    pub fn signalled(signal: i32) -> Exit {
        Exit::Status(128u8.saturating_add(signal.clamp(0, 127) as u8))
    }

    /// What a shell would show in `$?`.
    pub fn status(self) -> u8 {
        match self {
            Exit::Status(status) => status,
            Exit::Interrupt => 130,
        }
    }
}

/// Why a program can't be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRunnable {
    /// 127.
    NotFound(String),
    /// 126.
    NotExecutable(String),
}

impl NotRunnable {
    /// The exit status that says so.
    pub fn status(&self) -> u8 {
        match self {
            NotRunnable::NotFound(_) => NOT_FOUND,
            NotRunnable::NotExecutable(_) => NOT_EXECUTABLE,
        }
    }
}

impl std::fmt::Display for NotRunnable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotRunnable::NotFound(why) | NotRunnable::NotExecutable(why) => f.write_str(why),
        }
    }
}
