//! A netlink socket, and the wire format that all netlink families share: messages, attributes,
//! acknowledgements (linux/netlink.h). nf_tables and sock_diag are spoken over it.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendmsg,
    setsockopt, socket, socketpair, sockopt,
};

/// How long an answer of the kernel is waited for. The kernel answers within the request's own
/// system call, so this is met only by a kernel in trouble.
const ANSWER_TIMEOUT_MS: u16 = 5_000;
/// A dump is torn when anybody changes meanwhile what it tells: how often to try again.
const DUMP_TRIES: usize = 20;
/// The kernel fills dumps up to 32 KiB at a time (netlink_dump(), net/netlink/af_netlink.c).
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// linux/netlink.h; not in the libc crate.
const NETLINK_CAP_ACK: libc::c_int = 10;
const NETLINK_EXT_ACK: libc::c_int = 11;
const NETLINK_NO_ENOBUFS: libc::c_int = 5;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// An error that the kernel answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of error.
    pub errno: Errno,
    /// The kernel's own words, where it has some (NETLINK_EXT_ACK).
    pub text: Option<String>,
    /// Whether the kernel has answered so: then it has done nothing. Else nobody knows what it has done.
    pub answered: bool,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.errno.desc())?;
        match &self.text {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal {
            errno,
            text: None,
            answered: false,
        }
    }
}

/// A netlink socket that no other program inherits: a COMMAND that becomes a daemon with our
/// socket open would keep an owner table, and so the gate, alive.
pub struct Netlink {
    fd: OwnedFd,
    /// Closed after it: see [`Netlink::close_in_background`].
    unreachable: Option<[OwnedFd; 2]>,
    seq: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of a netlink family.
    ///
    /// # Errors
    /// EPROTONOSUPPORT where the kernel lacks the family.
    pub fn open(protocol: SockProtocol) -> io::Result<Netlink> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        // Both only make refusals easier to read; a kernel without them (before 4.12) works too.
        let _ = crate::kernel::sys::netlink_option_on(fd.as_fd(), NETLINK_EXT_ACK);
        let _ = crate::kernel::sys::netlink_option_on(fd.as_fd(), NETLINK_CAP_ACK);
        Ok(Netlink {
            fd,
            unreachable: None,
            seq: 0,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// Makes room for a request of `bytes` (the kernel doubles the figure; an skb's own overhead
    /// is counted against it).
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN.
    pub fn reserve_send_buffer(&self, bytes: usize) -> io::Result<()> {
        Ok(setsockopt(&self.fd, sockopt::SndBufForce, &bytes)?)
    }

    /// Makes room for `bytes` of messages that the kernel sends by itself (it doubles the figure);
    /// without the host's CAP_NET_ADMIN, up to net.core.rmem_max only.
    pub fn reserve_receive_buffer(&self, bytes: usize) {
        if setsockopt(&self.fd, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.fd, sockopt::RcvBuf, &bytes);
        }
    }

    /// What finds no room is lost without a word: whoever counts does so elsewhere.
    pub fn lose_quietly(&self) {
        let _ = crate::kernel::sys::netlink_option_on(self.fd.as_fd(), NETLINK_NO_ENOBUFS);
    }

    /// Sends requests that are answered only if they are refused: [`Netlink::each_waiting`] sees that.
    ///
    /// # Errors
    /// What sendmsg(2) says.
    pub fn tell(&self, requests: &[u8]) -> Result<(), Refusal> {
        self.send(&[IoSlice::new(requests)])
    }

    /// Calls `each` with the messages that are there, at most so many datagrams, without waiting.
    /// Tells how many there were.
    ///
    /// # Errors
    /// What recv(2) says.
    pub fn each_waiting(
        &mut self,
        most: usize,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<usize, Refusal> {
        for n in 0..most {
            let received = recv(
                self.fd.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            );
            match received {
                Ok(length) => messages(&self.buffer[..length])
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
    /// The first refusal. The rest has been read, so that the socket stays in step: nf_tables goes
    /// on reading a batch after an error and answers each message.
    pub fn transact(&mut self, pages: &[IoSlice], seqs: Range<u32>) -> Result<(), Refusal> {
        self.send(pages)?;
        let mut unanswered = seqs.len();
        let mut refused = None;
        // After a refusal not every message is answered: then take what is there.
        while unanswered > 0
            && self.readable(if refused.is_some() {
                0
            } else {
                ANSWER_TIMEOUT_MS
            })?
        {
            let received = self.receive()?;
            for message in messages(&self.buffer[..received]) {
                let Some(answer) = message.map_err(|_| Errno::EBADMSG)?.answer() else {
                    continue;
                };
                unanswered -= usize::from(seqs.contains(&answer.seq));
                // Who may not speak to nf_tables at all is told so under the number of the batch's
                // beginning, which is none of `seqs` before Linux 6.10.
                refused = refused.or(answer.refusal);
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
    /// What the kernel refuses with; EINTR if the data changed while it was dumped (try again).
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Refusal> {
        self.seq += 1;
        let request = message_bytes(kind, flags | libc::NLM_F_REQUEST as u16, self.seq, body);
        self.send(&[IoSlice::new(&request)])?;
        let mut torn = false;
        loop {
            if !self.readable(ANSWER_TIMEOUT_MS)? {
                return Err(Errno::ETIMEDOUT.into());
            }
            let received = self.receive()?;
            for message in messages(&self.buffer[..received]) {
                let message = message.map_err(|_| Errno::EBADMSG)?;
                if message.seq != self.seq {
                    continue; // the late answer to something given up
                }
                torn |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                if let Some(answer) = message.answer() {
                    return match answer.refusal {
                        Some(refusal) => Err(refusal),
                        None if torn => Err(Errno::EINTR.into()),
                        None => Ok(()),
                    };
                }
                each(message.kind, message.payload);
            }
        }
    }

    /// Dumps rows, again and again until nobody changes them meanwhile.
    ///
    /// # Errors
    /// What the kernel refuses with; EINTR if that never was so.
    pub fn dump<T>(
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

    /// From now on a thread of the kernel's does what is to be waited for when the socket is closed:
    /// for what was removed from nf_tables to be freed, some 20 ms later (nft_rcv_nl_event(),
    /// net/netfilter/nf_tables_api.c).
    ///
    /// A file that is held only by a message to a socket that nobody can reach is closed by the
    /// collector of such sockets, which has a thread of its own since Linux 6.10
    /// (net/unix/garbage.c). On older kernels it is as with any close().
    ///
    /// Only for the last socket that a process makes tables with: the kernel gives its port id (the
    /// process's) to the next one before it destroys what belongs to that id, and so would destroy
    /// the next one's table (seen on Linux 6.18; netlink_release(), net/netlink/af_netlink.c).
    ///
    /// # Errors
    /// What socketpair(2) and sendmsg(2) say; then it is as with any close().
    pub fn close_in_background(&mut self) -> io::Result<()> {
        let unix = AddressFamily::Unix;
        let (from, to) = socketpair(unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        // With itself in its own queue it can be reached from there alone, once we have closed it.
        let files = [self.fd.as_raw_fd(), to.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&files)];
        let (bytes, at_once) = ([IoSlice::new(b"f")], MsgFlags::MSG_DONTWAIT);
        sendmsg::<()>(from.as_raw_fd(), &bytes, &message, at_once, None)?;
        // Whoever is closed last makes the collector look.
        self.unreachable = Some([to, from]);
        Ok(())
    }

    fn send(&self, pages: &[IoSlice]) -> Result<(), Refusal> {
        sendmsg::<()>(self.fd.as_raw_fd(), pages, &[], MsgFlags::empty(), None)?;
        Ok(())
    }

    fn readable(&self, timeout_ms: u16) -> Result<bool, Refusal> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::from(timeout_ms)) {
                Err(Errno::EINTR) => (),
                ready => return Ok(ready? > 0),
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Refusal> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => (),
                received => return Ok(received?),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The bytes of one message.
pub fn message_bytes(kind: u16, flags: u16, seq: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend((((HEADER + body.len()) as u32).to_ne_bytes()).iter());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(seq.to_ne_bytes());
    bytes.extend([0; 4]); // the kernel fills in who sends
    bytes.extend(body);
    bytes
}

/// Appends an attribute: length, kind, value, padding to four bytes.
pub fn put_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message of a datagram that the kernel sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// The sequence number of the request that it answers.
    pub seq: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The end of an answer: an acknowledgement, a refusal, or the end of a dump.
struct Answer {
    seq: u32,
    refusal: Option<Refusal>,
}

impl Message<'_> {
    /// What the kernel refuses a request with.
    pub fn refusal(&self) -> Option<Refusal> {
        self.answer()?.refusal
    }

    fn answer(&self) -> Option<Answer> {
        let kind = i32::from(self.kind);
        if kind != libc::NLMSG_ERROR && kind != libc::NLMSG_DONE {
            return None;
        }
        // Both carry a negated errno, NLMSG_DONE since 4.x only.
        let code = get(self.payload, 0).map_or(0, i32::from_ne_bytes);
        let refusal = (code < 0).then(|| Refusal {
            answered: true,
            errno: Errno::from_raw(code.saturating_neg()),
            text: self.refusal_text(),
        });
        Some(Answer {
            seq: self.seq,
            refusal,
        })
    }

    /// NLMSGERR_ATTR_MSG behind the error code and the header (or the whole) of the request.
    fn refusal_text(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let request_length = get(self.payload, 4).map(u32::from_ne_bytes)? as usize;
        let skip = if self.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            request_length.checked_next_multiple_of(4)?
        };
        let rest = self.payload.get(4usize.checked_add(skip)?..)?;
        let (_, text) = attributes(rest).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
        let text = text.split(|b| *b == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// A datagram that is not made of whole netlink messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// The messages of one datagram.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let Some((message, rest)) = split_message(datagram) else {
            datagram = &[];
            return Some(Err(Malformed));
        };
        datagram = rest;
        Some(Ok(message))
    })
}

fn split_message(datagram: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32::from_ne_bytes(get(datagram, 0)?) as usize;
    let message = Message {
        kind: u16::from_ne_bytes(get(datagram, 4)?),
        flags: u16::from_ne_bytes(get(datagram, 6)?),
        seq: u32::from_ne_bytes(get(datagram, 8)?),
        payload: datagram.get(HEADER..length)?,
    };
    let next = length.checked_next_multiple_of(4)?;
    // The last message of a datagram need not be padded.
    Some((message, datagram.get(next..).unwrap_or_default()))
}

/// The attributes in `bytes`: kind without its flag bits, and value. Ends at the first one that is
/// cut short: what the kernel sends is whole.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(get(bytes, 0)?));
        let kind = u16::from_ne_bytes(get(bytes, 2)?) & libc::NLA_TYPE_MASK as u16;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(k, value)| (k == kind).then_some(value))
}

/// The `N` bytes at `at`, if there are so many.
pub fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// What holds for any datagram.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let mut rest = bytes.len();
    for message in messages(bytes) {
        let Ok(message) = message else {
            break;
        };
        let Message {
            kind,
            flags,
            seq,
            payload,
        } = message;
        rest = rest
            .checked_sub(HEADER + payload.len())
            .expect("they do not overlap");
        let same = message_bytes(kind, flags, seq, payload);
        assert_eq!(messages(&same).next(), Some(Ok(message)));
        if let Some(refusal) = message.refusal() {
            assert!(refusal.answered && !refusal.to_string().is_empty());
        }
        withstand_attributes(payload);
    }
    withstand_attributes(bytes);
}

#[cfg(any(fuzzing, test))]
fn withstand_attributes(bytes: &[u8]) {
    let mut written = Vec::new();
    for (kind, value) in attributes(bytes) {
        put_attribute(&mut written, kind, value);
        assert!(attribute(bytes, kind).is_some());
    }
    assert!(attributes(&written).eq(attributes(bytes)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A refusal as a 6.18 kernel sent it: NLMSG_ERROR, capped, with the kernel's own words.
    const REFUSAL: &[u8] = b"\x50\0\0\0\
        \x02\0\
        \x00\x03\
        \x06\0\0\0\
        \x13\x4e\0\0\
        \xea\xff\xff\xff\
        \x24\0\0\0\x18\0\x05\x04\x06\0\0\0\0\0\0\0\
        \x2b\0\x01\0Invalid prefix for given prefix length\0\0";
    // length; kind; NLM_F_CAPPED | NLM_F_ACK_TLVS; sequence number; port id; -EINVAL; the header of
    // the request; NLMSGERR_ATTR_MSG with its NUL and padding.

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let message = messages(REFUSAL).next().unwrap().unwrap();
        let answer = message.answer().unwrap();
        assert_eq!(answer.seq, 6);
        let refusal = answer.refusal.unwrap();
        assert_eq!(refusal.errno, Errno::EINVAL);
        assert_eq!(
            refusal.to_string(),
            "Invalid argument (Invalid prefix for given prefix length)"
        );
    }

    #[test]
    fn closed_in_the_background_it_is_closed_soon() {
        let mut socket = Netlink::open(SockProtocol::NetlinkNetFilter).unwrap();
        let inode = nix::sys::stat::fstat(&socket).unwrap().st_ino.to_string();
        // It is listed from its first message on.
        socket.tell(&message_bytes(0, 0, 1, &[])).unwrap();
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
    fn an_acknowledgement_is_an_error_of_zero() {
        let mut bytes = message_bytes(2, NLM_F_CAPPED, 7, &[0; 20]);
        bytes.extend(message_bytes(3, 2, 8, &[0; 4])); // NLMSG_DONE
        let answers: Vec<_> = messages(&bytes)
            .map(|m| m.unwrap().answer().unwrap())
            .map(|a| (a.seq, a.refusal))
            .collect();
        assert_eq!(answers, [(7, None), (8, None)]);
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        for length in 1..REFUSAL.len() {
            let all: Vec<_> = messages(&REFUSAL[..length]).collect();
            assert_eq!(all, [Err(Malformed)], "{length}");
        }
        let mut lies = REFUSAL.to_vec();
        lies[0] = 4; // shorter than a header
        assert_eq!(messages(&lies).next(), Some(Err(Malformed)));
    }

    #[test]
    fn attributes_as_written() {
        let mut bytes = Vec::new();
        put_attribute(&mut bytes, 1, b"abc");
        put_attribute(&mut bytes, 2, &[]);
        put_attribute(&mut bytes, 0x8003, b"nest"); // NLA_F_NESTED is not part of the kind
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(1, &b"abc"[..]), (2, &[]), (3, b"nest")]);
        assert_eq!(attribute(&bytes, 2), Some(&[][..]));
        assert_eq!(attribute(&bytes, 9), None);
    }

    proptest! {
        /// Valid frames around hostile contents: these get further.
        #[test]
        fn hostile_answers_never_panic(
            kind in 2u16..4,
            flags in any::<u16>(),
            body in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            withstand(&message_bytes(kind, flags, 1, &body));
        }
    }
}
