//! The exit statuses of syngate.

/// COMMAND exited with 0, but nobody listens, or `--max-closed` was hit.
pub const NOT_KEPT: u8 = 124;
/// COMMAND was not run.
pub const NOT_RUN: u8 = 125;
/// COMMAND was not run: its file exists, but can't be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// COMMAND was not run: it was not found.
pub const NOT_FOUND: u8 = 127;

/// `syngate status` or `check` could not learn, or could not print, what it tells.
pub(crate) const NOT_TOLD: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(u8),
    /// By SIGINT. A shell that runs syngate in a loop stops the loop on Ctrl-C only if the signal has
    /// ended syngate; a status of 130 is not enough.
    Interrupt,
}

impl Exit {
    pub(crate) fn signalled(signal: i32) -> Exit {
        Exit::Status(128u8.saturating_add(signal.clamp(0, 127) as u8))
    }

    /// The status that a shell shows in `$?`.
    pub(crate) fn status(self) -> u8 {
        match self {
            Exit::Status(status) => status,
            Exit::Interrupt => 130,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotRunnable {
    NotFound(String),
    NotExecutable(String),
}

impl NotRunnable {
    pub(crate) fn status(&self) -> u8 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_that_a_shell_shows() {
        assert_eq!(Exit::Status(7).status(), 7);
        assert_eq!(Exit::Interrupt.status(), 130);
        for (why, status) in [
            (NotRunnable::NotFound("why".to_owned()), 127),
            (NotRunnable::NotExecutable("why".to_owned()), 126),
        ] {
            assert_eq!((why.status(), why.to_string()), (status, "why".to_owned()));
        }
    }
}
