//! Watches a port for moments in which nobody listens on it, by the kernel's own list of sockets.

use std::{
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
    let listeners = Listeners::new()?;
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
struct Listeners(OwnedFd);

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
        Ok(Self(socket(family, SockType::Raw, cloexec, protocol)?))
    }

    fn are_on(&self, port: u16) -> Result<bool> {
        let request = request();
        let (bytes, flags) = ([IoSlice::new(&request)], MsgFlags::empty());
        sendmsg::<()>(self.0.as_raw_fd(), &bytes, &[], flags, None)?;
        let (mut found, mut done) = (false, false);
        let mut buffer = [0; 32 * 1024];
        while !done {
            let length = recv(self.0.as_raw_fd(), &mut buffer, flags)?;
            for (kind, body) in messages(&buffer[..length]) {
                ensure!(i32::from(kind) != libc::NLMSG_ERROR, "no tcp_diag?");
                done |= i32::from(kind) == libc::NLMSG_DONE;
                // struct inet_diag_msg: four bytes, then the port, as it is on the wire.
                found |= kind == SOCK_DIAG_BY_FAMILY && body.get(4..6) == Some(&port.to_be_bytes());
            }
        }
        Ok(found)
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
