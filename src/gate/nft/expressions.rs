//! Expressions that the `nftnl` crate lacks, or can't make as syngate needs them.

use std::ffi::CStr;
use std::ptr::NonNull;
use std::time::Duration;

use nftnl::Rule;
use nftnl::expr::{Expression, Register};
use nftnl::nftnl_sys::nftnl_expr;
use nix::libc;

use super::raw::{
    ByteorderExpr, CounterExpr, DupExpr, DynsetExpr, FibExpr, LookupExpr, MetaExpr, NatExpr, Owned,
    PayloadExpr, QueueExpr,
};
use super::sets::timeout_ms;
use super::uapi::{
    NFT_BYTEORDER_HTON, NFT_DYNSET_OP_DELETE, NFT_DYNSET_OP_UPDATE, NFT_FIB_RESULT_ADDRTYPE,
    NFT_META_TIME_NS, NFT_OBJECT_COUNTER, NFT_PAYLOAD_CSUM_INET, NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
    NFTA_FIB_F_DADDR, NFTA_FIB_F_SADDR,
};
use crate::words::family::Family;

/// The register that expressions use unless they say otherwise.
const REGISTER: u32 = libc::NFT_REG_1 as u32;
/// Packets go on if no program reads the queue: NFT_QUEUE_FLAG_BYPASS (linux/netfilter/nf_tables.h).
const BYPASS: u16 = 1;

/// `counter name "…"`.
pub(super) struct CountInto<'a>(pub(super) &'a CStr);

impl Expression for CountInto<'_> {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        Owned::new()
            .with(CounterExpr::TYPE, &NFT_OBJECT_COUNTER)
            .with(CounterExpr::NAME, self.0)
            .into_raw()
    }
}

/// Looks up the key in register 1.
pub(super) struct LookUp<'a> {
    pub(super) set: &'a CStr,
    /// The set's number, for a set made by the same transaction.
    pub(super) id: u32,
    /// The rule continues if the key is not found.
    pub(super) negated: bool,
}

impl Expression for LookUp<'_> {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        let mut look_up = Owned::new()
            .with(LookupExpr::KEY, &REGISTER)
            .with(LookupExpr::SET, self.set)
            .with(LookupExpr::SET_ID, &self.id);
        if self.negated {
            look_up = look_up.with(LookupExpr::FLAGS, &(libc::NFT_LOOKUP_F_INV as u32));
        }
        look_up.into_raw()
    }
}

/// Adds the key that begins in register 1 to a set, or deletes it: `update @SET { … timeout … }`,
/// `delete @SET { … }`.
pub(super) struct UpdateSet<'a> {
    pub(super) set: &'a CStr,
    /// The set's number, for a set made by the same transaction.
    pub(super) id: u32,
    /// The new lifetime of the key; `None`: the kernel deletes it.
    pub(super) life: Option<Duration>,
}

impl Expression for UpdateSet<'_> {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        let update = Owned::new()
            .with(DynsetExpr::KEY, &REGISTER)
            .with(DynsetExpr::SET, self.set)
            .with(DynsetExpr::SET_ID, &self.id);
        let update = match self.life {
            Some(life) => update
                .with(DynsetExpr::OPERATION, &NFT_DYNSET_OP_UPDATE)
                .with(DynsetExpr::TIMEOUT, &timeout_ms(life)),
            None => update.with(DynsetExpr::OPERATION, &NFT_DYNSET_OP_DELETE),
        };
        update.into_raw()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// `NFT_PAYLOAD_NETWORK_HEADER` or `NFT_PAYLOAD_TRANSPORT_HEADER`.
    pub(super) base: libc::c_int,
    /// In bytes.
    pub(super) offset: u32,
    /// In bytes.
    pub(super) length: u32,
}

impl Field {
    /// RFC 9293, 3.1.
    pub(super) const SOURCE_PORT: Field = Field {
        base: libc::NFT_PAYLOAD_TRANSPORT_HEADER,
        offset: 0,
        length: 2,
    };
    pub(super) const DESTINATION_PORT: Field = Field {
        offset: 2,
        ..Field::SOURCE_PORT
    };

    /// RFC 791, 3.1; RFC 8200, 3.
    pub(super) fn source(family: Family) -> Field {
        let (offset, length) = match family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        Field {
            base: libc::NFT_PAYLOAD_NETWORK_HEADER,
            offset,
            length,
        }
    }

    /// The destination address follows the source address.
    pub(super) fn destination(family: Family) -> Field {
        let source = Field::source(family);
        Field {
            offset: source.offset + source.length,
            ..source
        }
    }

    fn of(self, payload: Owned<PayloadExpr>) -> Owned<PayloadExpr> {
        payload
            .with(PayloadExpr::BASE, &(self.base as u32))
            .with(PayloadExpr::OFFSET, &self.offset)
            .with(PayloadExpr::LENGTH, &self.length)
    }
}

/// Loads a field into any register: four bytes from `NFT_REG32_00` on. `NFT_REG_1` is another name
/// for the first four of these.
pub(super) struct LoadField {
    pub(super) field: Field,
    pub(super) register: u32,
}

impl Expression for LoadField {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        let load = Owned::new().with(PayloadExpr::INTO, &self.register);
        self.field.of(load).into_raw()
    }
}

/// Writes register 1 to a field: `ip daddr set ADDRESS`. The kernel updates the checksums of TCP
/// and of an IPv4 header.
pub(super) struct StoreField {
    pub(super) field: Field,
    /// The offset of that header's checksum, if it has one.
    pub(super) checksum: Option<u32>,
}

impl Expression for StoreField {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        let store = Owned::new().with(PayloadExpr::FROM, &REGISTER);
        let mut store = self.field.of(store);
        if let Some(offset) = self.checksum {
            store = store
                .with(PayloadExpr::CHECKSUM_TYPE, &NFT_PAYLOAD_CSUM_INET)
                .with(PayloadExpr::CHECKSUM_OFFSET, &offset);
        }
        store
            .with(PayloadExpr::FLAGS, &NFT_PAYLOAD_L4CSUM_PSEUDOHDR)
            .into_raw()
    }
}

/// `dup to ADDRESS device INTERFACE`, with the address and the interface index in registers.
pub(super) struct Duplicate {
    pub(super) to: Register,
    pub(super) device: Register,
}

impl Expression for Duplicate {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        Owned::new()
            .with(DupExpr::ADDRESS, &self.to.to_raw())
            .with(DupExpr::DEVICE, &self.device.to_raw())
            .into_raw()
    }
}

/// Loads the type of an address (`RTN_LOCAL`, …) into register 1: `fib saddr type`, `fib daddr type`.
pub(super) enum AddressType {
    OfSource,
    OfDestination,
}

impl Expression for AddressType {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        let of = match self {
            AddressType::OfSource => NFTA_FIB_F_SADDR,
            AddressType::OfDestination => NFTA_FIB_F_DADDR,
        };
        Owned::new()
            .with(FibExpr::INTO, &REGISTER)
            .with(FibExpr::RESULT, &NFT_FIB_RESULT_ADDRTYPE)
            .with(FibExpr::FLAGS, &of)
            .into_raw()
    }
}

/// Loads the wall clock into register 1, in nanoseconds since 1970: `meta time`.
pub(super) struct WallClock;

impl Expression for WallClock {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        Owned::new()
            .with(MetaExpr::KEY, &NFT_META_TIME_NS)
            .with(MetaExpr::INTO, &REGISTER)
            .into_raw()
    }
}

/// Puts the eight bytes in register 1 into network byte order: the kernel compares byte by byte.
pub(super) struct ToNetworkOrder;

impl Expression for ToNetworkOrder {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        const BYTES: u32 = size_of::<u64>() as u32;
        Owned::new()
            .with(ByteorderExpr::FROM, &REGISTER)
            .with(ByteorderExpr::INTO, &REGISTER)
            .with(ByteorderExpr::OPERATION, &NFT_BYTEORDER_HTON)
            .with(ByteorderExpr::LENGTH, &BYTES)
            .with(ByteorderExpr::SIZE, &BYTES)
            .into_raw()
    }
}

/// `queue flags bypass to NUMBER`.
pub(super) struct ToQueue(pub(super) u16);

impl Expression for ToQueue {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        Owned::new()
            .with(QueueExpr::NUMBER, &self.0)
            .with(QueueExpr::TOTAL, &1)
            .with(QueueExpr::FLAGS, &BYPASS)
            .into_raw()
    }
}

/// `dnat to :PORT`, with the port in a register. The address stays.
pub(super) struct ToPort(pub(super) Register);

impl Expression for ToPort {
    fn to_expr(&self, _: &Rule) -> NonNull<nftnl_expr> {
        // linux/netfilter/nf_nat.h
        const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
        Owned::new()
            .with(NatExpr::TYPE, &(libc::NFT_NAT_DNAT as u32))
            .with(NatExpr::FAMILY, &(libc::NFPROTO_INET as u32))
            .with(NatExpr::PORT, &self.0.to_raw())
            .with(NatExpr::FLAGS, &NF_NAT_RANGE_PROTO_SPECIFIED)
            .into_raw()
    }
}
