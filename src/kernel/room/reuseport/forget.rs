//! Sockets share a port, which the kernel remembers of the port, too: how it forgets that.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::Result;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};

use crate::kernel::room::Place;
use crate::kernel::room::copy::{bind_to_device, set_number};
use crate::kernel::sockets::Device;
use crate::kernel::sockets::netns::Netns;

/// Has the kernel look at the sockets of that port themselves again, when others are bound there. Once one with
/// SO_REUSEPORT was bound it lets in any of the same user that has the option (`tb->fastreuseport`), until one without
/// is bound (inet_csk_update_fastreuse()). That is done here, by a socket in repair, which may be bound beside any
/// other (SK_FORCE_REUSE; CAP_NET_ADMIN), and never listens.
///
/// # Errors
/// It can't be bound.
pub(crate) fn forget(place: &Place, netns: Option<&Netns>) -> Result<()> {
    const TCP_REPAIR: libc::c_int = 19; // linux/tcp.h
    let bind_without = || -> std::io::Result<()> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        set_number(&socket, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
        // Each VRF has ports of its own; the IP versions have not.
        if let Device::Named(name) = &place.device {
            bind_to_device(&socket, name)?;
        }
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, place.port));
        Ok(bind(socket.as_raw_fd(), &SockaddrStorage::from(any))?)
    };
    match netns {
        None => bind_without()?,
        Some(netns) => netns.within(bind_without)??,
    }
    Ok(())
}
