//! The note of what a run would leave, as the run and its guard hold it.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};

use super::again::again;
use super::early_guard::EarlyGuard;
use super::left::{Left, path_of, whole};
use crate::action::contract::Seen;
use crate::kernel::sockets::Listener;
use crate::words::ports::PortSet;

/// The file that says what a run would leave. The run and its guard have a lock on it, which ends with both.
pub(crate) struct Note {
    path: PathBuf,
    file: File,
    early_guard: Cell<Option<EarlyGuard>>,
    /// What it tells of open ports.
    open: PortSet,
}

impl Note {
    /// Notes what the run is about to do. `lent`: whether it gives the listener SO_REUSEPORT.
    ///
    /// # Errors
    /// The file can't be written.
    pub(super) fn write(seen: &Seen, lent: impl Fn(&Listener) -> bool) -> Result<Note> {
        let left = Left::of(seen, lent, [].into_iter());
        let path = path_of(seen.run)?;
        // First of all: a run may be killed at any moment.
        let early_guard = EarlyGuard::start(seen.run, &path)?;
        let doing = || format!("the note {} can't be written", path.display());
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.with_context(doing)?;
        let mut note = Note {
            path: path.clone(),
            file,
            early_guard: Cell::new(Some(early_guard)),
            open: PortSet::EMPTY,
        };
        match note.renew(&left).with_context(doing) {
            Ok(()) => Ok(note),
            Err(error) => {
                note.remove();
                Err(error)
            }
        }
    }

    /// When listeners have come or gone.
    pub(super) fn renew(&mut self, left: &Left) -> Result<()> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&whole()))?;
        let mut text = serde_json::to_vec(left)?;
        // In one step, and with nothing left of what was there before: both processes may be killed.
        let before = self.file.metadata()?.len() as usize;
        text.resize(text.len().max(before), b' ');
        Ok(self.file.write_all_at(&text, 0)?)
    }

    /// The listeners that it tells of.
    pub(super) fn listeners(&self) -> Vec<u64> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let left = serde_json::from_str(&text);
        left.map_or_else(|_| Vec::new(), |left: Left| left.cookies())
    }

    /// Only what is on these ports is still to be taken back.
    pub(super) fn keep_only(&mut self, ports: &PortSet) -> Result<()> {
        let text = fs::read_to_string(&self.path)?;
        let mut left: Left = serde_json::from_str(&text)?;
        left.keep_only(ports);
        self.renew(&left)
    }

    /// The run has opened these ports of the listeners. Where that can't be written, `status` tells of more that are
    /// closed.
    pub(super) fn tell_open(&mut self, ports: &PortSet) {
        if self.open == *ports {
            return;
        }
        let text = fs::read_to_string(&self.path).ok();
        let left = text.and_then(|text| serde_json::from_str::<Left>(&text).ok());
        if let Some(mut left) = left {
            left.set_open(ports);
            if self.renew(&left).is_ok() {
                self.open = ports.clone();
            }
        }
    }

    /// That of another process of the run, which has the same open file.
    pub(super) fn adopt(path: &Path, file: OwnedFd) -> Note {
        Note {
            path: path.to_owned(),
            file: file.into(),
            early_guard: Cell::new(None),
            open: PortSet::EMPTY,
        }
    }

    /// The guard of the rooms has the note now.
    pub(super) fn is_guarded(&self) {
        let early_guard = self.early_guard.take();
        early_guard.into_iter().for_each(EarlyGuard::dismiss);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything was taken back.
    pub(super) fn remove(self) {
        let _ = again(|| fs::remove_file(&self.path));
        self.is_guarded();
    }
}

impl AsFd for Note {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
