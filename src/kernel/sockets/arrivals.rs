//! SYNs that reach TCP. A raw socket gets a copy of each packet that the rules of the input hook have
//! let through (raw(7), `ip_protocol_deliver_rcu()`), whether or not somebody listens.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6,
    recv, recvmsg, setsockopt, socket, sockopt,
};

use crate::kernel::sys::attach_filter;
use crate::words::ports::PortSet;

/// The number of port ranges that fit into the filter. The kernel turns the program into one of eBPF, which must fit into
/// net.core.optmem_max: 20,480 bytes before Linux 6.7. Beyond that it lets all SYNs through, and the reader looks at their
/// ports.
const MAX_RANGES: usize = 500;
/// The longest headers of IPv4 and of TCP.
const LONGEST_HEADERS: usize = 60 + 60;
/// The number of packets that are read before other work gets its turn.
const AT_A_TIME: usize = 1_024;

// The header of TCP (RFC 9293).
const DESTINATION_AT: u32 = 2;
const FLAGS_AT: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;

/// A SYN that has passed all rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// SYNs to some ports of this network namespace.
#[derive(Debug)]
pub(crate) struct Arrivals {
    ports: PortSet,
    v4: OwnedFd,
    /// `None`: the kernel has no IPv6.
    v6: Option<OwnedFd>,
}

impl Arrivals {
    /// # Errors
    /// EPERM without CAP_NET_RAW over the network namespace.
    pub(crate) fn open(ports: &PortSet) -> io::Result<Arrivals> {
        let v4 = raw_socket(AddressFamily::Inet)?;
        watch(&v4, &filter(ports, true))?;
        let v6 = raw_socket(AddressFamily::Inet6).ok();
        if let Some(v6) = &v6 {
            setsockopt(v6, sockopt::Ipv6RecvPacketInfo, &true)?;
            watch(v6, &filter(ports, false))?;
        }
        let ports = ports.clone();
        Ok(Arrivals { ports, v4, v6 })
    }

    /// The SYNs that have come since the last call. If very many come at a time, some are lost.
    pub(crate) fn read(&self) -> Vec<Arrival> {
        let mut found = Vec::new();
        let mut buffer = [0; LONGEST_HEADERS];
        for _ in 0..AT_A_TIME {
            let Ok(length) = recv(self.v4.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) else {
                break;
            };
            found.extend(over_v4(&buffer[..length]));
        }
        let v6 = self.v6.iter();
        found.extend(v6.flat_map(|v6| (0..AT_A_TIME).map_while(|_| over_v6(v6)).flatten()));
        found.retain(|arrival| self.ports.contains(arrival.to.port()));
        found
    }
}

fn raw_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Raw, flags, SockProtocol::Tcp)?)
}

/// Attaches the filter, and drops the packets that came before it.
fn watch(socket: &OwnedFd, filter: &[libc::sock_filter]) -> io::Result<()> {
    attach_filter(socket.as_fd(), filter)?;
    let mut buffer = [0; 1];
    while recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    Ok(())
}

/// The program (linux/filter.h) that lets SYNs to these ports through. Over IPv4 it sees the packet from
/// the header of IP on, over IPv6 from the header of TCP on.
fn filter(ports: &PortSet, has_ip_header: bool) -> Vec<libc::sock_filter> {
    use libc::{
        BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP,
        BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET,
    };
    let jump = |code: u32, k: u32, jt: u8, jf: u8| {
        let code = code as u16;
        libc::sock_filter { code, jt, jf, k }
    };
    let plain = |code, k| jump(code, k, 0, 0);
    let all = ports.ranges();
    let any = [0..=u16::MAX];
    let ranges = if all.len() > MAX_RANGES { &any } else { all };
    let mut program = vec![
        match has_ip_header {
            true => plain(BPF_LDX | BPF_MSH | BPF_B, 0),
            false => plain(BPF_LDX | BPF_IMM, 0),
        },
        plain(BPF_LD | BPF_B | BPF_IND, FLAGS_AT),
        plain(BPF_ALU | BPF_AND | BPF_K, FIN_SYN_RST_ACK.into()),
        jump(BPF_JMP | BPF_JEQ | BPF_K, SYN.into(), 1, 0),
        plain(BPF_RET | BPF_K, 0),
        plain(BPF_LD | BPF_H | BPF_IND, DESTINATION_AT),
    ];
    for range in ranges {
        program.extend([
            jump(BPF_JMP | BPF_JGE | BPF_K, (*range.start()).into(), 0, 2),
            jump(BPF_JMP | BPF_JGT | BPF_K, (*range.end()).into(), 1, 0),
            plain(BPF_RET | BPF_K, LONGEST_HEADERS as u32),
        ]);
    }
    program.push(plain(BPF_RET | BPF_K, 0));
    program
}

/// A packet with its header of IPv4.
fn over_v4(packet: &[u8]) -> Option<Arrival> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    let address = |at| {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(bytes)))
    };
    let (from, to) = syn(packet.get(length..)?)?;
    Some(Arrival {
        from: (address(12)?, from).into(),
        to: (address(16)?, to).into(),
    })
}

/// `None`: nothing waits. `Some(None)`: a packet that is none of these SYNs.
fn over_v6(socket: &OwnedFd) -> Option<Option<Arrival>> {
    let mut buffer = [0; LONGEST_HEADERS];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
    let message = message.ok()?;
    let mut told = message.cmsgs().ok()?;
    let to = told.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let from = message.address.map(|address| address.ip());
    let length = message.bytes;
    let arrival = || {
        let (from_port, to_port) = syn(buffer.get(..length)?)?;
        Some(Arrival {
            from: (from?, from_port).into(),
            to: (to?, to_port).into(),
        })
    };
    Some(arrival())
}

/// The source and the destination port, if this is the header of a SYN.
fn syn(header: &[u8]) -> Option<(u16, u16)> {
    let flags = header.get(FLAGS_AT as usize)?;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    (flags & FIN_SYN_RST_ACK == SYN).then(|| (port(0), port(DESTINATION_AT as usize)))
}

/// Checks the properties of the parser for any packet.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(packet: &[u8]) {
    assert!(over_v4(packet).is_none_or(|arrival| arrival.to.is_ipv4()));
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// One is accepted, the other one refused: nobody listens there.
    #[test]
    fn syns_are_seen_with_a_listener_and_without() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(local).unwrap();
            let open = listener.local_addr().unwrap();
            let gone = TcpListener::bind(local).unwrap().local_addr().unwrap();
            let ports = PortSet::from_iter([open.port(), gone.port()]);
            let Ok(arrivals) = Arrivals::open(&ports) else {
                assert!(!nix::unistd::geteuid().is_root(), "root may watch");
                return;
            };
            let client = TcpStream::connect(open).unwrap();
            let other = TcpListener::bind(local).unwrap();
            TcpStream::connect(other.local_addr().unwrap()).unwrap();
            TcpStream::connect(gone).unwrap_err();
            let seen = arrivals.read();
            let to: Vec<SocketAddr> = seen.iter().map(|arrival| arrival.to).collect();
            assert_eq!(to, [open, gone]);
            assert_eq!(seen[0].from, client.local_addr().unwrap());
            assert_eq!(arrivals.read(), []);
        }
    }

    #[test]
    fn the_kernel_takes_the_filter_for_any_ports() {
        for count in [0, MAX_RANGES, MAX_RANGES + 1] {
            let ports: PortSet = (1..).step_by(2).take(count).collect();
            assert_eq!(ports.ranges().len(), count);
            let program = filter(&ports, true);
            assert!(program.len() <= 4_096);
            if nix::unistd::geteuid().is_root() {
                Arrivals::open(&ports).unwrap();
            }
        }
    }

    #[test]
    fn what_is_no_syn_is_not_taken_for_one() {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[12..20].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
        packet[20..24].copy_from_slice(&[0, 9, 0, 80]);
        for (flags, taken) in [
            (0x02, true),
            (0xc2, true),
            (0x12, false),
            (0x10, false),
            (0, false),
        ] {
            packet[33] = flags;
            let arrival = over_v4(&packet);
            assert_eq!(arrival.is_some(), taken, "{flags:#x}");
            if let Some(Arrival { from, to }) = arrival {
                assert_eq!(
                    (from, to),
                    (([10, 0, 0, 2], 9).into(), ([10, 0, 0, 1], 80).into())
                );
            }
            (0..packet.len()).for_each(|length| withstand(&packet[..length]));
        }
    }
}
