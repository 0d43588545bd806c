//! Asks the kernel's connection tracking where a connection was first sent to
//! (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::Connection;
use crate::netlink::{Netlink, Refusal, attribute, get, put_attribute};
use crate::ports::PortSet;

const IPCTNL_MSG_CT_GET: libc::c_int = 1;
/// The subsystem in the upper byte.
const GET: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET) as u16;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
/// linux/netfilter/nf_conntrack_common.h
const IPS_SEEN_REPLY: u32 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// The shortest time for which the kernel keeps a connection that is over
/// (nf_conntrack_tcp_timeout_close).
pub const KEPT: Duration = Duration::from_secs(10);

/// A way to ask.
pub struct Conntrack {
    socket: Netlink,
}

impl Conntrack {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink.
    pub fn open() -> std::io::Result<Conntrack> {
        Ok(Conntrack {
            socket: Netlink::open(SockProtocol::NetlinkNetFilter)?,
        })
    }

    /// The port that the client of a connection of this host's has sent its SYN to; `None`: the
    /// connection is not tracked.
    ///
    /// # Errors
    /// The kernel can't tell (EINVAL: it lacks nf_conntrack_netlink).
    pub fn first_sent_to(&mut self, connection: &Connection) -> Result<Option<u16>, Refusal> {
        let body = request(connection);
        let mut port = None;
        let asked = self
            .socket
            .request(GET, libc::NLM_F_ACK as u16, &body, |_, row| {
                port = port.or(original_port(row));
            });
        match asked {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(None),
            asked => asked.map(|()| port),
        }
    }

    /// How many connections that were sent from one of the ports `from` to the port `to` have had an
    /// answer, of those that are not over for longer than [`KEPT`].
    ///
    /// # Errors
    /// As for [`Conntrack::first_sent_to`].
    pub fn answered(&mut self, from: &PortSet, to: u16) -> Result<u32, Refusal> {
        let mut answered = 0;
        let any_family = [libc::AF_UNSPEC as u8, 0, 0, 0];
        let flags = libc::NLM_F_DUMP as u16;
        self.socket.request(GET, flags, &any_family, |_, row| {
            let ours = original_port(row).is_some_and(|port| from.contains(port));
            let ours = ours && answering_port(row) == Some(to);
            answered += u32::from(ours && is_answered(row));
        })?;
        Ok(answered)
    }
}

/// By what this host answers with: that is known here, and is not what the client has sent.
fn request(Connection { local, peer, .. }: &Connection) -> Vec<u8> {
    let (local, peer) = (canonical(*local), canonical(*peer));
    let family = match local.ip() {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    let mut addresses = Vec::new();
    put_address(&mut addresses, [CTA_IP_V4_SRC, CTA_IP_V6_SRC], local.ip());
    put_address(&mut addresses, [CTA_IP_V4_DST, CTA_IP_V6_DST], peer.ip());
    let mut protocol = Vec::new();
    put_attribute(&mut protocol, CTA_PROTO_NUM, &[libc::IPPROTO_TCP as u8]);
    let ports = [(CTA_PROTO_SRC_PORT, local), (CTA_PROTO_DST_PORT, peer)];
    for (kind, end) in ports {
        put_attribute(&mut protocol, kind, &end.port().to_be_bytes());
    }
    let mut tuple = Vec::new();
    put_nested(&mut tuple, CTA_TUPLE_IP, &addresses);
    put_nested(&mut tuple, CTA_TUPLE_PROTO, &protocol);
    let mut body = vec![family as u8, 0, 0, 0]; // struct nfgenmsg
    put_nested(&mut body, CTA_TUPLE_REPLY, &tuple);
    body
}

fn put_nested(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_attribute(bytes, kind | libc::NLA_F_NESTED as u16, value);
}

fn put_address(bytes: &mut Vec<u8>, [v4, v6]: [u16; 2], address: IpAddr) {
    match address {
        IpAddr::V4(address) => put_attribute(bytes, v4, &address.octets()),
        IpAddr::V6(address) => put_attribute(bytes, v6, &address.octets()),
    }
}

/// An IPv4 connection of an IPv6 socket is one of IPv4.
fn canonical(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

/// The destination port of the first packet.
fn original_port(row: &[u8]) -> Option<u16> {
    port(row, CTA_TUPLE_ORIG, CTA_PROTO_DST_PORT)
}

/// The source port of what answers it.
fn answering_port(row: &[u8]) -> Option<u16> {
    port(row, CTA_TUPLE_REPLY, CTA_PROTO_SRC_PORT)
}

fn port(row: &[u8], tuple: u16, kind: u16) -> Option<u16> {
    let tuple = attribute(row.get(4..)?, tuple)?;
    let protocol = attribute(tuple, CTA_TUPLE_PROTO)?;
    let port = attribute(protocol, kind)?;
    Some(u16::from_be_bytes(get(port, 0)?))
}

fn is_answered(row: &[u8]) -> bool {
    let status = row.get(4..).and_then(|body| attribute(body, CTA_STATUS));
    let status = status.and_then(|status| get(status, 0));
    status.map_or(0, u32::from_be_bytes) & IPS_SEEN_REPLY != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn connection(local: &str, peer: &str) -> Connection {
        Connection {
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            cookie: 1,
        }
    }

    #[test]
    fn asks_by_what_the_host_answers_with() {
        let expected = [
            2, 0, 0, 0, // AF_INET
            0x34, 0, 2, 0x80, // CTA_TUPLE_REPLY
            0x14, 0, 1, 0x80, // CTA_TUPLE_IP
            8, 0, 1, 0, 10, 0, 0, 1, // source
            8, 0, 2, 0, 10, 0, 0, 2, // destination
            0x1c, 0, 2, 0x80, // CTA_TUPLE_PROTO
            5, 0, 1, 0, 6, 0, 0, 0, // TCP
            6, 0, 2, 0, 0x1f, 0x90, 0, 0, // 8080
            6, 0, 3, 0, 0x9c, 0x40, 0, 0, // 40000
        ];
        let plain = connection("10.0.0.1:8080", "10.0.0.2:40000");
        assert_eq!(request(&plain), expected);
        let mapped = connection("[::ffff:10.0.0.1]:8080", "[::ffff:10.0.0.2]:40000");
        assert_eq!(request(&mapped), expected);
        let v6 = request(&connection("[::1]:8080", "[::1]:40000"));
        assert_eq!((v6[0], v6[4]), (10, 0x4c));
    }

    proptest! {
        #[test]
        fn hostile_replies_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            original_port(&bytes);
            answering_port(&bytes);
            is_answered(&bytes);
        }
    }
}
