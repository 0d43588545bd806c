//! A scanner: SYNs by raw socket from addresses at which nobody answers, so
//! that the server keeps them as SYN_RECV until its retransmissions run out.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::libc::IPPROTO_RAW;
use socket2::{Domain, Protocol, Socket, Type};

use super::interval;

#[derive(clap::Args)]
pub struct Args {
    /// Server, as ADDRESS:PORT
    #[arg(long)]
    to: SocketAddrV4,
    /// Addresses to come from, as FIRST-LAST; nobody may own them
    #[arg(long, value_parser = range, default_value = "10.78.0.1-10.78.255.254")]
    from: (Ipv4Addr, Ipv4Addr),
    /// SYNs a second
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How long
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "1m")]
    duration: Duration,
}

/// Scans until the time is over.
pub fn run(args: &Args) -> Result<()> {
    let interval = interval(args.rate)?;
    // IPPROTO_RAW: we write the IP header as well.
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
        .context("raw socket")?;
    let start = Instant::now();
    for n in 0.. {
        let due = start + interval * n;
        if due >= start + args.duration {
            break;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let packet = syn(nth_source(args.from, n), *args.to.ip(), args.to.port(), n);
        socket.send_to(&packet, &args.to.into()).context("send")?;
    }
    Ok(())
}

fn range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let (first, last) = text.split_once('-').context("not FIRST-LAST")?;
    let range: (Ipv4Addr, Ipv4Addr) = (first.parse()?, last.parse()?);
    ensure!(range.0 <= range.1, "an empty range");
    Ok(range)
}

/// Every source in turn; the next round has another port.
fn nth_source((first, last): (Ipv4Addr, Ipv4Addr), n: u32) -> SocketAddrV4 {
    let count = last.to_bits() - first.to_bits() + 1;
    let address = Ipv4Addr::from_bits(first.to_bits() + n % count);
    let port = 10_000 + (n / count % 50_000) as u16;
    SocketAddrV4::new(address, port)
}

/// An IPv4 packet with a SYN in it. The kernel fills in the IP header's
/// length, identification and checksum.
fn syn(from: SocketAddrV4, to: Ipv4Addr, port: u16, sequence: u32) -> Vec<u8> {
    const TTL: u8 = 64;
    const TCP: u8 = 6;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, TTL, TCP, 0, 0];
    ip.extend(from.ip().octets());
    ip.extend(to.octets());
    let tcp = tcp_syn(from.port(), port, sequence);
    let sum = checksum(&[pseudo_header(*from.ip(), to, tcp.len()), tcp.clone()].concat());
    let mut packet = [ip, tcp].concat();
    packet[20 + 16..20 + 18].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn tcp_syn(from: u16, to: u16, sequence: u32) -> Vec<u8> {
    const WORDS: u8 = 5;
    const SYN: u8 = 2;
    const WINDOW: u16 = 64_240;
    let mut tcp = Vec::new();
    tcp.extend(from.to_be_bytes());
    tcp.extend(to.to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0, 0, 0, 0, WORDS << 4, SYN]);
    tcp.extend(WINDOW.to_be_bytes());
    tcp.extend([0; 4]); // checksum, urgent pointer
    tcp
}

fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, length: usize) -> Vec<u8> {
    let mut header = [from.octets(), to.octets()].concat();
    header.extend([0, 6, 0, length as u8]);
    header
}

/// The Internet checksum of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_up_to_zero() {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 78, 0, 1), 10_000);
        let to = Ipv4Addr::new(10, 77, 0, 1);
        let packet = syn(from, to, 80, 0x1234_5678);
        let header = pseudo_header(*from.ip(), to, packet.len() - 20);
        assert_eq!(checksum(&[&header, &packet[20..]].concat()), 0);
    }

    #[test]
    fn sources_come_round() {
        let range = range("10.78.0.1-10.78.0.3").unwrap();
        let at = |n| nth_source(range, n).to_string();
        assert_eq!(at(0), "10.78.0.1:10000");
        assert_eq!(at(2), "10.78.0.3:10000");
        assert_eq!(at(3), "10.78.0.1:10001");
    }
}
