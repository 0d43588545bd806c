//! A process that takes back what the run has given to listeners if the run is killed before the guard of its rooms is
//! there.

use std::ffi::{CStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::left;
use crate::action::contract::GuardWork;
use crate::gate::rooms::dissolve_of;
use crate::kernel::room::orders::NAME;
use crate::process::attended::{Attended, Call, word};
use crate::process::guard::{self, Heard};

/// The hidden command of that process.
const COMMAND: &str = "room-early-guard";
const NAME_FOR_KERNEL: &CStr = c"gate-room";

/// The run's side. If it is dropped, the process takes back what the note tells of.
pub(super) struct EarlyGuard(Attended);

impl EarlyGuard {
    /// Starts one for a note that is yet to be written. It need not be ready: what it has to do, it does when the
    /// run has died.
    ///
    /// # Errors
    /// It can't be started.
    pub(super) fn start(run: &str, note: &Path) -> Result<EarlyGuard> {
        let words = [COMMAND, run, &note.to_string_lossy()].map(str::to_owned);
        let call = Call {
            name: NAME,
            words: &words,
            files: &[],
        };
        let coming = Attended::come(&call);
        let coming = coming.context("the early guard of the waiting rooms can't be started")?;
        Ok(EarlyGuard(coming))
    }

    pub(super) fn dismiss(self) {
        let _ = self.0.dismiss();
    }
}

/// The process's own command line: the name, the hidden command, the run's id, and the note.
pub(crate) fn call(words: &[OsString]) -> Option<GuardWork> {
    let [_, command, run, note] = words else {
        return None;
    };
    let (run, note) = (run.to_str()?.to_owned(), PathBuf::from(note));
    let work = move || {
        let _ = keep(&run, &note);
    };
    (command == COMMAND).then(|| Box::new(work) as GuardWork)
}

fn keep(run: &str, note: &Path) -> Result<()> {
    let (line, _) = guard::begin(NAME_FOR_KERNEL, &[])?;
    guard::stay();
    loop {
        match guard::read_word(&line) {
            Heard::Word(word::DISMISSED) => return Ok(()),
            Heard::Word(_) | Heard::Nothing => (),
            Heard::TheEnd => break,
        }
    }
    left::take_back_after(note)?;
    dissolve_of(run);
    Ok(())
}
