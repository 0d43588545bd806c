//! The run's side of the guard process of its rooms.
//!
//! The guard holds copies of the rooms, and of the links by which the service's next sockets get
//! SO_REUSEPORT. So both outlive a run that is killed.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::SigSet;
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};

use super::groups::Rooms;
use crate::gate::backend::Deadline;
use crate::kernel::room::orders::{NAME, Orders, monotonic};
use crate::process::environment::as_exec_takes;
use crate::process::guard::{self, GuardProcess};

/// How long after `--max-closed` the guard hands over although the run lives: the run may hang, or
/// somebody may have stopped it.
pub(crate) const GRACE: Duration = Duration::from_millis(200);
/// How often the run tells its guard that it does not hang.
pub(crate) const BEAT_EVERY: Duration = Duration::from_millis(100);
/// A message carries no more descriptors (SCM_MAX_FD is 253, net/scm.h).
pub(crate) const MOST_FILES: usize = 200;

/// What a descriptor is, as one byte of the message that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum File {
    Room = b'r' as isize,
    /// A room of a group whose listeners have SO_REUSEPORT from syngate.
    LentRoom = b'l' as isize,
    Link = b'h' as isize,
}

/// All descriptors were sent.
pub(crate) const END: u8 = b'e';
/// The guard has them.
pub(crate) const READY: u8 = b'r';
/// The run does not hang.
pub(crate) const BEAT: u8 = b'b';
/// The rooms are shut, and there is nothing left to guard.
pub(crate) const DISMISSED: u8 = b'd';

pub(crate) struct Watch {
    process: GuardProcess,
    line: UnixStream,
    beaten: Instant,
}

impl Watch {
    /// Starts a guard for these rooms, and waits until it has them.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn start(rooms: &Rooms, until: Deadline) -> Result<Watch> {
        let doing = "the guard of the waiting rooms can't be started";
        let words = orders(rooms, until).words();
        let words = words.each_ref().map(OsStr::new);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let call = guard::GuardCall {
            program: Path::new(guard::OURSELVES),
            name: NAME,
            words: &words,
            environment: &as_exec_takes([(OsString::from("PATH"), path)]),
            mask: &SigSet::all(),
        };
        let (process, line) = guard::start(&call).context(doing)?;
        let mut watch = Watch {
            process,
            line,
            beaten: Instant::now(),
        };
        watch.send(rooms).context(doing)?;
        Ok(watch)
    }

    fn send(&mut self, rooms: &Rooms) -> io::Result<()> {
        let mut files = Vec::new();
        for group in &rooms.groups {
            let kind = match group.lent {
                true => File::LentRoom,
                false => File::Room,
            };
            let rooms = group.rooms.iter().map(|room| room.as_fd().as_raw_fd());
            files.extend(rooms.map(|fd| (kind as u8, fd)));
        }
        let own = rooms.own.as_ref().map(|own| &own.link);
        let links = rooms.links.iter().chain(own);
        let links = links.map(|link| link.as_fd().as_raw_fd());
        files.extend(links.map(|fd| (File::Link as u8, fd)));
        for some in files.chunks(MOST_FILES) {
            let (kinds, fds): (Vec<u8>, Vec<RawFd>) = some.iter().copied().unzip();
            let rights = [ControlMessage::ScmRights(&fds)];
            let line = self.line.as_raw_fd();
            sendmsg::<()>(
                line,
                &[IoSlice::new(&kinds)],
                &rights,
                MsgFlags::empty(),
                None,
            )?;
        }
        self.line.write_all(&[END])?;
        let mut byte = [0];
        self.line.read_exact(&mut byte)?;
        match byte {
            [READY] => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// Tells the guard that the run does not hang. A guard that does not read makes no run wait.
    pub(crate) fn beat(&mut self) {
        if self.beaten.elapsed() >= BEAT_EVERY {
            self.beaten = Instant::now();
            let line = self.line.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let _ = send(line, &[BEAT], flags);
        }
    }

    /// Ends the guard: the rooms are shut.
    pub(crate) fn dismiss(mut self) {
        let _ = self.line.write_all(&[DISMISSED]);
        drop(self.line);
        self.process.see_end();
    }
}

fn orders(rooms: &Rooms, until: Deadline) -> Orders {
    let group = rooms.own.as_ref().map(|own| own.group.path().to_owned());
    Orders {
        until: monotonic() + until.saturating_duration_since(Instant::now()) + GRACE,
        run: rooms.run.clone(),
        ports: rooms.groups.iter().map(|group| group.place.port).collect(),
        old: rooms.old.clone(),
        rooms: rooms.cookies(),
        netns: rooms.netns().cloned(),
        group,
        who: rooms.who.clone(),
    }
}
