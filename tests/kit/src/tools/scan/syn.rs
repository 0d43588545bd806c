use std::net::{Ipv4Addr, SocketAddrV4};

/// An IPv4 packet with a SYN in it. The kernel fills in the IP header's length, identification and
/// checksum.
pub type Packet = [u8; IP + TCP];

const IP: usize = 20;
const TCP: usize = 20;
/// Where in the packet that is which differs, and the checksum.
const ADDRESS: usize = 12;
const PORT: usize = IP;
const SEQUENCE: usize = IP + 4;
const CHECKSUM: usize = IP + 16;

/// Makes SYNs for a server.
pub struct Syn {
    /// Without source, sequence number and checksum.
    packet: Packet,
    /// The sum of its words, as the checksum has it.
    sum: u32,
    sequence: u32,
}

impl Syn {
    pub fn to(server: SocketAddrV4) -> Self {
        let ip = ip_header(*server.ip());
        let tcp = tcp_header(server.port());
        let mut packet = [0; IP + TCP];
        packet[..IP].copy_from_slice(&ip);
        packet[IP..].copy_from_slice(&tcp);
        let sum = sum(&pseudo_header(*server.ip())) + sum(&tcp);
        let sequence = 0;
        Self {
            packet,
            sum,
            sequence,
        }
    }

    /// One SYN; each has another sequence number.
    pub fn from(&mut self, source: SocketAddrV4) -> Packet {
        let mut packet = self.packet;
        let (address, port) = (source.ip().octets(), source.port().to_be_bytes());
        let sequence = self.sequence.to_be_bytes();
        self.sequence = self.sequence.wrapping_add(1);
        let sum = self.sum + sum(&address) + sum(&port) + sum(&sequence);
        packet[ADDRESS..][..4].copy_from_slice(&address);
        packet[PORT..][..2].copy_from_slice(&port);
        packet[SEQUENCE..][..4].copy_from_slice(&sequence);
        packet[CHECKSUM..][..2].copy_from_slice(&checksum(sum));
        packet
    }
}

fn ip_header(to: Ipv4Addr) -> [u8; IP] {
    const TTL: u8 = 64;
    const PROTOCOL: u8 = 6;
    let [a, b, c, d] = to.octets();
    let mut header = [0; IP];
    header[0] = 0x45;
    header[8..10].copy_from_slice(&[TTL, PROTOCOL]);
    header[16..].copy_from_slice(&[a, b, c, d]);
    header
}

fn tcp_header(to: u16) -> [u8; TCP] {
    const WORDS: u8 = 5;
    const SYN: u8 = 2;
    const WINDOW: u16 = 64_240;
    let mut header = [0; TCP];
    header[2..4].copy_from_slice(&to.to_be_bytes());
    header[12..14].copy_from_slice(&[WORDS << 4, SYN]);
    header[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    header
}

/// Without the source.
fn pseudo_header(to: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = to.octets();
    [a, b, c, d, 0, 6, 0, TCP as u8]
}

/// Of an even number of bytes, so few that it can't overflow.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum()
}

/// The Internet checksum.
fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!folded as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_up_to_zero() {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 78, 0, 1), 10_000);
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 80);
        let mut syn = Syn::to(to);
        for _ in 0..3 {
            let packet = syn.from(from);
            let sum = sum(&pseudo_header(*to.ip())) + sum(&from.ip().octets()) + sum(&packet[IP..]);
            assert_eq!(checksum(sum), [0, 0]);
        }
    }
}
