//! A COMMAND that stops where the test wants it to, and goes on when it is told.

use std::path::PathBuf;

use testkit::{Host, wait_until};

use super::SOON;

/// A place at which shell scripts wait to be let go.
pub(crate) struct Latch {
    here: PathBuf,
    go: PathBuf,
}

impl Latch {
    /// One of that name on the host.
    pub(crate) fn new(host: &Host, name: &str) -> Latch {
        Latch {
            here: host.dir().join(format!("{name}.here")),
            go: host.dir().join(format!("{name}.go")),
        }
    }

    /// Shell script: note our pid, and wait. It looks again and again, because a shell that blocks
    /// may miss a signal that comes just before it does, and then runs no trap.
    pub(crate) fn hold(&self) -> String {
        let (here, go) = (self.here.display(), self.go.display());
        format!("echo $$ >{here}; until [ -e {go} ]; do sleep 0.01; done; rm {go}")
    }

    /// Waits until a script is held, and tells its pid as the host has it.
    #[track_caller]
    pub(crate) fn wait(&self) -> String {
        let note = || std::fs::read_to_string(&self.here).unwrap_or_default();
        wait_until(SOON, "a script at the latch", || note().ends_with('\n')).unwrap();
        note().trim().to_owned()
    }

    /// Whether a script is held, or was and has ended otherwise.
    pub(crate) fn reached(&self) -> bool {
        self.here.exists()
    }

    /// Lets one script go.
    pub(crate) fn release(&mut self) {
        let _ = std::fs::remove_file(&self.here);
        std::fs::write(&self.go, "").unwrap();
    }
}
