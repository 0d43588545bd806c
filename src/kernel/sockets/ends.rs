//! Hears from the kernel when TCP sockets end: the multicast groups of sock_diag (linux/sock_diag.h,
//! `sock_diag_broadcast_destroy()`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::listener::SocketId;
use super::row::SocketRow;
use crate::kernel::netlink::{Bus, Netlink};

// linux/sock_diag.h
const SKNLGRP_INET_TCP_DESTROY: u32 = 1;
const SKNLGRP_INET6_TCP_DESTROY: u32 = 3;
/// The number of messages that are read before other work gets its turn.
const AT_A_TIME: usize = 1_024;

/// News of every TCP socket that ends in one network namespace, within 0.1 ms.
pub(crate) struct Ends {
    socket: Netlink,
    netns: u64,
}

impl Ends {
    /// # Errors
    /// EPERM without CAP_NET_ADMIN over the network namespace.
    pub(super) fn open(netns: u64) -> io::Result<Ends> {
        let groups = [SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY];
        let socket = Netlink::open_on(Bus::SockDiag, &groups)?;
        Ok(Ends { socket, netns })
    }

    /// The sockets that have ended since the last call. News may be lost where too many have: looks
    /// find that out.
    pub(crate) fn read(&mut self) -> Vec<SocketId> {
        let (mut ended, netns) = (Vec::new(), self.netns);
        let _ = self.socket.each_waiting(AT_A_TIME, |message| {
            ended.extend(SocketRow::parse(message.payload).map(|row| row.id(netns)));
        });
        ended
    }
}

impl AsFd for Ends {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::sockets::diag::Sockets;
    use crate::kernel::sockets::{Looks, Want};
    use crate::words::scope::Scope;

    #[test]
    fn the_end_of_a_listener_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sockets = Sockets::new(&[port].into_iter().collect(), &Scope::default()).unwrap();
        let id = sockets.look(Want::default()).unwrap().listeners[0].id;
        let Some(mut ends) = sockets.ends() else {
            assert!(!nix::unistd::geteuid().is_root(), "root may listen");
            return;
        };
        assert!(!ends.read().contains(&id));
        drop(listener);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !ends.read().contains(&id) {
            assert!(std::time::Instant::now() < until, "nothing is told");
            std::thread::yield_now();
        }
    }
}
