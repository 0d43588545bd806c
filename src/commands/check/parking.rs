//! Looks whether connections can be parked here: tried without a trace.

use std::fs;

use nix::unistd::{AccessFlags, access};

use super::rooms::Rooms;
use super::support::Support;
use crate::kernel::caps;
use crate::kernel::control_group;
use crate::kernel::room::{copy, probe};

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
