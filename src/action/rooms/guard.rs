//! The guard process of waiting rooms. When the run has died, it hands those who wait over to the service
//! once that listens again.

use std::ffi::{CStr, OsString};
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::groups::{First, Group, Rooms};
use super::policy::HANDED_OVER_WITHIN;
use super::watch::{DISMISSED, END, File, MOST_FILES, READY};
use crate::action::contract::GuardWork;
use crate::kernel::control_group::ControlGroup;
use crate::kernel::room::Room;
use crate::kernel::room::orders::{HAND_OVER, Orders};
use crate::kernel::sockets::Looks;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sys;
use crate::process::guard::{self, Heard};
use crate::words::scope::Scope;

const NAME_FOR_KERNEL: &CStr = c"gate-room";
/// Interval between looks whether the service listens again.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A run that does not tell for so long that it works hangs, or somebody has stopped it.
pub(crate) const HUNG: Duration = Duration::from_secs(1);
/// When the run has died and the old listener stays for so long, COMMAND does not end it any more: those
/// who wait go back there.
pub(crate) const DESERTED: Duration = Duration::from_secs(1);

/// The guard's own command line: the name, and [`Orders`].
pub(crate) fn call(words: &[OsString]) -> Option<GuardWork> {
    let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
    let orders = Orders::parse(words?.get(1..)?)?;
    Some(Box::new(move || {
        let _ = guard(&orders);
    }))
}

/// Guards the rooms until the run dismisses it, or has died and those who waited were handed over.
fn guard(orders: &Orders) -> Result<()> {
    let until = Instant::now() + orders.left();
    let (mut line, _) = guard::begin(NAME_FOR_KERNEL)?;
    guard::stay();
    let mut guarded = receive(&mut line, orders)?;
    line.write_all(&[READY])?;
    if guarded.until_left(&line, until) {
        guarded.rooms.leave_as_it_is();
        return Ok(());
    }
    guarded.take_over(until);
    drop(orders.group.as_deref().map(ControlGroup::at));
    Ok(())
}

struct Guarded {
    rooms: Rooms,
    /// They keep the programs where they are.
    links: Vec<OwnedFd>,
}

impl Guarded {
    /// Waits for the end of the run. `true`: it has dismissed the guard; `false`: it has died or hangs, and
    /// those who wait are to be handed over.
    fn until_left(&mut self, line: &UnixStream, until: Instant) -> bool {
        let mut beat = Instant::now();
        loop {
            let now = Instant::now();
            let hangs = now >= beat + HUNG;
            if now >= until || (hangs && self.is_served_anew()) {
                return false;
            }
            let next = if hangs { LOOK_EVERY } else { HUNG };
            match guard::await_word(line, next.min(until - now).max(LOOK_EVERY)) {
                Heard::Word(DISMISSED) => return true,
                Heard::Word(_) => beat = Instant::now(),
                Heard::TheEnd => return false,
                Heard::Nothing => (),
            }
        }
    }

    fn is_served_anew(&mut self) -> bool {
        let sample = self.rooms.look(false).unwrap_or_default();
        let mut groups = self.rooms.groups.iter();
        groups.any(|group| group.is_open() && self.rooms.is_served_anew(group, &sample))
    }

    fn take_over(&mut self, until: Instant) {
        let deserted = Instant::now() + DESERTED;
        while self.rooms.groups.iter().any(Group::is_open) {
            let now = Instant::now();
            let told = sys::pending().contains(HAND_OVER);
            let sample = self.rooms.look(false).unwrap_or_default();
            for n in 0..self.rooms.groups.len() {
                let group = &self.rooms.groups[n];
                let anew = self.rooms.is_served_anew(group, &sample);
                let still = now >= deserted && self.rooms.is_served(group, &sample);
                if group.is_open() && (anew || still || told || now >= until) {
                    self.rooms.hand_over(n);
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.links.clear();
        let give_up = Instant::now() + HANDED_OVER_WITHIN;
        while self.rooms.under_way() > 0 && Instant::now() < give_up {
            std::thread::sleep(LOOK_EVERY);
        }
        self.rooms.give_back();
    }
}

fn receive(line: &mut UnixStream, orders: &Orders) -> Result<Guarded> {
    let mut sockets = Sockets::new(&orders.ports, &Scope::default())?;
    if let Some(netns) = &orders.netns {
        sockets.look_in(netns)?;
    }
    let mut guarded = Guarded {
        rooms: Rooms::new(sockets, First::Rooms, orders.old.clone()),
        links: Vec::new(),
    };
    loop {
        let (kinds, files) = receive_some(line)?;
        let over = kinds == [END];
        for (kind, file) in kinds.into_iter().zip(files) {
            guarded.take(kind, file)?;
        }
        if over {
            guarded.rooms.hide();
            return Ok(guarded);
        }
    }
}

/// One message: what each descriptor is, and the descriptors.
fn receive_some(line: &UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut kinds = vec![0; MOST_FILES];
    let mut space = cmsg_space!([RawFd; MOST_FILES]);
    let mut parts = [IoSliceMut::new(&mut kinds)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(line.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let length = message.bytes;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            files.extend(fds.into_iter().filter_map(sys::inherited));
        }
    }
    if length == 0 {
        bail!("the run has died");
    }
    kinds.truncate(length);
    Ok((kinds, files))
}

impl Guarded {
    fn take(&mut self, kind: u8, file: OwnedFd) -> Result<()> {
        let lent = kind == File::LentRoom as u8;
        if kind == File::Link as u8 {
            self.links.push(file);
            return Ok(());
        }
        let room = Room::adopt(file).context("not a room")?;
        let groups = &mut self.rooms.groups;
        match groups.iter_mut().find(|group| group.place == *room.place()) {
            Some(group) => group.rooms.push(room),
            None => {
                let mut group = Group::new(room.place().clone(), 0, lent);
                group.rooms.push(room);
                groups.push(group);
            }
        }
        Ok(())
    }
}
