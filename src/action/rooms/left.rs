//! What the kernel does not take back by itself from listeners when a run and its guard are killed together:
//! SO_REUSEPORT that they did not have, and a program that sends nobody to a room any more. A note in a file
//! tells of it. The next run in the network namespace takes it back, and so does `syngate clear`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::action::contract::Seen;
use crate::gate::rooms::dissolve_of;
use crate::kernel::bpf::leave_choice_to_kernel;
use crate::kernel::room::{Place, copy};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sockets::{Listener, Looks, Want};
use crate::process::living::boot;
use crate::process::lock::beside;
use crate::words::scope::Scope;

/// What the note of a run is called, behind the network namespace: with the run's id at the end.
const SUFFIX: &str = "rooms-";

/// The file that says what a run would leave. The run and its guard have a lock on it, which ends with both.
#[derive(Debug)]
pub(crate) struct Note {
    path: PathBuf,
    file: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct Left {
    boot: Option<String>,
    /// The network namespace of the listeners, if it is another than that of the run.
    netns: Option<String>,
    listeners: Vec<LeftListener>,
}

/// A listener that was there before the gate closed.
#[derive(Debug, Serialize, Deserialize)]
struct LeftListener {
    port: u16,
    cookie: u64,
    /// It has SO_REUSEPORT from syngate.
    lent: bool,
}

impl Note {
    /// Notes what the run is about to do. `lent`: whether it gives the listener SO_REUSEPORT.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn write(seen: &Seen, lent: impl Fn(&Listener) -> bool) -> Result<Note> {
        let left = Left::of(seen, lent);
        let path = beside(&format!("{SUFFIX}{}", seen.run))?;
        let doing = || format!("the note {} can't be written", path.display());
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.with_context(doing)?;
        let mut note = Note {
            path: path.clone(),
            file,
        };
        match note.fill(&left).with_context(doing) {
            Ok(()) => Ok(note),
            Err(error) => {
                note.remove();
                Err(error)
            }
        }
    }

    fn fill(&mut self, left: &Left) -> Result<()> {
        lock(&self.file)?;
        Ok(self.file.write_all_at(&serde_json::to_vec(left)?, 0)?)
    }

    /// As [`Note::write`], when listeners have come or gone. One that is killed meanwhile leaves a note that
    /// can't be read, and a program that does no harm.
    pub(super) fn renew(&mut self, seen: &Seen) -> Result<()> {
        self.file.set_len(0)?;
        self.fill(&Left::of(seen, |_| false))
    }

    /// That of another process of the run, which has the same open file.
    pub(super) fn adopt(path: &Path, file: OwnedFd) -> Note {
        Note {
            path: path.to_owned(),
            file: file.into(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything was taken back.
    pub(super) fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl AsFd for Note {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The lock belongs to the open file, and processes that inherit the file have it, too (F_OFD_SETLK,
/// fcntl(2); Linux 3.15).
fn lock(file: &File) -> nix::Result<()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

/// What a dead run has left, and whether it is taken back.
pub(crate) struct TakenBack {
    pub(crate) run: String,
    pub(crate) done: Result<()>,
}

impl TakenBack {
    pub(crate) fn words(&self) -> String {
        let run = &self.run;
        match &self.done {
            Ok(()) => format!(
                "removed from the service's listeners what the killed run {run} had left there: SO_REUSEPORT, a program"
            ),
            Err(error) => {
                format!(
                    "what the killed run {run} has left on the service's listeners (SO_REUSEPORT, a program) can't be \
                     removed: {error:#}"
                )
            }
        }
    }
}

/// Takes back what dead runs in this network namespace have left.
///
/// # Errors
/// The notes can't be listed.
pub(crate) fn take_back() -> Result<Vec<TakenBack>> {
    let taken = notes()?.into_iter().filter_map(|(run, path)| {
        let done = take_back_one(&path).transpose()?;
        if done.is_ok() {
            dissolve_of(&run);
        }
        Some(TakenBack { run, done })
    });
    Ok(taken.collect())
}

/// The runs that have left notes in this network namespace, dead or alive.
fn notes() -> Result<Vec<(String, PathBuf)>> {
    let pattern = beside(SUFFIX)?;
    let (Some(directory), Some(begin)) = (pattern.parent(), pattern.file_name()) else {
        return Ok(Vec::new());
    };
    let begin = begin.to_string_lossy();
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let notes = listed.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let run = name.strip_prefix(&*begin)?;
        Some((run.to_owned(), entry.path()))
    });
    Ok(notes.collect())
}

/// `None`: the run or its guard lives.
fn take_back_one(path: &Path) -> Result<Option<()>> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
    {
        // Its guard has just taken everything back.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if let Err(Errno::EAGAIN | Errno::EACCES) = lock(&file) {
        return Ok(None);
    }
    // A run that was killed while it wrote had done nothing else.
    if let Ok(left) = serde_json::from_str::<Left>(&io::read_to_string(&file)?)
        && left.boot == boot()
    {
        left.take_back_from_listeners()?;
    }
    fs::remove_file(path)?;
    Ok(Some(()))
}

impl Left {
    fn of(seen: &Seen, lent: impl Fn(&Listener) -> bool) -> Left {
        let listeners = seen.before.listeners.iter().map(|listener| LeftListener {
            port: listener.port,
            cookie: listener.id.cookie,
            lent: lent(listener),
        });
        Left {
            boot: boot(),
            netns: seen.netns.map(ToString::to_string),
            listeners: listeners.collect(),
        }
    }

    fn take_back_from_listeners(&self) -> Result<()> {
        let ports = self
            .listeners
            .iter()
            .map(|listener| listener.port)
            .collect();
        let mut sockets = Sockets::new(&ports, &Scope::default())?;
        if let Some(netns) = &self.netns {
            let netns = Netns::parse(netns).map_err(anyhow::Error::msg)?;
            // A namespace that has gone has no listeners.
            if sockets.look_in(&netns).is_err() {
                return Ok(());
            }
        }
        let there = sockets.look(Want {
            holders: true,
            ..Want::default()
        })?;
        for listener in &there.listeners {
            let place = Place::of(listener);
            let alone = there
                .listeners
                .iter()
                .filter(|l| Place::of(l) == place)
                .count()
                == 1;
            let Some(lent) = self.lent_to(listener, alone) else {
                continue;
            };
            let copy = copy::of(listener, &there.holders)?;
            if self.is_old(listener) {
                // ENOENT: nobody was sent to a room yet.
                let _ = leave_choice_to_kernel(copy.as_fd());
            }
            if lent {
                copy::set_shares_port(&copy, false)?;
            }
        }
        Ok(())
    }

    fn is_old(&self, listener: &Listener) -> bool {
        let mut old = self.listeners.iter();
        old.any(|old| old.cookie == listener.id.cookie)
    }

    /// Whether the listener has the option from the dead run; `None`: the run had nothing to do with it.
    /// One that came later may have bound while the run lived, if the old one lacked the option. Several
    /// of one address have it by themselves.
    fn lent_to(&self, listener: &Listener, alone: bool) -> Option<bool> {
        let mut old = self.listeners.iter();
        if let Some(old) = old.find(|old| old.cookie == listener.id.cookie) {
            return Some(old.lent);
        }
        let mut old = self.listeners.iter();
        let lent = old.any(|old| old.port == listener.port && old.lent);
        (lent && alone).then_some(true)
    }
}
