//! A COMMAND that stops where the test wants it to, and goes on when it is told.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use nix::sys::stat::Mode;
use testkit::{Host, wait_until};

use super::SOON;

/// A place at which shell scripts wait to be let go.
pub struct Latch {
    here: PathBuf,
    go: PathBuf,
    /// Open for reading too, so that neither side waits for the other to open it.
    pipe: File,
}

impl Latch {
    /// One of that name on the host.
    pub fn new(host: &Host, name: &str) -> Latch {
        let go = host.dir().join(format!("{name}.go"));
        nix::unistd::mkfifo(&go, Mode::S_IRWXU).unwrap();
        Latch {
            here: host.dir().join(format!("{name}.here")),
            pipe: OpenOptions::new().read(true).write(true).open(&go).unwrap(),
            go,
        }
    }

    /// Shell script: note our pid, and wait, through traps too.
    pub fn hold(&self) -> String {
        let (here, go) = (self.here.display(), self.go.display());
        format!("echo $$ >{here}; until read _ <{go}; do :; done")
    }

    /// Waits until a script is held, and tells its pid as the host has it.
    #[track_caller]
    pub fn wait(&self) -> String {
        let note = || std::fs::read_to_string(&self.here).unwrap_or_default();
        wait_until(SOON, "a script at the latch", || note().ends_with('\n')).unwrap();
        note().trim().to_owned()
    }

    /// Whether a script has come here since the latch was made, or let one go.
    pub fn reached(&self) -> bool {
        self.here.exists()
    }

    /// Lets one script go.
    pub fn release(&mut self) {
        let _ = std::fs::remove_file(&self.here);
        self.pipe.write_all(b"\n").unwrap();
    }
}
