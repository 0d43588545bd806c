//! Translates the terms of a rule to the kernel's expressions.

use std::net::IpAddr;

use nftnl::Rule;
use nftnl::expr::{
    Bitwise, Cmp, CmpOp, Immediate, Ipv4HeaderField, Ipv6HeaderField, LLHeaderField, Meta,
    NetworkHeaderField, Payload, Register, RejectionType, TcpHeaderField, TransportHeaderField,
    Verdict,
};
use nix::libc;

use super::expressions::{
    AddressType, CountInto, Duplicate, Field, LoadField, ToNetworkOrder, ToPort, ToQueue, WallClock,
};
use super::names::{ARRIVED, NO_ROOM, STOPPED, WENT_ON};
use super::ruleset::{Term, Way};
use crate::gate::rules::PASS_MARK;
use crate::words::family::Family;
use crate::words::hop::{Ether, NextHop};

/// FIN, SYN, RST and ACK in byte 13 of a TCP header (RFC 9293, 3.1).
const NEW_SYN_MASK: u8 = FIN | SYN | RST | 0x10;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
/// An address of this host (linux/rtnetlink.h, RTN_LOCAL).
const LOCAL: u32 = 2;
/// The index of the loopback interface in any network namespace (linux/netdevice.h).
pub(super) const LOOPBACK_INDEX: u32 = 1;

/// Adds the expressions of a term, except those that use a set.
pub(super) fn add_expressions(rule: &mut Rule, term: Term) {
    match term {
        Term::Tcp => {
            rule.add_expr(&Meta::L4Proto);
            rule.add_expr(&Cmp::new(CmpOp::Eq, libc::IPPROTO_TCP as u8));
        }
        Term::NewSyn => compare_flags(rule, NEW_SYN_MASK, CmpOp::Eq, SYN),
        Term::NotNewSyn => compare_flags(rule, NEW_SYN_MASK, CmpOp::Neq, SYN),
        Term::Ending => compare_flags(rule, FIN | RST, CmpOp::Neq, 0),
        Term::IcmpError(family) => compare_icmp_type(rule, family),
        Term::FromEther(from) => compare_ether_source(rule, from),
        Term::NoHopLeft(family) => compare_hops(rule, family, CmpOp::Lt, 2),
        Term::HopsLeft(family) => compare_hops(rule, family, CmpOp::Gt, 1),
        Term::In(flows) | Term::Remember(flows, _) | Term::Forget(flows) => {
            load_flow(rule, flows.family);
        }
        Term::ToGatedPort | Term::ToCountedPort => rule.add_expr(&Payload::Transport(
            TransportHeaderField::Tcp(TcpHeaderField::Dport),
        )),
        Term::Before(end) => compare_clock(rule, end),
        Term::Version(family) => {
            rule.add_expr(&Meta::NfProto);
            rule.add_expr(&Cmp::new(CmpOp::Eq, nf_protocol(family)));
        }
        Term::To(family) => rule.add_expr(&Payload::Network(destination(family))),
        Term::NotFrom(family) | Term::From(family) => {
            rule.add_expr(&Payload::Network(source(family)))
        }
        Term::Via(way) | Term::NotVia(way) => rule.add_expr(&match way {
            Way::In => Meta::IifName,
            Way::Out => Meta::OifName,
        }),
        Term::ToThisHost => {
            rule.add_expr(&AddressType::OfDestination);
            rule.add_expr(&Cmp::new(CmpOp::Eq, LOCAL));
        }
        Term::Marked => {
            rule.add_expr(&Meta::Mark { set: false });
            rule.add_expr(&Cmp::new(CmpOp::Eq, PASS_MARK));
        }
        Term::Proxied(way) => compare_sender_with_proxy(rule, way),
        Term::Count => rule.add_expr(&CountInto(STOPPED)),
        Term::CountArrived => rule.add_expr(&CountInto(ARRIVED)),
        Term::CountNoRoom => rule.add_expr(&CountInto(NO_ROOM)),
        Term::CountWentOn => rule.add_expr(&CountInto(WENT_ON)),
        Term::CopyTo(hop) => copy_to(rule, &hop),
        Term::Accept => rule.add_expr(&Verdict::Accept),
        Term::Drop => rule.add_expr(&Verdict::Drop),
        Term::Refuse => rule.add_expr(&Verdict::Reject(RejectionType::TcpRst)),
        Term::Queue(number) => rule.add_expr(&ToQueue(number)),
        Term::Redirect(port) => {
            let loaded = Register::Reg1;
            rule.add_expr(&Immediate::new(port.to_be_bytes(), loaded));
            rule.add_expr(&ToPort(loaded));
        }
    }
}

fn compare_clock(rule: &mut Rule, end: u64) {
    rule.add_expr(&WallClock);
    rule.add_expr(&ToNetworkOrder);
    let nanoseconds = end.saturating_mul(1_000_000_000).to_be_bytes();
    rule.add_expr(&Cmp::new(CmpOp::Lt, &nanoseconds[..]));
}

/// Compares the TCP flags in the mask.
fn compare_flags(rule: &mut Rule, mask: u8, compare: CmpOp, flags: u8) {
    // The crate says bits here but means bytes.
    rule.add_expr(&Payload::Transport(TransportHeaderField::Raw {
        offset_bits: 13,
        length_bits: 1,
    }));
    rule.add_expr(&Bitwise::new(mask, 0u8));
    rule.add_expr(&Cmp::new(compare, flags));
}

fn compare_sender_with_proxy(rule: &mut Rule, way: Way) {
    rule.add_expr(&match way {
        Way::In => Meta::Iif,
        Way::Out => Meta::Oif,
    });
    rule.add_expr(&Cmp::new(CmpOp::Eq, LOOPBACK_INDEX));
    rule.add_expr(&AddressType::OfSource);
    rule.add_expr(&Cmp::new(CmpOp::Neq, LOCAL));
}

fn compare_ether_source(rule: &mut Rule, from: Ether) {
    const ARPHRD_ETHER: u16 = 1;
    rule.add_expr(&Meta::IifType);
    rule.add_expr(&Cmp::new(CmpOp::Eq, ARPHRD_ETHER));
    rule.add_expr(&Payload::LinkLayer(LLHeaderField::Saddr));
    rule.add_expr(&Cmp::new(CmpOp::Eq, &from.0[..]));
}

/// `icmp type destination-unreachable`, `icmpv6 type < 3`, which are destination-unreachable and
/// packet-too-big (RFC 792; RFC 4443, 3).
fn compare_icmp_type(rule: &mut Rule, family: Family) {
    let (protocol, compare, kind) = match family {
        Family::V4 => (libc::IPPROTO_ICMP, CmpOp::Eq, 3u8),
        Family::V6 => (libc::IPPROTO_ICMPV6, CmpOp::Lt, 3u8),
    };
    rule.add_expr(&Meta::L4Proto);
    rule.add_expr(&Cmp::new(CmpOp::Eq, protocol as u8));
    rule.add_expr(&Payload::Transport(TransportHeaderField::Raw {
        offset_bits: 0,
        length_bits: 1,
    }));
    rule.add_expr(&Cmp::new(compare, kind));
}

/// Compares the hop limit (TTL) of a packet.
fn compare_hops(rule: &mut Rule, family: Family, compare: CmpOp, hops: u8) {
    rule.add_expr(&Payload::Network(match family {
        Family::V4 => NetworkHeaderField::Ipv4(Ipv4HeaderField::Ttl),
        Family::V6 => NetworkHeaderField::Ipv6(Ipv6HeaderField::HopLimit),
    }));
    rule.add_expr(&Cmp::new(compare, hops));
}

/// Loads the addresses and ports of both ends into consecutive registers, from register 1 on.
fn load_flow(rule: &mut Rule, family: Family) {
    let mut register = libc::NFT_REG32_00 as u32;
    for field in [
        Field::source(family),
        Field::SOURCE_PORT,
        Field::destination(family),
        Field::DESTINATION_PORT,
    ] {
        rule.add_expr(&LoadField { field, register });
        register += field.length.div_ceil(4);
    }
}

/// Sends a copy of the packet to that neighbour, as the packet is at this term.
pub(super) fn copy_to(rule: &mut Rule, hop: &NextHop) {
    let (to, device) = (Register::Reg1, Register::Reg2);
    load_address(rule, hop.address);
    rule.add_expr(&Immediate::new(hop.device.index, device));
    rule.add_expr(&Duplicate { to, device });
}

pub(super) fn load_address(rule: &mut Rule, address: IpAddr) {
    match address {
        IpAddr::V4(address) => rule.add_expr(&Immediate::new(address, Register::Reg1)),
        IpAddr::V6(address) => rule.add_expr(&Immediate::new(address, Register::Reg1)),
    }
}

fn nf_protocol(family: Family) -> u8 {
    match family {
        Family::V4 => libc::NFPROTO_IPV4 as u8,
        Family::V6 => libc::NFPROTO_IPV6 as u8,
    }
}

fn destination(family: Family) -> NetworkHeaderField {
    match family {
        Family::V4 => NetworkHeaderField::Ipv4(Ipv4HeaderField::Daddr),
        Family::V6 => NetworkHeaderField::Ipv6(Ipv6HeaderField::Daddr),
    }
}

fn source(family: Family) -> NetworkHeaderField {
    match family {
        Family::V4 => NetworkHeaderField::Ipv4(Ipv4HeaderField::Saddr),
        Family::V6 => NetworkHeaderField::Ipv6(Ipv6HeaderField::Saddr),
    }
}
