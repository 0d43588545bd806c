//! The options of a listener that its connections inherit (sk_clone()). A connection that waits in a room
//! gets the room's, so the room gets the service's.

use std::os::fd::BorrowedFd;

use nix::libc;

use super::copy::{number, set_number};
use crate::kernel::sys::{set_socket_option, socket_option};

/// Level and name, of those whose value can be set as it was read. The order matters: what comes later
/// depends on what comes before. Not SO_BUSY_POLL_BUDGET, which can't be read.
const AS_THEY_ARE: [(libc::c_int, libc::c_int); 61] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
    (libc::SOL_SOCKET, libc::SO_TXTIME),
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    (libc::SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE),
    (libc::SOL_SOCKET, libc::SO_PEEK_OFF),
    (libc::SOL_SOCKET, libc::SO_TXREHASH),
    (libc::SOL_SOCKET, libc::SO_RCVMARK),
    (libc::SOL_SOCKET, SO_RCVPRIORITY),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_SAVE_SYN),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY),
    (libc::IPPROTO_TCP, libc::TCP_INQ),
    (libc::IPPROTO_TCP, TCP_TX_DELAY),
    (libc::IPPROTO_TCP, TCP_RTO_MAX_MS),
    (libc::IPPROTO_TCP, TCP_RTO_MIN_US),
    (libc::IPPROTO_TCP, TCP_DELACK_MAX_US),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_MINTTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
    // An address that the host lacks can be bound.
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    // What recvmsg(2) tells beside the data.
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, IP_RECVERR_RFC4884),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_RECVOPTS),
    (libc::IPPROTO_IP, libc::IP_RETOPTS),
    (libc::IPPROTO_IP, libc::IP_PASSSEC),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    (libc::IPPROTO_IP, libc::IP_CHECKSUM),
];
/// The same, of an IPv6 socket alone.
const AS_THEY_ARE_V6: [(libc::c_int, libc::c_int); 22] = [
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    (libc::IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL),
    (libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO_SEND),
    (libc::IPPROTO_IPV6, libc::IPV6_ADDR_PREFERENCES),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    (libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, IPV6_RECVERR_RFC4884),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVRTHDR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPOPTS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVDSTOPTS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPATHMTU),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVFRAGSIZE),
];
/// The longest value among them: two keys of TCP_FASTOPEN_KEY (linux/tcp.h).
const LONGEST: usize = 32;
// asm-generic/socket.h, linux/tcp.h, linux/in.h and linux/in6.h, which the libc crate does not have everywhere.
const SO_RCVPRIORITY: libc::c_int = 82;
const TCP_TX_DELAY: libc::c_int = 37;
const TCP_RTO_MAX_MS: libc::c_int = 44;
const TCP_RTO_MIN_US: libc::c_int = 45;
const TCP_DELACK_MAX_US: libc::c_int = 46;
const IP_RECVERR_RFC4884: libc::c_int = 26;
const IPV6_RECVERR_RFC4884: libc::c_int = 31;
/// SO_BUF_LOCK: which buffer sizes were set (asm-generic/socket.h; Linux 5.15).
const SOCK_SNDBUF_LOCK: i32 = 1;
const SOCK_RCVBUF_LOCK: i32 = 2;

/// Copies what can be copied: an option that a kernel lacks makes no difference there.
pub(super) fn inherit(from: BorrowedFd, to: BorrowedFd, v6: bool) {
    let v6 = AS_THEY_ARE_V6.iter().filter(|_| v6);
    for (level, name) in AS_THEY_ARE.iter().chain(v6) {
        let (level, name) = (*level, *name);
        let value = |socket| socket_option(socket, level, name, LONGEST).ok();
        let (wanted, present) = (value(from), value(to));
        if let Some(wanted) = wanted.filter(|wanted| Some(wanted) != present.as_ref()) {
            let _ = set_socket_option(to, level, name, &wanted);
        }
    }
    inherit_segment_size(from, to);
    inherit_buffers(from, to);
}

/// TCP_MAXSEG reads as the size in use where none was set, and can't be set to that everywhere.
fn inherit_segment_size(from: BorrowedFd, to: BorrowedFd) {
    let size = |socket: &BorrowedFd| number(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG).ok();
    let theirs = size(&from);
    if let Some(wanted) = theirs.filter(|_| theirs != size(&to)) {
        let _ = set_number(&to, libc::IPPROTO_TCP, libc::TCP_MAXSEG, wanted);
    }
}

/// A buffer whose size was not set grows as needed (tcp(7)), and one whose size was set does not.
fn inherit_buffers(from: BorrowedFd, to: BorrowedFd) {
    let set = number(&from, libc::SOL_SOCKET, libc::SO_BUF_LOCK).unwrap_or(0);
    for (lock, read, force) in [
        (SOCK_SNDBUF_LOCK, libc::SO_SNDBUF, libc::SO_SNDBUFFORCE),
        (SOCK_RCVBUF_LOCK, libc::SO_RCVBUF, libc::SO_RCVBUFFORCE),
    ] {
        let size = number(&from, libc::SOL_SOCKET, read).ok();
        if let Some(size) = size.filter(|_| set & lock != 0) {
            // The kernel doubles what it is told (socket(7)).
            let _ = set_number(&to, libc::SOL_SOCKET, force, size / 2);
        }
    }
}
