//! A netlink socket: requests go out, answers come in.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use mnl::Bus;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, setsockopt, socketpair,
    sockopt,
};

use super::wire::{Message, Refusal, message_bytes, messages};
use crate::kernel::sys;

/// The kernel answers within the system call that sends the request, so only a kernel in trouble
/// takes this long.
const ANSWER_TIMEOUT_MS: u16 = 5_000;
/// How often to repeat a dump that the kernel marks as torn, because what it lists has changed
/// meanwhile.
const DUMP_TRIES: usize = 20;
/// The number of the message that begins a batch, before Linux 6.10. It is not acknowledged, and it is
/// refused where a process may not use nf_tables at all (nfnetlink_rcv_batch()).
const BEGIN_OF_BATCH: u32 = 0;
/// The kernel fills dumps up to 32 KiB at a time (netlink_dump(), net/netlink/af_netlink.c).
const RECEIVE_BUFFER: usize = 64 * 1024;
// linux/netlink.h; not in the libc crate.
const NETLINK_NO_ENOBUFS: libc::c_int = 5;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NETLINK_EXT_ACK: libc::c_int = 11;

/// A netlink socket that no other program inherits: a COMMAND that becomes a daemon with this socket
/// open would keep an owner table, and so the gate, alive.
///
/// The mnl crate carries it. Cargo.toml says what of that crate is not used here, and why.
pub(crate) struct Netlink {
    socket: mnl::Socket,
    /// Closed after `socket`, since fields are dropped in this order: see
    /// [`Netlink::close_in_background`].
    unreachable: Option<[OwnedFd; 2]>,
    seq: u32,
    buffer: Vec<u8>,
    /// Where in `buffer` a `struct nlmsghdr` may begin: the mnl crate asks for that alignment.
    aligned: usize,
}

impl Netlink {
    /// Opens a socket of a netlink family.
    ///
    /// # Errors
    /// EPROTONOSUPPORT where the kernel lacks the family.
    pub(crate) fn open(bus: Bus) -> io::Result<Netlink> {
        Netlink::open_on(bus, &[])
    }

    /// The same, and the socket receives what the kernel tells these multicast groups (1 to 32).
    ///
    /// # Errors
    /// As above; EPERM where a group needs a capability.
    pub(crate) fn open_on(bus: Bus, groups: &[u32]) -> io::Result<Netlink> {
        let socket = mnl::Socket::open(bus)?;
        let fd = sys::descriptor(&socket);
        // libmnl makes the socket without flags. No other thread runs meanwhile that could start a
        // process, which would inherit it.
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Both only make refusals easier to read; a kernel without them (before 4.12) works too.
        let _ = sys::netlink_option_on(fd, NETLINK_EXT_ACK);
        let _ = sys::netlink_option_on(fd, NETLINK_CAP_ACK);
        let groups = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        socket.bind(groups, mnl::mnl_sys::MNL_SOCKET_AUTOPID)?;
        let buffer = vec![0; RECEIVE_BUFFER + align_of::<libc::nlmsghdr>()];
        Ok(Netlink {
            aligned: buffer.as_ptr().align_offset(align_of::<libc::nlmsghdr>()),
            socket,
            unreachable: None,
            seq: 0,
            buffer,
        })
    }

    /// Makes room for a request of `bytes`. The kernel doubles the figure, because it counts the
    /// overhead of an skb as well.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN.
    pub(crate) fn reserve_send_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(setsockopt(self, sockopt::SndBufForce, &bytes)?)
    }

    /// Makes room for `bytes` of messages that the kernel sends unasked. The kernel doubles the figure.
    /// Without the host's CAP_NET_ADMIN it grants net.core.rmem_max at most.
    pub(crate) fn reserve_receive_buffer(&self, bytes: usize) {
        if setsockopt(self, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(self, sockopt::RcvBuf, &bytes);
        }
    }

    /// Asks the kernel not to report messages that found no room in the receive buffer: the caller
    /// counts them elsewhere.
    pub(crate) fn lose_quietly(&self) {
        let _ = sys::netlink_option_on(self.as_fd(), NETLINK_NO_ENOBUFS);
    }

    /// Has the kernel note when packets come in, on the whole host, for as long as this socket is there
    /// (sock_enable_timestamp()).
    pub(crate) fn have_packets_timed(&self) {
        let _ = setsockopt(self, sockopt::ReceiveTimestamp, &true);
    }

    /// Sends requests that the kernel answers only if it refuses them. [`Netlink::each_waiting`] reads
    /// those answers.
    ///
    /// # Errors
    /// What sendto(2) says.
    pub(crate) fn tell(&self, requests: &[u8]) -> Result<(), Refusal> {
        self.send(&[IoSlice::new(requests)])
    }

    /// Reads at most `most` datagrams that have arrived, without waiting, and calls `each` with each
    /// message. Returns the number of datagrams.
    ///
    /// # Errors
    /// What recvmsg(2) says.
    pub(crate) fn each_waiting(
        &mut self,
        most: usize,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<usize, Refusal> {
        for n in 0..most {
            match self.receive() {
                Ok(length) => messages(self.received(length))
                    .flatten()
                    .for_each(&mut each),
                Err(Errno::EAGAIN) => return Ok(n),
                Err(Errno::EINTR) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(most)
    }

    /// Sends `pages` as one datagram, which the kernel takes or refuses as a whole, and reads the
    /// acknowledgements of all `seqs`.
    ///
    /// # Errors
    /// The first refusal. The others are read too, so that the socket stays in step: after an error
    /// nf_tables goes on with the batch and answers each message.
    pub(crate) fn transact(&mut self, pages: &[IoSlice], seqs: Range<u32>) -> Result<(), Refusal> {
        self.forget_late_answers();
        self.send(pages)?;
        let mut unanswered = seqs.len();
        let mut refused: Option<Refusal> = None;
        while unanswered > 0 {
            // After a refusal the kernel need not answer each message: take what is there.
            let timeout_ms = if refused.is_some() {
                0
            } else {
                ANSWER_TIMEOUT_MS
            };
            let Some(length) = self.receive_within(timeout_ms)? else {
                break;
            };
            for message in messages(self.received(length)) {
                let Some(ack) = message.map_err(|_| Errno::EBADMSG)?.ack() else {
                    continue;
                };
                let answers_ours = seqs.contains(&ack.seq);
                unanswered -= usize::from(answers_ours);
                if answers_ours || ack.seq == BEGIN_OF_BATCH {
                    refused = refused.or(ack.refusal);
                }
            }
        }
        match refused {
            Some(refusal) => Err(refusal),
            None if unanswered > 0 => Err(Errno::ETIMEDOUT.into()),
            None => Ok(()),
        }
    }

    /// Sends one request and calls `each` with every message of the answer, up to its end (a dump's
    /// NLMSG_DONE, or the acknowledgement of a request that asked for one).
    ///
    /// # Errors
    /// What the kernel refuses with; EINTR if the data changed while the kernel dumped it (try again).
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Refusal> {
        self.seq += 1;
        let seq = self.seq;
        let request = message_bytes(kind, flags | libc::NLM_F_REQUEST as u16, seq, body);
        self.send(&[IoSlice::new(&request)])?;
        let mut torn = false;
        loop {
            let Some(length) = self.receive_within(ANSWER_TIMEOUT_MS)? else {
                return Err(Errno::ETIMEDOUT.into());
            };
            for message in messages(self.received(length)) {
                let message = message.map_err(|_| Errno::EBADMSG)?;
                if message.seq != seq {
                    continue; // The late answer to a request that was given up.
                }
                torn |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                if let Some(ack) = message.ack() {
                    return match ack.refusal {
                        Some(refusal) => Err(refusal),
                        None if torn => Err(Errno::EINTR.into()),
                        None => Ok(()),
                    };
                }
                each(message.kind, message.payload);
            }
        }
    }

    /// Dumps rows, and repeats that until nothing has changed meanwhile.
    ///
    /// # Errors
    /// What the kernel refuses with; EINTR if every dump was torn.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        read: impl Fn(&[u8]) -> Vec<T>,
    ) -> Result<Vec<T>, Refusal> {
        let mut tries = 0;
        loop {
            let mut rows = Vec::new();
            let dumped = self.request(kind, libc::NLM_F_DUMP as u16, body, |_, row| {
                rows.extend(read(row));
            });
            match dumped {
                Err(refusal) if refusal.errno == Errno::EINTR && tries < DUMP_TRIES => tries += 1,
                Err(refusal) => return Err(refusal),
                Ok(()) => return Ok(rows),
            }
        }
    }

    /// Lets a thread of the kernel's do the waiting when this socket is closed: what was removed from
    /// nf_tables is freed some 20 ms later (nft_rcv_nl_event(), net/netfilter/nf_tables_api.c).
    ///
    /// A message to a socket that no process can reach may be the only holder of a file. The kernel's collector of
    /// such sockets closes the file. It has a thread of its own since Linux 6.10 (net/unix/garbage.c). On older
    /// kernels closing waits as ever.
    ///
    /// Only for the last socket by which a process makes tables. The kernel gives its port id (the process's) to the
    /// next socket before it destroys what belongs to that id. So it would destroy the table of the next socket, too
    /// (seen on Linux 6.18; netlink_release(), net/netlink/af_netlink.c).
    ///
    /// # Errors
    /// What socketpair(2) and sendmsg(2) say; then closing waits as ever.
    pub(crate) fn close_in_background(&mut self) -> io::Result<()> {
        let unix = AddressFamily::Unix;
        let (from, to) = socketpair(unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        // A socket that waits in its own queue can be reached from there alone, once it is closed here.
        let files = [self.socket.as_raw_fd(), to.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&files)];
        let (bytes, at_once) = ([IoSlice::new(b"f")], MsgFlags::MSG_DONTWAIT);
        sendmsg::<()>(from.as_raw_fd(), &bytes, &message, at_once, None)?;
        // The close of the last of them makes the collector look.
        self.unreachable = Some([to, from]);
        Ok(())
    }

    /// Throws away what has come in answer to a request that was given up: each transaction has the
    /// same numbers.
    fn forget_late_answers(&mut self) {
        while matches!(self.receive(), Ok(_) | Err(Errno::EINTR)) {}
    }

    fn send(&self, pages: &[IoSlice]) -> Result<(), Refusal> {
        let socket = self.socket.as_raw_fd();
        sendmsg::<()>(socket, pages, &[], MsgFlags::empty(), None)?;
        Ok(())
    }

    /// Reads one datagram, and waits for it so long. `None`: none came.
    fn receive_within(&mut self, timeout_ms: u16) -> Result<Option<usize>, Refusal> {
        loop {
            match self.receive() {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) if !self.readable(timeout_ms)? => return Ok(None),
                Err(Errno::EAGAIN) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn readable(&self, timeout_ms: u16) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::from(timeout_ms)) {
                Err(Errno::EINTR) => (),
                ready => return Ok(ready? > 0),
            }
        }
    }

    /// Reads one datagram without waiting. Returns its length for [`Netlink::received`].
    fn receive(&mut self) -> Result<usize, Errno> {
        let buffer = &mut self.buffer[self.aligned..];
        self.socket.recv_raw(buffer).map_err(errno)
    }

    fn received(&self, length: usize) -> &[u8] {
        &self.buffer[self.aligned..][..length]
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::descriptor(&self.socket)
    }
}

/// libmnl has errors of its own besides the kernel's, each with an errno.
fn errno(error: io::Error) -> Errno {
    Errno::try_from(error).unwrap_or(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_BUS: [Bus; 3] = [Bus::SockDiag, Bus::Netfilter, Bus::Route];

    #[test]
    fn closed_in_the_background_it_is_closed_soon() {
        let mut socket = Netlink::open(Bus::Netfilter).unwrap();
        let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino.to_string();
        // The last column (netlink_native_seq_show(), net/netlink/af_netlink.c).
        let is_open = || {
            let all = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
            all.lines()
                .any(|row| row.split_whitespace().next_back() == Some(&inode))
        };
        socket.close_in_background().unwrap();
        assert!(is_open(), "before it is dropped");
        drop(socket);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while is_open() {
            assert!(std::time::Instant::now() < end, "it stays open");
            std::thread::yield_now();
        }
    }

    #[test]
    fn no_program_inherits_a_socket_and_none_blocks() {
        for bus in EVERY_BUS {
            let socket = Netlink::open(bus).unwrap();
            let descriptor = fcntl(&socket, FcntlArg::F_GETFD).unwrap();
            let file = fcntl(&socket, FcntlArg::F_GETFL).unwrap();
            assert_eq!(descriptor, FdFlag::FD_CLOEXEC.bits(), "{bus:?}");
            assert_ne!(file & OFlag::O_NONBLOCK.bits(), 0, "{bus:?}");
        }
    }

    /// A datagram that exceeds the send buffer is refused as a whole, though each page would fit.
    #[test]
    fn pages_are_one_datagram() {
        const PAGE: usize = 16 * 1024;
        let mut socket = Netlink::open(Bus::Route).unwrap();
        let room = nix::sys::socket::getsockopt(&socket, sockopt::SndBuf).unwrap();
        let page = message_bytes(libc::NLMSG_NOOP as u16, 0, 1, &[0; PAGE]);
        let pages = vec![IoSlice::new(&page); room / PAGE + 1];
        assert_eq!(socket.transact(&pages[..1], 0..0), Ok(()));
        let refused = socket.transact(&pages, 0..0).unwrap_err();
        assert_eq!((refused.errno, refused.answered), (Errno::EMSGSIZE, false));
    }

    /// Neither an answer that was given up nor one to another number is taken for an answer.
    #[test]
    fn answers_to_others_are_not_taken() {
        const ANSWERED: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let taken = |seq| message_bytes(libc::NLMSG_NOOP as u16, ANSWERED, seq, &[]);
        let refused = |seq| message_bytes(u16::MAX, ANSWERED, seq, &[]);
        let mut socket = Netlink::open(Bus::Route).unwrap();
        let mut transact = |late: Option<Vec<u8>>, requests: &[Vec<u8>]| {
            late.iter().for_each(|late| socket.tell(late).unwrap());
            let pages = requests.concat();
            socket.transact(&[IoSlice::new(&pages)], 1..2)
        };
        assert_eq!(transact(Some(refused(1)), &[taken(1)]), Ok(()));
        assert_eq!(transact(None, &[refused(2), taken(1)]), Ok(()));
        for requests in [&[refused(1)][..], &[refused(BEGIN_OF_BATCH), taken(1)]] {
            let refusal = transact(Some(taken(1)), requests).unwrap_err();
            assert!(refusal.answered, "{refusal}");
        }
    }

    /// Three requests on two pages: each is answered, in the order of the bytes.
    #[test]
    fn the_answers_to_all_pages_are_read() {
        let request = |seq| {
            let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
            message_bytes(libc::NLMSG_NOOP as u16, flags, seq, &[])
        };
        let pages = [[request(1), request(2)].concat(), request(3)];
        let pages: Vec<IoSlice> = pages.iter().map(|page| IoSlice::new(page)).collect();
        let mut socket = Netlink::open(Bus::Route).unwrap();
        assert_eq!(socket.transact(&pages, 1..4), Ok(()));
    }
}
