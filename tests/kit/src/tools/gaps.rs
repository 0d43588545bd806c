//! Watches a port for moments in which nobody listens on it, by the kernel's own list of sockets.

mod holders;

use std::{
    collections::BTreeMap,
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::{
    libc,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        signal::Signal,
        signalfd::SignalFd,
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendmsg, socket,
        },
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};
use testkit::GapReport;

use super::{ms, say, signals};

/// A gap shorter than this may be missed. A look takes a tenth of it.
const EVERY: Duration = Duration::from_millis(1);

#[derive(clap::Args)]
pub struct Args {
    /// The port
    #[arg(long)]
    port: u16,
}

/// Prints `watching` after the first look, at last, when told to stop, the report.
pub fn run(args: &Args) -> Result<()> {
    let stop = signals([Signal::SIGTERM])?;
    let mut listeners = Listeners::new()?;
    let mut report = GapReport::default();
    let mut gone: Option<Instant> = None;
    listeners.are_on(args.port)?;
    say("watching")?;
    while !told(&stop)? {
        let now = Instant::now();
        match (listeners.are_on(args.port)?, gone) {
            (false, None) => gone = Some(now),
            (true, Some(since)) => {
                report.gaps_ms.push(ms(now - since));
                let clock = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
                report.back_at_ms.push(ms(clock));
                gone = None;
            }
            _ => (),
        }
    }
    report.gaps_ms.extend(gone.map(|since| ms(since.elapsed())));
    say(&serde_json::to_string(&report)?)
}

/// Waits for the next look, or for the end.
fn told(stop: &SignalFd) -> Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    Ok(ppoll(&mut fds, Some(TimeSpec::from(EVERY)), None)? > 0)
}

/// The listeners of IPv4, by sock_diag(7): /proc/net/tcp goes through all other sockets as well, and
/// takes a processor for itself at this pace.
struct Listeners {
    socket: OwnedFd,
    seen: BTreeMap<u64, Seen>,
}

/// What is known of a listener: whether it is a service's, or a waiting room, which answers nobody.
enum Seen {
    Service,
    /// No service had it, in so many looks.
    Nobodys(u32),
}

/// A process that goes to the background may just be missed by one look.
const LOOKS: u32 = 5;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// include/net/tcp_states.h
const TCP_LISTEN: u32 = 10;

impl Listeners {
    fn new() -> Result<Self> {
        let (family, cloexec) = (AddressFamily::Netlink, SockFlag::SOCK_CLOEXEC);
        let protocol = SockProtocol::NetlinkSockDiag;
        Ok(Self {
            socket: socket(family, SockType::Raw, cloexec, protocol)?,
            seen: BTreeMap::new(),
        })
    }

    fn are_on(&mut self, port: u16) -> Result<bool> {
        let mut found = false;
        for row in self.on(port)? {
            found |= self.is_served(&row);
        }
        Ok(found)
    }

    fn is_served(&mut self, row: &Row) -> bool {
        let seen = self.seen.entry(row.cookie).or_insert(Seen::Nobodys(0));
        match seen {
            Seen::Nobodys(looks) if *looks < LOOKS => {
                *seen = match holders::has_service(row.inode) {
                    true => Seen::Service,
                    false => Seen::Nobodys(*looks + 1),
                };
            }
            _ => (),
        }
        matches!(seen, Seen::Service)
    }

    fn on(&self, port: u16) -> Result<Vec<Row>> {
        let request = request();
        let (bytes, flags) = ([IoSlice::new(&request)], MsgFlags::empty());
        sendmsg::<()>(self.socket.as_raw_fd(), &bytes, &[], flags, None)?;
        let (mut rows, mut done) = (Vec::new(), false);
        let mut buffer = [0; 32 * 1024];
        while !done {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, flags)?;
            for (kind, body) in messages(&buffer[..length]) {
                ensure!(i32::from(kind) != libc::NLMSG_ERROR, "no tcp_diag?");
                done |= i32::from(kind) == libc::NLMSG_DONE;
                if kind == SOCK_DIAG_BY_FAMILY {
                    rows.extend(Row::read(body).filter(|row| row.port == port));
                }
            }
        }
        Ok(rows)
    }
}

/// What is read of `struct inet_diag_msg` (linux/inet_diag.h).
struct Row {
    port: u16,
    cookie: u64,
    inode: u32,
}

impl Row {
    fn read(body: &[u8]) -> Option<Row> {
        Some(Row {
            port: u16::from_be_bytes(body.get(4..6)?.try_into().ok()?),
            cookie: u64::from_ne_bytes(body.get(44..52)?.try_into().ok()?),
            inode: u32::from_ne_bytes(body.get(68..72)?.try_into().ok()?),
        })
    }
}

/// `struct inet_diag_req_v2`, for all that listen.
fn request() -> Vec<u8> {
    const BODY: usize = 56;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut bytes = ((HEADER + BODY) as u32).to_ne_bytes().to_vec();
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // sequence number and port id
    bytes.extend([libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend((1u32 << TCP_LISTEN).to_ne_bytes());
    bytes.resize(HEADER + BODY, 0);
    bytes
}

/// Kind and body of each message of a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}
