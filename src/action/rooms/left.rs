//! What stays on listeners when a run and its guard are killed together, since the kernel does not take it back:
//! SO_REUSEPORT from the run, and a program that sends no connection to a room any more. A note in a file tells of
//! it. The next run in the network namespace takes it back, and so does `syngate clear`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::{Deserialize, Serialize};

use super::again::again;
use crate::action::contract::Seen;
use crate::gate::rooms::dissolve_of;
use crate::kernel::bpf::leave_choice_to_kernel;
use crate::kernel::room::{Place, copy, reuseport};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::netns::Netns;
use crate::kernel::sockets::{Listener, Looks, Want};
use crate::process::living::boot;
use crate::process::lock::beside;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

/// What the note of a run is called, behind the network namespace: with the run's id at the end.
const SUFFIX: &str = "rooms-";

/// What the note of a run tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Left {
    boot: Option<String>,
    /// The network namespace of the listeners, if it is another than that of the run.
    netns: Option<String>,
    listeners: Vec<LeftListener>,
    /// Of the listeners' ports, those that the run has opened again: `status` reads that. As `--port` takes them.
    #[serde(default)]
    open: String,
}

/// A listener that was there before the gate closed.
#[derive(Debug, Serialize, Deserialize)]
struct LeftListener {
    port: u16,
    cookie: u64,
    /// It has SO_REUSEPORT from syngate.
    lent: bool,
}

/// A lock of a whole file. It belongs to the open file, and processes that inherit the file have it, too (F_OFD_SETLK,
/// fcntl(2); Linux 3.15).
pub(super) fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
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

/// The file of that run's note.
///
/// # Errors
/// This process can't see its network namespace.
pub(super) fn path_of(run: &str) -> io::Result<PathBuf> {
    beside(&format!("{SUFFIX}{run}"))
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

/// The dead runs that have left notes in this network namespace, and the files.
///
/// # Errors
/// The notes can't be listed, or one can't be opened.
pub(crate) fn dead() -> Result<Vec<(String, PathBuf)>> {
    let mut dead = Vec::new();
    for (run, path) in notes()? {
        let file = opened(&path).with_context(|| path.display().to_string())?;
        if file.map(is_orphaned).transpose()?.unwrap_or(false) {
            dead.push((run, path));
        }
    }
    Ok(dead)
}

/// Whether the run and its guard are dead, without a lock: it would be in the way of a run that is just writing the
/// note. Until then it is empty.
fn is_orphaned(file: File) -> Result<bool> {
    let mut held = whole();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut held))?;
    Ok(held.l_type == libc::F_UNLCK as i16 && file.metadata()?.len() > 0)
}

/// `None`: its guard has just taken everything back.
fn opened(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options.read(true).write(true).custom_flags(flags);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Whether the run and its guard are dead.
fn is_free(file: &File) -> nix::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole())) {
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        locked => locked.map(|_| true),
    }
}

/// `None`: the run or its guard lives.
fn take_back_one(path: &Path) -> Result<Option<()>> {
    match opened(path)? {
        Some(file) if is_free(&file)? => take_back_by(&file, path).map(Some),
        _ => Ok(None),
    }
}

/// Waits until a dying run, and a guard that it may have started, are dead. Then takes back what they have left.
///
/// # Errors
/// It can't be taken back. The next run tries again.
pub(super) fn take_back_after(path: &Path) -> Result<()> {
    let Some(file) = opened(path)? else {
        return Ok(());
    };
    fcntl(&file, FcntlArg::F_OFD_SETLKW(&whole()))?;
    match file.metadata()?.nlink() {
        // That guard has.
        0 => Ok(()),
        _ => take_back_by(&file, path),
    }
}

fn take_back_by(file: &File, path: &Path) -> Result<()> {
    // A run that was killed while it wrote had done nothing else.
    let left = serde_json::from_str::<Left>(&io::read_to_string(file)?).ok();
    if let Some(left) = left.filter(|left| left.boot == boot()) {
        left.take_back_from_listeners()?;
    }
    Ok(again(|| fs::remove_file(path))?)
}

impl Left {
    /// `lent`: whether the run gives the listener SO_REUSEPORT. `deserted`: where nobody listens now, and who comes
    /// gets that.
    pub(super) fn of(
        seen: &Seen,
        lent: impl Fn(&Listener) -> bool,
        deserted: impl Iterator<Item = u16>,
    ) -> Left {
        let listeners = seen.before.listeners.iter().map(|listener| LeftListener {
            port: listener.port,
            cookie: listener.id.cookie,
            lent: lent(listener),
        });
        // No socket has this cookie.
        let deserted = deserted.map(|port| LeftListener {
            port,
            cookie: 0,
            lent: true,
        });
        Left {
            boot: boot(),
            netns: seen.netns.map(ToString::to_string),
            listeners: listeners.chain(deserted).collect(),
            open: String::new(),
        }
    }

    pub(super) fn cookies(&self) -> Vec<u64> {
        self.listeners.iter().map(|one| one.cookie).collect()
    }

    pub(super) fn set_open(&mut self, ports: &PortSet) {
        self.open = ports.to_string();
    }

    pub(super) fn keep_only(&mut self, ports: &PortSet) {
        self.listeners
            .retain(|listener| ports.contains(listener.port));
    }

    fn take_back_from_listeners(&self) -> Result<()> {
        let ports = self
            .listeners
            .iter()
            .map(|listener| listener.port)
            .collect();
        let mut sockets = Sockets::new(&ports, &Scope::default())?;
        let netns = self.netns.as_deref().map(Netns::parse).transpose();
        let netns = netns.map_err(anyhow::Error::msg)?;
        if let Some(netns) = &netns {
            // A namespace that has gone has no listeners.
            if sockets.look_in(netns).is_err() {
                return Ok(());
            }
        }
        let there = sockets.look(Want {
            holders: true,
            ..Want::default()
        })?;
        for listener in &there.listeners {
            let place = Place::of(listener);
            let alone = there.listeners.iter().filter(|l| place.is_of(l)).count() == 1;
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
                reuseport::forget(&place, netns.as_ref())?;
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
