//! Asks the kernel for TCP sockets: NETLINK_SOCK_DIAG (linux/sock_diag.h, linux/inet_diag.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::libc;

use super::netns::{self, Netns, NoEntry};
use super::{
    Connection, Connections, Cookies, HalfOpen, Listener, Sample, SocketId, SynLimits, Want,
    holders,
};
use crate::kernel::netlink::{Bus, Netlink, attribute, get, put_attribute};
use crate::words::family::Family;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

/// Half-open connections are young up to this age: then the client's ACK may be under way. The
/// SYN-ACK is sent again after a second (RFC 6298, 2.1).
pub(crate) const YOUNG: Duration = Duration::from_millis(300);
const SYNACK_TIMEOUT_MS: u32 = 1_000;
/// Timers are rounded up to jiffies, of 10 ms at the most (CONFIG_HZ=100).
const LONGEST_JIFFY_MS: u32 = 10;
/// When data came in and went out at the same age, which was first can't be told: busy, up to this
/// age. The kernel counts these ages in jiffies of 1 to 10 ms.
const UNDECIDED_MS: u32 = 100;
/// The kernel is given this many ranges to filter by; above, one range that spans all, and the rest
/// is filtered here (a filter is at most 64 KiB, and the kernel checks it in quadratic time).
const MAX_FILTER_RANGES: usize = 64;

// linux/sock_diag.h, linux/inet_diag.h, include/net/tcp_states.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKV6ONLY: u16 = 11;
const BC_JMP: u8 = 1;
const BC_S_GE: u8 = 2;
const BC_S_LE: u8 = 3;
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// Something may still have to be delivered.
const UNFINISHED: [u8; 7] = [
    SYN_RECV,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    CLOSE_WAIT,
    LAST_ACK,
    CLOSING,
];

/// A look at the sockets on the watched ports, as often as needed.
pub(crate) struct Sockets {
    /// Where the listeners live; `None`: in our own network namespace, over `own`.
    netns: Option<Netns>,
    own: View,
    watched: Watched,
    /// Whether an IPv4, an IPv6 socket was ever seen to listen.
    families: (bool, bool),
    cookies_at_start: Option<u64>,
}

/// Which sockets are meant.
struct Watched {
    ports: PortSet,
    filter: Vec<u8>,
    /// Local addresses that are not in scope belong to somebody else.
    scope: Scope,
}

/// Sockets as one network namespace has them.
struct View {
    socket: Netlink,
    netns: u64,
}

impl Sockets {
    /// Those on the listeners' `ports`, at the addresses that `scope` reaches. Nothing is asked yet,
    /// but for the kernel's count of SYN cookies.
    ///
    /// # Errors
    /// The kernel has no sock_diag.
    pub(crate) fn new(ports: &PortSet, scope: &Scope) -> Result<Sockets> {
        Ok(Sockets {
            netns: None,
            own: View::open()?,
            watched: Watched {
                ports: ports.clone(),
                filter: port_filter(ports),
                scope: scope.clone(),
            },
            families: (false, false),
            cookies_at_start: syncookies_sent(),
        })
    }

    /// From now on, looks into that network namespace, of which all listeners are new.
    ///
    /// # Errors
    /// It can't be entered. It stays as it was.
    pub(crate) fn look_in(&mut self, netns: &Netns) -> Result<(), NoEntry> {
        let netns = netns.settled()?;
        self.cookies_at_start = netns.within(syncookies_sent)?;
        self.netns = Some(netns);
        Ok(())
    }

    /// Where the listeners live, if not in our own network namespace.
    pub(crate) fn netns(&self) -> Option<&Netns> {
        self.netns.as_ref()
    }

    /// Whether the listeners' network namespace has ever answered with SYN cookies.
    pub(crate) fn ever_sent_cookies(&self) -> bool {
        self.cookies_at_start.is_some_and(|sent| sent > 0)
    }

    /// Whether it has since [`Sockets::new`] or [`Sockets::look_in`].
    pub(crate) fn sent_cookies_meanwhile(&self) -> bool {
        let now = match &self.netns {
            None => syncookies_sent(),
            Some(netns) => netns.within(syncookies_sent).unwrap_or_default(),
        };
        now > self.cookies_at_start
    }

    /// How the listeners' network namespace keeps half-open connections.
    pub(crate) fn syn_limits(&self) -> SynLimits {
        match &self.netns {
            None => syn_limits(),
            Some(netns) => netns.within(syn_limits).unwrap_or(SYN_LIMITS),
        }
    }

    /// One look. The order matters: a connection moves from SYN_RECV to the accept queue (LISTEN)
    /// to the process, and one that is looked for in its next place first would be missed. A network
    /// namespace that is not there, because its container is just being replaced, has no sockets.
    ///
    /// # Errors
    /// The kernel refuses, or has no tcp_diag; the listeners' network namespace can't be entered.
    pub(crate) fn look(&mut self, want: Want) -> Result<Sample> {
        let (watched, families) = (&self.watched, self.families);
        let mut sample = match &self.netns {
            None => self.own.look(watched, families, want)?,
            // The socket lives and dies on the thread that is in the namespace.
            Some(netns) => match netns.within(|| View::open()?.look(watched, families, want)) {
                Ok(sample) => sample?,
                Err(NoEntry::Missing(_)) => return Ok(Sample::default()),
                Err(refused) => return Err(refused.into()),
            },
        };
        for listener in &sample.listeners {
            match listener.address {
                IpAddr::V4(_) => self.families.0 = true,
                IpAddr::V6(_) => self.families.1 = true,
            }
        }
        if want.half_open {
            sample.cookies_sent = self.sent_cookies_meanwhile();
        }
        if want.holders {
            let inodes: Vec<u32> = sample.listeners.iter().map(|l| l.inode).collect();
            sample.holders = holders::find(&inodes);
        }
        Ok(sample)
    }
}

impl Sockets {
    /// Half-open connections to the ports, of whatever age, in our own network namespace.
    ///
    /// # Errors
    /// As for [`Sockets::look`].
    pub(crate) fn half_open(&mut self) -> Result<Vec<Connection>> {
        self.connections(1 << SYN_RECV, |row| Some(row.connection()))
    }

    /// Connections to the ports that have not finished, in our own network namespace.
    ///
    /// # Errors
    /// As for [`Sockets::look`].
    pub(crate) fn unfinished(&mut self) -> Result<Vec<Connection>> {
        let states = UNFINISHED.iter().fold(0, |all, state| all | 1u32 << state);
        self.connections(states, |row| row.unfinished())
    }

    /// The same, and those that wait for what may never come: half-open ones, however old, and those
    /// that the service has closed. Not what is remembered in TIME_WAIT.
    ///
    /// # Errors
    /// As for [`Sockets::look`].
    pub(crate) fn connections_left(&mut self) -> Result<Vec<Connection>> {
        let states = UNFINISHED.iter().fold(0, |all, state| all | 1u32 << state);
        self.connections(states, |row| Some(row.connection()))
    }

    fn connections(
        &mut self,
        states: u32,
        which: impl Fn(&Row) -> Option<Connection>,
    ) -> Result<Vec<Connection>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.own.dump(&self.watched, family, states, 0, |row| {
                found.extend(which(row));
            })?;
        }
        Ok(found)
    }
}

impl Watched {
    fn means(&self, row: &Row) -> bool {
        self.ports.contains(row.port) && self.scope.reaches(row.address)
    }

    /// A wildcard of an IP version that is not gated is somebody else's as well.
    fn means_listener(&self, listener: &Listener) -> bool {
        let mut gated = Family::ALL.into_iter().filter(|f| self.scope.gates(*f));
        gated.any(|family| listener.serves(family))
    }
}

impl View {
    /// On the namespace that this thread is in; it stays on it.
    fn open() -> Result<View> {
        Ok(View {
            socket: Netlink::open(Bus::SockDiag)
                .context("the kernel's sock_diag is needed to see listeners")?,
            netns: netns::identity(),
        })
    }

    fn look(&mut self, watched: &Watched, families: (bool, bool), want: Want) -> Result<Sample> {
        let mut sample = Sample::default();
        if want.half_open || want.handshakes {
            self.count_connections(watched, families, want.connections, &mut sample)?;
        }
        sample.listeners = self.listeners(watched)?;
        Ok(sample)
    }

    fn listeners(&mut self, watched: &Watched) -> Result<Vec<Listener>> {
        let mut found = Vec::new();
        let netns = self.netns;
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(watched, family, 1 << LISTEN, 0, |row| {
                found.extend(row.listener(netns));
            })?;
        }
        found.retain(|listener| watched.means_listener(listener));
        Ok(found)
    }

    /// Half-open and, if wanted, other connections in one pass: with many connections on the host
    /// it is going through them all that takes time.
    fn count_connections(
        &mut self,
        watched: &Watched,
        (v4, v6): (bool, bool),
        all: bool,
        sample: &mut Sample,
    ) -> Result<()> {
        // CLOSE_WAIT: the client has sent all it will, and may still wait for its answer.
        let (states, extra) = if all {
            (
                1 << SYN_RECV | 1 << ESTABLISHED | 1 << CLOSE_WAIT,
                INET_DIAG_INFO,
            )
        } else {
            (1 << SYN_RECV, 0)
        };
        let (mut half_open, mut connections) = (HalfOpen::default(), Connections::default());
        let handshakes = &mut sample.handshakes;
        for (family, listened) in [(libc::AF_INET, v4), (libc::AF_INET6, v6)] {
            if !listened {
                continue; // what nobody ever listened for has no connections
            }
            self.dump(watched, family, states, extra, |row| {
                if row.state != SYN_RECV {
                    connections.established += 1;
                    connections.busy += u32::from(row.is_busy());
                    return;
                }
                let at = (row.address.to_canonical(), row.port);
                let here = handshakes.entry(at).or_default();
                for count in [here, &mut half_open] {
                    match row.is_young() {
                        true => count.young += 1,
                        false => count.stale += 1,
                    }
                }
            })?;
        }
        sample.half_open = half_open;
        sample.connections = all.then_some(connections);
        Ok(())
    }

    /// Calls `each` with every watched socket of that family in one of `states`.
    fn dump(
        &mut self,
        watched: &Watched,
        family: libc::c_int,
        states: u32,
        extra: u16,
        mut each: impl FnMut(&Row),
    ) -> Result<()> {
        let body = request(family as u8, states, extra, &watched.filter);
        let dump = libc::NLM_F_DUMP as u16;
        self.socket
            .request(SOCK_DIAG_BY_FAMILY, dump, &body, |_, payload| {
                if let Some(row) = Row::parse(payload)
                    && watched.means(&row)
                {
                    each(&row);
                }
            })
            .context("the kernel does not list its TCP sockets (is tcp_diag missing?)")
    }
}

/// `struct inet_diag_req_v2` and the filter.
fn request(family: u8, states: u32, extra: u16, filter: &[u8]) -> Vec<u8> {
    let extensions = if extra == 0 { 0 } else { 1u8 << (extra - 1) };
    let mut body = vec![family, libc::IPPROTO_TCP as u8, extensions, 0];
    body.extend(states.to_ne_bytes());
    body.resize(8 + 48, 0); // struct inet_diag_sockid: any
    put_attribute(&mut body, INET_DIAG_REQ_BYTECODE, filter);
    body
}

/// The kernel's filter program for "the source port is in one of the ranges". Each operation is
/// code, where to go if true (bytes), where to go if not; a comparison is followed by its operand.
/// Going just behind the end accepts, four bytes further rejects (inet_diag_bc_run()).
fn port_filter(ports: &PortSet) -> Vec<u8> {
    const COMPARISON: u16 = 8;
    const JUMP: u16 = 4;
    let all = ports.ranges();
    let spanning;
    let ranges = match (all.first(), all.last()) {
        (Some(first), Some(last)) if all.len() > MAX_FILTER_RANGES => {
            spanning = [*first.start()..=*last.end()];
            &spanning
        }
        _ => all,
    };
    let block = 2 * COMPARISON + JUMP;
    let end = block * ranges.len() as u16;
    let mut program = Vec::new();
    for (n, range) in ranges.iter().enumerate() {
        let here = block * n as u16;
        // Where the next range is tried; behind the last one that is the jump that accepts, so go
        // four bytes past it.
        let next = if here + block == end {
            end + JUMP
        } else {
            here + block
        };
        push_comparison(&mut program, BC_S_GE, next - here, *range.start());
        push_comparison(
            &mut program,
            BC_S_LE,
            next - here - COMPARISON,
            *range.end(),
        );
        push(
            &mut program,
            BC_JMP,
            JUMP as u8,
            end - here - 2 * COMPARISON,
        );
    }
    program
}

fn push(program: &mut Vec<u8>, code: u8, yes: u8, no: u16) {
    program.extend([code, yes]);
    program.extend(no.to_ne_bytes());
}

fn push_comparison(program: &mut Vec<u8>, code: u8, otherwise: u16, port: u16) {
    push(program, code, 8, otherwise);
    push(program, 0, 0, port);
}

/// What is read of a `struct inet_diag_msg` and its attributes.
struct Row<'a> {
    state: u8,
    retransmits: u8,
    port: u16,
    address: IpAddr,
    peer: SocketAddr,
    interface: u32,
    cookie: u64,
    expires_ms: u32,
    receive_queue: u32,
    send_queue: u32,
    inode: u32,
    attributes: &'a [u8],
}

/// The length of `struct inet_diag_msg`.
const ROW: usize = 72;

impl Row<'_> {
    fn parse(bytes: &[u8]) -> Option<Row<'_>> {
        let [family, state, _timer, retransmits] = get(bytes, 0)?;
        let word = |at| get(bytes, at).map(u32::from_ne_bytes);
        Some(Row {
            state,
            retransmits,
            port: u16::from_be_bytes(get(bytes, 4)?),
            address: address(family, bytes, 8)?,
            peer: SocketAddr::new(
                address(family, bytes, 24)?,
                u16::from_be_bytes(get(bytes, 6)?),
            ),
            interface: word(40)?,
            cookie: u64::from_ne_bytes(get(bytes, 44)?),
            expires_ms: word(52)?,
            receive_queue: word(56)?,
            send_queue: word(60)?,
            inode: word(68)?,
            attributes: bytes.get(ROW..)?,
        })
    }

    /// Of one that the process has closed, and that is waiting for the client's FIN only, nothing has
    /// to be delivered any more; a handshake that takes long is a scanner's.
    fn unfinished(&self) -> Option<Connection> {
        let finished = match self.state {
            FIN_WAIT2 => self.inode == 0,
            SYN_RECV => !self.is_young(),
            _ => false,
        };
        (!finished).then(|| self.connection())
    }

    fn connection(&self) -> Connection {
        Connection {
            local: SocketAddr::new(self.address, self.port),
            peer: self.peer,
            cookie: self.cookie,
        }
    }

    fn listener(&self, netns: u64) -> Option<Listener> {
        (self.state == LISTEN).then(|| Listener {
            address: self.address,
            port: self.port,
            v6only: attribute(self.attributes, INET_DIAG_SKV6ONLY).is_some_and(|v| v != [0]),
            interface: self.interface,
            id: SocketId {
                netns,
                cookie: self.cookie,
            },
            inode: self.inode,
            accept_queue: self.receive_queue,
            backlog: self.send_queue,
        })
    }

    /// The SYN-ACK was never sent again and is at most 300 ms old: its timer, of one second, has at
    /// least 700 ms to go. A longer one is that of TCP_DEFER_ACCEPT: the handshake is over, and the
    /// client says nothing (inet_csk_reqsk_queue_hash_add(), reqsk_timer_handler()).
    fn is_young(&self) -> bool {
        let oldest = SYNACK_TIMEOUT_MS - YOUNG.as_millis() as u32;
        let first_timer = oldest..=SYNACK_TIMEOUT_MS + LONGEST_JIFFY_MS;
        self.retransmits == 0 && first_timer.contains(&self.expires_ms)
    }

    /// In the middle of something: unread, unsent or unacknowledged data; or a request whose answer
    /// has not begun (`struct tcp_info`, linux/tcp.h: data_segs_in and data_segs_out since Linux
    /// 4.6, ages in ms).
    fn is_busy(&self) -> bool {
        // The client's FIN takes a place in the queue until it is read: often never.
        let unread =
            self.receive_queue - u32::from(self.state == CLOSE_WAIT).min(self.receive_queue);
        if unread > 0 || self.send_queue > 0 {
            return true;
        }
        let Some(info) = attribute(self.attributes, INET_DIAG_INFO) else {
            return false;
        };
        let word = |at| get(info, at).map(u32::from_ne_bytes);
        let (Some(since_sent), Some(since_received)) = (word(44), word(52)) else {
            return false;
        };
        let never_answered = matches!((word(152), word(156)), (Some(1..), Some(0)));
        never_answered
            || since_received < since_sent
            || (since_received == since_sent && since_received < UNDECIDED_MS)
    }
}

fn address(family: u8, bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(if i32::from(family) == libc::AF_INET {
        Ipv4Addr::from(get::<4>(bytes, at)?).into()
    } else {
        Ipv6Addr::from(get::<16>(bytes, at)?).into()
    })
}

/// The kernel's defaults, on a small host.
const SYN_LIMITS: SynLimits = SynLimits {
    cookies: Cookies::WhenFull,
    max_syn_backlog: 128,
};

/// Those of this thread's network namespace.
fn syn_limits() -> SynLimits {
    let value = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.trim().parse::<u32>().ok()
    };
    SynLimits {
        cookies: match value("tcp_syncookies") {
            Some(0) => Cookies::Never,
            Some(2) => Cookies::Always,
            _ => Cookies::WhenFull,
        },
        max_syn_backlog: value("tcp_max_syn_backlog").unwrap_or(SYN_LIMITS.max_syn_backlog),
    }
}

/// SYN cookies that this thread's network namespace has sent.
fn syncookies_sent() -> Option<u64> {
    netstat("SyncookiesSent")
}

/// A count of TCP in this thread's network namespace since that was made (a column of netstat;
/// /proc/net is that of the process).
pub(crate) fn netstat(name: &str) -> Option<u64> {
    netstat_value(
        &std::fs::read_to_string("/proc/thread-self/net/netstat").ok()?,
        name,
    )
}

fn netstat_value(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = names.split_whitespace().position(|n| n == name)?;
    values.split_whitespace().nth(column)?.parse().ok()
}

/// What holds for any row.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let Some(row) = Row::parse(bytes) else {
        assert!(bytes.len() < ROW);
        return;
    };
    assert_eq!(row.attributes.len(), bytes.len() - ROW);
    let listener = row.listener(1);
    assert_eq!(listener.is_some(), row.state == LISTEN);
    assert!(listener.is_none_or(|l| (l.address, l.port) == (row.address, row.port)));
    assert_eq!(row.connection().peer, row.peer);
    let _ = (row.is_young(), row.is_busy(), row.unfinished());
}

/// What holds for any text as netstat's.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand_netstat(text: &str) {
    let _ = netstat_value(text, "SyncookiesSent");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A listener on [::1]:80 as a 6.18 kernel listed it.
    const LISTENER: &[u8] = &[
        10, 10, 0, 0, // AF_INET6, LISTEN, no timer, no retransmits
        0, 80, 0, 0, // source and destination port, big-endian
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // source: ::1
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // destination: ::
        0, 0, 0, 0, // interface
        57, 0, 0, 0, 0, 0, 0, 0, // cookie
        0, 0, 0, 0, // expires
        3, 0, 0, 0, // accept queue
        7, 0, 0, 0, // backlog
        0, 0, 0, 0, // uid
        0xeb, 0x55, 0, 0, // inode: 21995
        5, 0, 8, 0, 0, 0, 0, 0, // INET_DIAG_SHUTDOWN
        5, 0, 11, 0, 1, 0, 0, 0, // INET_DIAG_SKV6ONLY: yes
        8, 0, 15, 0, 0, 0, 0, 0, // INET_DIAG_MARK
    ];

    #[test]
    fn reads_a_listener() {
        let listener = Row::parse(LISTENER).unwrap().listener(3).unwrap();
        assert_eq!(
            listener,
            Listener {
                address: "::1".parse().unwrap(),
                port: 80,
                v6only: true,
                interface: 0,
                id: SocketId {
                    netns: 3,
                    cookie: 57,
                },
                inode: 21995,
                accept_queue: 3,
                backlog: 7,
            }
        );
    }

    fn half_open(retransmits: u8, expires_ms: u32) -> bool {
        let mut bytes = LISTENER.to_vec();
        bytes[1] = SYN_RECV;
        bytes[3] = retransmits;
        bytes[52..56].copy_from_slice(&expires_ms.to_ne_bytes());
        let row = Row::parse(&bytes).unwrap();
        assert_eq!(row.listener(1), None);
        row.is_young()
    }

    #[test]
    fn young_is_up_to_300_ms_and_never_sent_again() {
        assert!(half_open(0, 1_000));
        assert!(half_open(0, 700));
        assert!(!half_open(0, 699));
        assert!(!half_open(0, 0));
        assert!(!half_open(1, 1_900));
        assert!(!half_open(1, 900));
        assert!(!half_open(0, 1_900), "TCP_DEFER_ACCEPT");
        assert!(half_open(0, 1_004), "rounded up");
    }

    /// An established connection with queues, the ages of its last data in ms, and how many
    /// segments of data came in and went out.
    fn busy(queues: [u32; 2], ages: [u32; 2], segments: [u32; 2]) -> bool {
        busy_in(ESTABLISHED, queues, ages, segments)
    }

    fn busy_in(
        state: u8,
        [unread, unsent]: [u32; 2],
        [since_sent, since_received]: [u32; 2],
        [segments_in, segments_out]: [u32; 2],
    ) -> bool {
        let mut bytes = LISTENER[..ROW].to_vec();
        bytes[1] = state;
        bytes[56..60].copy_from_slice(&unread.to_ne_bytes());
        bytes[60..64].copy_from_slice(&unsent.to_ne_bytes());
        let mut info = vec![0; 160];
        info[44..48].copy_from_slice(&since_sent.to_ne_bytes());
        info[52..56].copy_from_slice(&since_received.to_ne_bytes());
        info[152..156].copy_from_slice(&segments_in.to_ne_bytes());
        info[156..160].copy_from_slice(&segments_out.to_ne_bytes());
        put_attribute(&mut bytes, INET_DIAG_INFO, &info);
        Row::parse(&bytes).unwrap().is_busy()
    }

    #[test]
    fn busy_is_in_the_middle_of_something() {
        const IDLE: [u32; 2] = [0, 0];
        assert!(busy([1, 0], [0, 5_000], [3, 3]), "a request to read");
        assert!(
            busy([0, 1], [0, 5_000], [3, 3]),
            "an answer that is not through"
        );
        assert!(
            busy(IDLE, [5_000, 40], [3, 3]),
            "a request without an answer"
        );
        assert!(
            busy(IDLE, [400, 400], [1, 0]),
            "the first one, as quick as the handshake"
        );
        assert!(busy(IDLE, [50, 50], [3, 3]), "which was first?");
        assert!(
            !busy(IDLE, [100, 100], [3, 3]),
            "an old connection that says nothing"
        );
        assert!(
            !busy(IDLE, [400, 400], [0, 0]),
            "one that has never said anything"
        );
        assert!(!busy(IDLE, [40, 5_000], [3, 3]), "an idle keep-alive");
        assert!(busy_in(CLOSE_WAIT, [2, 0], [40, 5_000], [3, 3]));
        assert!(
            !busy_in(CLOSE_WAIT, [1, 0], [40, 5_000], [3, 3]),
            "an unread FIN"
        );
    }

    #[test]
    fn reads_the_cookie_count() {
        let netstat = "TcpExt: A SyncookiesSent B\nTcpExt: 1 42 3\nIpExt: C\nIpExt: 9\n";
        assert_eq!(netstat_value(netstat, "SyncookiesSent"), Some(42));
        assert_eq!(netstat_value(netstat, "C"), None);
        assert_eq!(netstat_value("", "SyncookiesSent"), None);
        assert!(syncookies_sent().is_some(), "this kernel counts them");
    }

    /// Runs a filter program as the kernel does (inet_diag_bc_run(), net/ipv4/inet_diag.c).
    fn runs(program: &[u8], port: u16) -> bool {
        let (mut at, end) = (0usize, program.len());
        while at < end {
            let [code, yes, ..] = get::<4>(program, at).unwrap();
            let no = u16::from_ne_bytes(get(program, at + 2).unwrap());
            let operand = || u16::from_ne_bytes(get(program, at + 6).unwrap());
            let holds = match code {
                BC_JMP => false,
                BC_S_GE => port >= operand(),
                BC_S_LE => port <= operand(),
                other => panic!("operation {other}"),
            };
            at += if holds {
                usize::from(yes)
            } else {
                usize::from(no)
            };
        }
        at == end
    }

    proptest! {
        #[test]
        fn the_filter_takes_the_gated_ports(
            items in prop::collection::vec((1u16..50, 0u16..5), 1..10),
        ) {
            let ports = PortSet::from_ranges(items.into_iter().map(|(p, n)| p..=p + n));
            let program = port_filter(&ports);
            for port in 0..60 {
                prop_assert_eq!(runs(&program, port), ports.contains(port), "{} of {}", port, &ports);
            }
        }
    }

    #[test]
    fn too_many_ranges_become_one() {
        let odd: PortSet = (1..=501).step_by(2).collect();
        let program = port_filter(&odd);
        assert!(runs(&program, 1) && runs(&program, 2) && runs(&program, 501));
        assert!(!runs(&program, 502));
    }

    #[test]
    fn the_kernel_takes_the_filter() {
        // The kernel refuses programs that it can't verify: 64 ranges are fine.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let many: PortSet = (1..=125).step_by(2).chain([port]).collect();
        let mut sockets = Sockets::new(&many, &Scope::default()).unwrap();
        let want = Want {
            half_open: true,
            handshakes: true,
            connections: true,
            holders: true,
        };
        let sample = sockets.look(want).unwrap();
        let found = sample.listeners.iter().find(|l| l.port == port).unwrap();
        assert_eq!(found.address, "127.0.0.1".parse::<IpAddr>().unwrap());
        assert!(sample.holders.contains_key(&(std::process::id() as i32)));
    }
}
