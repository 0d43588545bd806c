//! Asks the peer whether it takes connections to addresses that both hosts have. Each connection is
//! made to look as if it went there ([`Disguised`]), and is aborted as soon as it is established.

use std::net::{SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getsockname, getsockopt,
    setsockopt, socket, sockopt,
};

use super::way::Enquiry;
use crate::gate::nft::disguise::{Disguise, Disguised};

pub(crate) const AT_A_TIME: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Accepted,
    /// The peer refuses, or this host can't send to it.
    Refused,
    Silent,
}

pub(crate) struct Asking {
    epoll: Epoll,
    asked: Vec<Asked>,
    /// Last, so that it is dropped last: the aborts need its rules too.
    _disguised: Disguised,
}

struct Asked {
    socket: OwnedFd,
    to: SocketAddr,
    answer: Reply,
}

impl Asking {
    /// Sends all enquiries that have a source address. `comment` names the run in the rules. The
    /// rules expire after `within`.
    ///
    /// # Errors
    /// This host can't ask. Nothing was changed.
    pub(crate) fn begin(
        id: &str,
        comment: &str,
        questions: &[Enquiry],
        within: Duration,
    ) -> Result<Asking> {
        let mut bound = Vec::new();
        let mut disguises = Vec::new();
        for question in questions {
            let Some(from) = question.from else {
                continue;
            };
            let (socket, from) = bound_socket(from).context("a socket to ask the peer by")?;
            disguises.push(Disguise {
                from,
                neighbour: question.neighbour,
                to: question.to,
            });
            bound.push((socket, question));
        }
        let disguised = Disguised::wear(id, comment, &disguises, within)?;
        let mut asking = Asking {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            asked: Vec::with_capacity(bound.len()),
            _disguised: disguised,
        };
        for (socket, question) in bound {
            asking.ask(socket, question)?;
        }
        Ok(asking)
    }

    fn ask(&mut self, socket: OwnedFd, question: &Enquiry) -> Result<()> {
        let neighbour = SocketAddr::new(question.neighbour.address, question.to.port());
        let neighbour = with_scope(neighbour, question.neighbour.device.index);
        let answer = match connect(socket.as_raw_fd(), &SockaddrStorage::from(neighbour)) {
            Ok(()) => Reply::Accepted,
            Err(Errno::EINPROGRESS) => Reply::Silent,
            Err(_) => Reply::Refused,
        };
        if answer == Reply::Silent {
            let when = EpollEvent::new(EpollFlags::EPOLLOUT, self.asked.len() as u64);
            self.epoll.add(&socket, when)?;
        }
        self.asked.push(Asked {
            socket,
            to: question.to,
            answer,
        });
        Ok(())
    }

    /// Readable when the peer has answered.
    pub(crate) fn news(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Takes in the answers. Returns whether all have come.
    ///
    /// # Errors
    /// The errors of epoll(7).
    pub(crate) fn take(&mut self) -> Result<bool> {
        let mut events = [EpollEvent::empty(); AT_A_TIME];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..ready] {
            let Some(asked) = self.asked.get_mut(event.data() as usize) else {
                continue;
            };
            asked.answer = match getsockopt(&asked.socket, sockopt::SocketError)? {
                0 => Reply::Accepted,
                _ => Reply::Refused,
            };
            self.epoll.delete(&asked.socket)?;
        }
        Ok(!self.asked.iter().any(|a| a.answer == Reply::Silent))
    }

    pub(crate) fn replies(&self) -> Vec<(SocketAddr, Reply)> {
        let answers = self.asked.iter();
        answers.map(|asked| (asked.to, asked.answer)).collect()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        for asked in &self.asked {
            // Closes with a reset, which ends the connection on both sides at once. The peer's
            // answer to a FIN would come after the rules are gone.
            let abort = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            let _ = setsockopt(&asked.socket, sockopt::Linger, &abort);
        }
        self.asked.clear();
    }
}

fn bound_socket(from: std::net::IpAddr) -> nix::Result<(OwnedFd, SocketAddr)> {
    let family = match from.is_ipv4() {
        true => AddressFamily::Inet,
        false => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    let any_port = SocketAddr::new(from, 0);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any_port))?;
    let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let port = match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => v4.port(),
        (_, Some(v6)) => v6.port(),
        _ => 0,
    };
    Ok((socket, SocketAddr::new(from, port)))
}

/// A link-local address needs the index of its link.
fn with_scope(address: SocketAddr, device: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, device).into()
        }
        other => other,
    }
}
