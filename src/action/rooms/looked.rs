//! Looks whether connections can be parked here: tried without a trace.

use std::fs;

use nix::unistd::{AccessFlags, access};

use super::able::Rooms;
use crate::kernel::caps;
use crate::kernel::control_group;
use crate::kernel::room::{copy, probe};
use crate::kernel::sockets::{Cookies, Listener, Looks, Sample, Want};
use crate::kernel::support::Support;

impl Rooms {
    pub(crate) fn look() -> Rooms {
        Rooms {
            moves: tried(probe::moves_connections),
            copies: copies(),
            lends: match control_group::open_root() {
                Ok(_) => tried(probe::lends),
                Err(error) => Support::No(format!("{error:#}")),
            },
            own_group: own_group(),
        }
    }
}

fn tried(trial: impl Fn() -> anyhow::Result<()>) -> Support {
    if !caps::programs_and_namespaces() {
        return Support::Unknown(
            "trying it needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN (root of the host)"
                .to_owned(),
        );
    }
    match trial() {
        Ok(()) => Support::Yes,
        Err(error) => Support::No(format!("{error:#}")),
    }
}

fn copies() -> Support {
    match copy::lacking() {
        None => Support::Yes,
        Some(why) => Support::No(why.to_owned()),
    }
}

fn own_group() -> Support {
    match control_group::own() {
        Err(error) => Support::No(format!("{error:#}")),
        Ok(group) if fs::metadata(&group).is_err() => {
            Support::No(format!("{} is not there", group.display()))
        }
        Ok(group) => match access(&group, AccessFlags::W_OK) {
            Ok(()) => Support::Yes,
            Err(errno) => Support::No(format!("{}: {}", group.display(), errno.desc())),
        },
    }
}

/// Whether that listener sets SO_REUSEPORT, by a copy of it, which is closed at once.
///
/// # Errors
/// Why its connections can't be parked.
pub(crate) fn shares_port(listener: &Listener, there: &Sample) -> Result<bool, String> {
    let shares = || Ok(copy::shares_port(&copy::movable(listener, there)?)?);
    shares().map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// Whether a run can begin with rooms for who listens now. `minds_cookies`: it takes another action where the kernel may
/// reset clients. `None`: that can't be told.
pub(crate) fn begins_with_rooms(
    sockets: &mut dyn Looks,
    minds_cookies: bool,
) -> Option<Result<(), String>> {
    let rooms = Rooms::look();
    if rooms.is_unknown() {
        return None;
    }
    if let Some(why) = rooms.refusal() {
        return Some(Err(why.to_owned()));
    }
    let want = Want {
        holders: true,
        ..Want::default()
    };
    let there = sockets.look(want).ok()?;
    if there.listeners.is_empty() {
        return Some(Err("nobody listens".to_owned()));
    }
    let cookies = minds_cookies && sockets.syn_limits().cookies == Cookies::Always;
    let mut listeners = there.listeners.iter();
    Some(listeners.try_for_each(|listener| {
        let (shares, why) = match shares_port(listener, &there) {
            Ok(shares) => (Some(shares), None),
            Err(why) => (None, Some(why)),
        };
        rooms.park_by_auto(cookies, shares, why.as_deref())
    }))
}
