//! The kernel's connection tracking: where a client has sent its connection, who answers, and
//! forgetting a connection (linux/netfilter/nfnetlink_conntrack.h).

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::sockets::Connection;
use crate::kernel::netlink::{Bus, Netlink, Refusal, attribute, get, put_attribute};
use crate::words::ports::PortSet;

const IPCTNL_MSG_CT_GET: libc::c_int = 1;
const IPCTNL_MSG_CT_DELETE: libc::c_int = 2;
// The subsystem is in the upper byte.
const GET: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET) as u16;
const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE) as u16;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
/// Established, FIN_WAIT, CLOSE_WAIT, LAST_ACK (linux/netfilter/nf_conntrack_tcp.h): the kernel lets a
/// SYN with the same addresses and ports pass as a part of the connection (`tcp_conntracks`: sIG; or
/// sIV, if it saw the server send first). In later states such a SYN begins a new connection.
const OPEN: RangeInclusive<u8> = 3..=6;
/// Those, TIME_WAIT and CLOSE: all packets but such a SYN go where the connection went.
const BEGUN: RangeInclusive<u8> = 3..=8;
/// SYN_SENT, SYN_RECV, and SYN_SENT2 (both ends have sent a SYN).
const HANDSHAKE: [u8; 3] = [1, 2, 9];
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
pub(crate) const KEPT: Duration = Duration::from_secs(10);

pub(crate) struct Conntrack {
    socket: Netlink,
}

impl Conntrack {
    pub(crate) fn open() -> std::io::Result<Conntrack> {
        Ok(Conntrack {
            socket: Netlink::open(Bus::Netfilter)?,
        })
    }

    /// The port to which the client of a connection on this host has sent its SYN. `None`: the kernel
    /// does not track the connection.
    ///
    /// # Errors
    /// The kernel can't tell (EINVAL: it lacks nf_conntrack_netlink).
    pub(crate) fn first_sent_to(
        &mut self,
        connection: &Connection,
    ) -> Result<Option<u16>, Refusal> {
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

    /// How many connections from one of the ports `from` to the port `to` have had an answer. Not counted are those
    /// that have been over for longer than [`KEPT`].
    pub(crate) fn answered(&mut self, from: &PortSet, to: u16) -> Result<u32, Refusal> {
        let mut answered = 0;
        self.dump(|row| {
            let redirected = original_port(row).is_some_and(|port| from.contains(port))
                && answering_port(row) == Some(to);
            answered += u32::from(redirected && is_answered(row));
        })?;
        Ok(answered)
    }

    /// Old connections to one of these ports that a new one with the same addresses and ports may be taken for: the
    /// kernel lets its SYN, or its other packets, pass as a part of the old one.
    pub(crate) fn in_the_way(&mut self, ports: &PortSet) -> Result<Vec<Tracked>, Refusal> {
        self.found(|row| tracked(row, ports))
    }

    /// Makes the kernel forget the handshakes that NAT has sent to another address and that are not over: a SYN that the
    /// client sends again would go where the first one went. `is_meant`: of what the client has sent its SYN to. Returns
    /// how many there were.
    ///
    /// # Errors
    /// The kernel does not list them, or does not delete them.
    pub(crate) fn forget_handshakes(
        &mut self,
        is_meant: impl Fn(SocketAddr) -> bool,
    ) -> Result<usize, Refusal> {
        let names = self.found(|row| handshake(row, &is_meant))?;
        for name in &names {
            self.forget_named(name)?;
        }
        Ok(names.len())
    }

    fn found<T>(&mut self, found: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, Refusal> {
        let mut all = Vec::new();
        match self.dump(|row| all.extend(found(row))) {
            // A torn dump is enough: connections come and go all the time.
            Err(refusal) if refusal.errno == Errno::EINTR => Ok(all),
            dumped => dumped.map(|()| all),
        }
    }

    fn dump(&mut self, mut each: impl FnMut(&[u8])) -> Result<(), Refusal> {
        let any_family = [libc::AF_UNSPEC as u8, 0, 0, 0];
        let flags = libc::NLM_F_DUMP as u16;
        self.socket
            .request(GET, flags, &any_family, |_, row| each(row))
    }

    /// Makes the kernel forget the connection. That it already has is no error.
    pub(crate) fn forget(&mut self, tracked: &Tracked) -> Result<(), Refusal> {
        self.forget_named(&tracked.name)
    }

    fn forget_named(&mut self, name: &[u8]) -> Result<(), Refusal> {
        let ack = libc::NLM_F_ACK as u16;
        match self.socket.request(DELETE, ack, name, |_, _| {}) {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(()),
            forgotten => forgotten,
        }
    }
}

/// A connection to a service, as the kernel tracks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tracked {
    /// The address to which the client sends.
    pub(crate) service: SocketAddr,
    pub(crate) client: SocketAddr,
    /// Who answers: the service, or the socket to which a rule has sent the connection instead.
    pub(crate) server: SocketAddr,
    /// The attributes by which the kernel finds the connection.
    name: Vec<u8>,
}

impl Tracked {
    /// Whether it is over, if only the connections `alive` (this host's end, the client's) exist: while
    /// tracking is off, the kernel does not see a connection end. A client that talks to the service
    /// itself is not elsewhere.
    pub(crate) fn is_over(&self, alive: &HashSet<(SocketAddr, SocketAddr)>) -> bool {
        let at = |here| alive.contains(&(here, self.client));
        !at(self.server) || self.server != self.service && at(self.service)
    }
}

/// The row's connection, if it goes to one of these ports and matters to new ones.
fn tracked(row: &[u8], ports: &PortSet) -> Option<Tracked> {
    let body = row.get(4..)?;
    let original = attribute(body, CTA_TUPLE_ORIG)?;
    let (source, destination) = ends(original)?;
    let answer = ends(attribute(body, CTA_TUPLE_REPLY)?)?;
    // The original direction is that of the first packet that the kernel saw, perhaps the server's.
    let (client, service, server) = if ports.contains(destination.port()) {
        (source, destination, answer.0)
    } else {
        (destination, source, answer.1)
    };
    let same_client = [answer.0, answer.1].contains(&client);
    let which = match server == service {
        true => OPEN,
        false => BEGUN,
    };
    let state = tcp_state(body)?;
    if !same_client || !ports.contains(service.port()) || !which.contains(&state) {
        return None;
    }
    Some(Tracked {
        service,
        client,
        server,
        name: name(row, original)?,
    })
}

/// The name of the row's connection, if it is meant, NAT has sent it to another address or port, and its handshake is not
/// over.
fn handshake(row: &[u8], is_meant: impl Fn(SocketAddr) -> bool) -> Option<Vec<u8>> {
    let body = row.get(4..)?;
    let original = attribute(body, CTA_TUPLE_ORIG)?;
    let (_, service) = ends(original)?;
    let (server, _) = ends(attribute(body, CTA_TUPLE_REPLY)?)?;
    let is_one = server != service && HANDSHAKE.contains(&tcp_state(body)?) && is_meant(service);
    is_one.then(|| name(row, original))?
}

/// The attributes by which the kernel finds the connection. Without the first tuple it would take all connections to be
/// meant.
fn name(row: &[u8], original: &[u8]) -> Option<Vec<u8>> {
    let mut name = vec![*row.first()?, 0, 0, 0]; // struct nfgenmsg
    put_nested(&mut name, CTA_TUPLE_ORIG, original);
    for kind in [CTA_ID, CTA_ZONE] {
        if let Some(value) = attribute(row.get(4..)?, kind) {
            put_attribute(&mut name, kind, value);
        }
    }
    Some(name)
}

fn tcp_state(body: &[u8]) -> Option<u8> {
    let info = attribute(attribute(body, CTA_PROTOINFO)?, CTA_PROTOINFO_TCP)?;
    attribute(info, CTA_PROTOINFO_TCP_STATE)?.first().copied()
}

fn ends(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (ip, protocol) = (
        attribute(tuple, CTA_TUPLE_IP)?,
        attribute(tuple, CTA_TUPLE_PROTO)?,
    );
    let end = |v4, v6, port| {
        let v4 = attribute(ip, v4).and_then(|bytes| Some(IpAddr::from(get::<4>(bytes, 0)?)));
        let v6 = || attribute(ip, v6).and_then(|bytes| Some(IpAddr::from(get::<16>(bytes, 0)?)));
        Some(SocketAddr::new(v4.or_else(v6)?, port_of(protocol, port)?))
    };
    Some((
        end(CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)?,
        end(CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)?,
    ))
}

/// Names the connection by its reply tuple: this host knows what it answers with, but not what the
/// client has sent.
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

/// An IPv4 connection of an IPv6 socket becomes one of IPv4.
pub(crate) fn canonical(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

/// The destination port of the first packet.
fn original_port(row: &[u8]) -> Option<u16> {
    port(row, CTA_TUPLE_ORIG, CTA_PROTO_DST_PORT)
}

/// The source port of the answers.
fn answering_port(row: &[u8]) -> Option<u16> {
    port(row, CTA_TUPLE_REPLY, CTA_PROTO_SRC_PORT)
}

fn port(row: &[u8], tuple: u16, kind: u16) -> Option<u16> {
    let tuple = attribute(row.get(4..)?, tuple)?;
    port_of(attribute(tuple, CTA_TUPLE_PROTO)?, kind)
}

fn port_of(protocol: &[u8], kind: u16) -> Option<u16> {
    Some(u16::from_be_bytes(get(attribute(protocol, kind)?, 0)?))
}

fn is_answered(row: &[u8]) -> bool {
    let status = row.get(4..).and_then(|body| attribute(body, CTA_STATUS));
    let status = status.and_then(|status| get(status, 0));
    status.map_or(0, u32::from_be_bytes) & IPS_SEEN_REPLY != 0
}

/// What holds for any row: a port that is read is there.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    for port in [original_port(bytes), answering_port(bytes)]
        .into_iter()
        .flatten()
    {
        assert!(bytes.windows(2).any(|part| part == port.to_be_bytes()));
    }
    is_answered(bytes);
    // Without a tuple in the name the kernel would forget all connections.
    let all = PortSet::from_ranges([1..=u16::MAX]);
    let names = [
        tracked(bytes, &all).map(|tracked| tracked.name),
        handshake(bytes, |_| true),
    ];
    assert!(names.iter().flatten().all(|name| name[0] == bytes[0]
        && attribute(&name[4..], CTA_TUPLE_ORIG).is_some_and(|tuple| ends(tuple).is_some())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(local: &str, peer: &str) -> Connection {
        Connection {
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            cookie: 1,
        }
    }

    /// The address and the port of the source, and those of the destination.
    fn tuple(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let (mut addresses, mut protocol, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        put_attribute(&mut addresses, 1, &from.0);
        put_attribute(&mut addresses, 2, &to.0);
        put_attribute(&mut protocol, 1, &[6]); // TCP
        put_attribute(&mut protocol, 2, &from.1.to_be_bytes());
        put_attribute(&mut protocol, 3, &to.1.to_be_bytes());
        put_nested(&mut tuple, 1, &addresses); // CTA_TUPLE_IP
        put_nested(&mut tuple, 2, &protocol); // CTA_TUPLE_PROTO
        tuple
    }

    /// The request of [`asks_by_what_the_host_answers_with`] where the lowest byte comes first.
    #[cfg(target_endian = "little")]
    const LITTLE_ENDIAN: [u8; 56] = [
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

    #[test]
    fn asks_by_what_the_host_answers_with() {
        let tuple = tuple(([10, 0, 0, 1], 8080), ([10, 0, 0, 2], 40_000));
        let mut expected = vec![2, 0, 0, 0]; // AF_INET
        put_nested(&mut expected, 2, &tuple); // CTA_TUPLE_REPLY
        #[cfg(target_endian = "little")]
        assert_eq!(expected, LITTLE_ENDIAN);
        let plain = connection("10.0.0.1:8080", "10.0.0.2:40000");
        assert_eq!(request(&plain), expected);
        let mapped = connection("[::ffff:10.0.0.1]:8080", "[::ffff:10.0.0.2]:40000");
        assert_eq!(request(&mapped), expected);
        let v6 = request(&connection("[::1]:8080", "[::1]:40000"));
        assert_eq!((v6[0], get(&v6, 4)), (10, Some(0x4c_u16.to_ne_bytes())));
    }

    /// As Linux 6.18 lists a connection to port 81 that was redirected to 8080, and has ended; in the byte order of
    /// this machine.
    fn redirected() -> Vec<u8> {
        let (client, host) = ([10, 79, 0, 23], [10, 79, 0, 100]);
        let mut row = vec![2, 0, 0, 0]; // struct nfgenmsg: AF_INET
        put_nested(&mut row, 1, &tuple((client, 49878), (host, 81))); // CTA_TUPLE_ORIG
        put_nested(&mut row, 2, &tuple((host, 8080), (client, 49878))); // CTA_TUPLE_REPLY
        put_attribute(&mut row, 3, &0x1ae_u32.to_be_bytes()); // CTA_STATUS
        put_attribute(&mut row, 8, &[0; 4]); // CTA_MARK
        put_attribute(&mut row, 12, &[0xf1, 0x3b, 3, 0x2d]); // CTA_ID
        let (mut state, mut of_tcp) = (Vec::new(), Vec::new());
        put_attribute(&mut state, 1, &[7]); // TIME_WAIT
        put_nested(&mut of_tcp, 1, &state); // CTA_PROTOINFO_TCP
        put_nested(&mut row, 4, &of_tcp); // CTA_PROTOINFO
        assert_eq!(row[REPLY_PORT..REPLY_PORT + 2], 8080_u16.to_be_bytes());
        assert_eq!((row.len(), row[STATE]), (148, 7));
        row
    }

    const REPLY_PORT: usize = 96;
    const STATE: usize = 144;

    fn ports(ports: &[u16]) -> PortSet {
        ports.iter().copied().collect()
    }

    #[test]
    fn what_was_redirected_is_named_to_the_kernel_as_it_named_it() {
        let row = redirected();
        let redirected = tracked(&row, &ports(&[80, 81])).unwrap();
        let ends = [redirected.client, redirected.service, redirected.server];
        let ends = ends.map(|end| end.to_string());
        assert_eq!(
            ends,
            ["10.79.0.23:49878", "10.79.0.100:81", "10.79.0.100:8080"]
        );
        // The family, the first tuple and the id: with less, all connections would be meant.
        let name = [&row[..56], &row[124..132]].concat();
        assert_eq!(redirected.name, name);
        assert_eq!(tracked(&row, &ports(&[80])), None);
    }

    #[test]
    fn what_a_syn_renews_is_not_in_the_way_unless_it_was_redirected() {
        let in_the_way = |state: u8, server: u16| {
            let mut row = redirected();
            row[STATE] = state;
            row[REPLY_PORT..REPLY_PORT + 2].copy_from_slice(&server.to_be_bytes());
            tracked(&row, &ports(&[81])).is_some()
        };
        let states = |server| (1..=9).filter(|state| in_the_way(*state, server)).collect();
        let (elsewhere, here): (Vec<u8>, Vec<u8>) = (states(8080), states(81));
        assert_eq!(elsewhere, [3, 4, 5, 6, 7, 8], "handshakes are let be");
        assert_eq!(here, [3, 4, 5, 6]);
    }

    #[test]
    fn a_handshake_is_meant_if_it_was_redirected_and_is_not_over() {
        let is_meant = |state: u8, server: u16, port: u16| {
            let mut row = redirected();
            row[STATE] = state;
            row[REPLY_PORT..REPLY_PORT + 2].copy_from_slice(&server.to_be_bytes());
            handshake(&row, |to| to.port() == port).is_some()
        };
        let states: Vec<u8> = (0..=10)
            .filter(|state| is_meant(*state, 8080, 81))
            .collect();
        assert_eq!(states, [1, 2, 9]);
        assert!(!is_meant(1, 81, 81), "no NAT");
        assert!(!is_meant(1, 8080, 80), "another port");
        let mut row = redirected();
        row[STATE] = 1;
        let name = tracked(&redirected(), &ports(&[81])).unwrap().name;
        assert_eq!(handshake(&row, |_| true), Some(name));
    }

    /// The first packet that the kernel saw was the server's.
    #[test]
    fn who_sends_first_makes_no_difference() {
        let mut row = redirected();
        row[STATE] = 3;
        row[REPLY_PORT..REPLY_PORT + 2].copy_from_slice(&81u16.to_be_bytes());
        let client_first = tracked(&row, &ports(&[81])).unwrap();
        let (original, reply) = (row[8..56].to_vec(), row[60..108].to_vec());
        row[8..56].copy_from_slice(&reply);
        row[60..108].copy_from_slice(&original);
        let server_first = tracked(&row, &ports(&[81])).unwrap();
        assert_eq!(server_first.client, client_first.client);
        assert_eq!(server_first.service, client_first.service);
        assert_eq!(server_first.server, client_first.server);
    }

    #[test]
    fn it_is_over_when_nobody_is_there_or_the_service_is() {
        let redirected = tracked(&redirected(), &ports(&[81])).unwrap();
        let Tracked {
            client,
            service,
            server,
            ..
        } = redirected;
        let direct = Tracked {
            server: service,
            ..redirected.clone()
        };
        let someone_else = SocketAddr::new(client.ip(), 1);
        for (alive, redirected_is_over, direct_is_over) in [
            (vec![], true, true),
            (vec![(server, client)], false, true),
            (vec![(service, client)], true, false),
            (vec![(server, client), (service, client)], true, false),
            (
                vec![(server, someone_else), (service, someone_else)],
                true,
                true,
            ),
        ] {
            let alive = alive.into_iter().collect();
            assert_eq!(redirected.is_over(&alive), redirected_is_over, "{alive:?}");
            assert_eq!(direct.is_over(&alive), direct_is_over, "{alive:?}");
        }
    }
}
