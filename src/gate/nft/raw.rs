//! What nf_tables needs and the `nftnl` crate does not offer: owner tables, timed and interval sets,
//! sets that packets fill, flushing a set, negated look-ups, named counters, the type of an address, a
//! port as all that changes, a copy to a neighbour, a header's field as it is to be. Each is a message or an expression like the crate's own.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use nftnl::expr::{Expression, Register};
use nftnl::nftnl_sys::{self as sys, libc};
use nftnl::set::{Set, SetKey};
use nftnl::{MsgType, NlMsg, ProtoFamily, Rule, Table};

/// linux/netfilter/nf_tables.h, since Linux 5.12; not in the libc crate.
pub const NFT_TABLE_F_OWNER: u32 = 0x2;
/// linux/netfilter/nf_tables.h; not in the libc crate.
pub const NFT_OBJECT_COUNTER: u32 = 1;

/// A TCP port as a set key: nft's `inet_service` (its number in nft's list of data types is 13).
pub struct Port(pub u16);

impl SetKey for Port {
    const TYPE: u32 = 13;
    const LEN: u32 = 2;

    fn data(&self) -> Box<[u8]> {
        Box::new(self.0.to_be_bytes())
    }
}

/// An interface as a set key: nft's `ifname` (41 in nft's list of data types), NUL-padded.
pub struct Interface(pub String);

impl SetKey for Interface {
    const TYPE: u32 = 41;
    const LEN: u32 = 16;

    fn data(&self) -> Box<[u8]> {
        let mut name = self.0.clone().into_bytes();
        name.resize(Interface::LEN as usize, 0);
        name.into()
    }
}

/// The addresses and ports of both ends of a connection as a set key: nft's `ipv4_addr . inet_service .
/// ipv4_addr . inet_service`. A type of several parts is their numbers (7, 13 and, for IPv6, 8), six
/// bits each; each part fills whole registers of four bytes.
pub struct FlowV4(pub Box<[u8]>);

impl SetKey for FlowV4 {
    const TYPE: u32 = 7 << 18 | 13 << 12 | 7 << 6 | 13;
    const LEN: u32 = 4 * 4;

    fn data(&self) -> Box<[u8]> {
        self.0.clone()
    }
}

/// See [`FlowV4`].
pub struct FlowV6(pub Box<[u8]>);

impl SetKey for FlowV6 {
    const TYPE: u32 = 8 << 18 | 13 << 12 | 8 << 6 | 13;
    const LEN: u32 = 2 * 16 + 2 * 4;

    fn data(&self) -> Box<[u8]> {
        self.0.clone()
    }
}

/// A table with a comment.
pub struct CommentedTable<'a> {
    /// Whose packets it is about.
    pub family: ProtoFamily,
    /// Its name.
    pub name: &'a CStr,
    /// What `nft list` shows as its comment, in the table's userdata.
    pub comment: &'a CStr,
    /// The kernel destroys it when the socket that made it is closed.
    pub owned: bool,
}

// SAFETY: the message is a few attributes of bounded length, far below the largest one.
unsafe impl NlMsg for CommentedTable<'_> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        let comment = comment_userdata(self.comment);
        let table = allocated(
            // SAFETY: takes nothing; null is checked by `allocated`.
            unsafe { sys::nftnl_table_alloc() },
        );
        // SAFETY: the caller hands a buffer for the largest message; `table` is live until it is
        // freed here; the setters copy what they are given, strings are NUL-terminated and the
        // comment's length is given.
        unsafe {
            let t = table.as_ptr();
            sys::nftnl_table_set_u32(t, sys::NFTNL_TABLE_FAMILY as u16, self.family as u32);
            sys::nftnl_table_set_str(t, sys::NFTNL_TABLE_NAME as u16, self.name.as_ptr());
            if self.owned {
                sys::nftnl_table_set_u32(t, sys::NFTNL_TABLE_FLAGS as u16, NFT_TABLE_F_OWNER);
            }
            sys::nftnl_table_set_data(
                t,
                sys::NFTNL_TABLE_USERDATA as u16,
                comment.as_ptr().cast(),
                comment.len() as u32,
            );
            let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
            let header = header(buf, self.family, libc::NFT_MSG_NEWTABLE, flags, seq);
            sys::nftnl_table_nlmsg_build_payload(header, t);
            sys::nftnl_table_free(t);
        }
    }
}

/// Type 0 (NFTNL_UDATA_TABLE_COMMENT), length, and the text with its NUL, as nft(8) writes it.
fn comment_userdata(comment: &CStr) -> Vec<u8> {
    let text = comment.to_bytes_with_nul();
    let length = u8::try_from(text.len()).expect("comments are cut to fit, in compile.rs");
    [&[0, length], text].concat()
}

/// The comment in a table's userdata, with its NUL; empty if there is none.
pub fn comment_in(mut userdata: &[u8]) -> &[u8] {
    const COMMENT: u8 = 0;
    while let [kind, length, rest @ ..] = userdata {
        let Some((value, others)) = rest.split_at_checked(usize::from(*length)) else {
            break;
        };
        if *kind == COMMENT {
            return value;
        }
        userdata = others;
    }
    &[]
}

/// A named counter: it outlives the rules that count into it, so that it can be read once the
/// gate is open.
pub struct Counter<'a> {
    /// The table that it is in.
    pub table: &'a Table,
    /// Its name.
    pub name: &'a CStr,
}

// SAFETY: the message is a few attributes of bounded length, far below the largest one.
unsafe impl NlMsg for Counter<'_> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        let object = allocated(
            // SAFETY: takes nothing; null is checked by `allocated`.
            unsafe { sys::nftnl_obj_alloc() },
        );
        let family = self.table.get_family();
        // SAFETY: as for CommentedTable; the type is set before what depends on it.
        unsafe {
            let o = object.as_ptr();
            sys::nftnl_obj_set_u32(o, sys::NFTNL_OBJ_FAMILY as u16, family as u32);
            let table = self.table.get_name();
            sys::nftnl_obj_set_str(o, sys::NFTNL_OBJ_TABLE as u16, table.as_ptr());
            sys::nftnl_obj_set_str(o, sys::NFTNL_OBJ_NAME as u16, self.name.as_ptr());
            sys::nftnl_obj_set_u32(o, sys::NFTNL_OBJ_TYPE as u16, NFT_OBJECT_COUNTER);
            let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
            let header = header(buf, family, libc::NFT_MSG_NEWOBJ, flags, seq);
            sys::nftnl_obj_nlmsg_build_payload(header, o);
            sys::nftnl_obj_free(o);
        }
    }
}

/// The expression `counter name "…"`.
pub struct CountInto<'a>(pub &'a CStr);

impl Expression for CountInto<'_> {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        let expr = expression(c"objref");
        // SAFETY: `expr` is live and owned by the caller from here on; the name is copied.
        unsafe {
            let e = expr.as_ptr();
            sys::nftnl_expr_set_u32(
                e,
                sys::NFTNL_EXPR_OBJREF_IMM_TYPE as u16,
                NFT_OBJECT_COUNTER,
            );
            sys::nftnl_expr_set_str(e, sys::NFTNL_EXPR_OBJREF_IMM_NAME as u16, self.0.as_ptr());
        }
        expr
    }
}

/// The expression that looks a register up in a set.
pub struct LookUp<'a> {
    /// The set's name.
    pub set: &'a CStr,
    /// Its number, for when it is made by the same transaction.
    pub id: u32,
    /// The rule goes on if nothing is found.
    pub negated: bool,
}

impl Expression for LookUp<'_> {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        let expr = expression(c"lookup");
        // SAFETY: `expr` is live and owned by the caller from here on; the name is copied.
        unsafe {
            let e = expr.as_ptr();
            let register = libc::NFT_REG_1 as u32;
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_LOOKUP_SREG as u16, register);
            sys::nftnl_expr_set_str(e, sys::NFTNL_EXPR_LOOKUP_SET as u16, self.set.as_ptr());
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_LOOKUP_SET_ID as u16, self.id);
            if self.negated {
                let inverted = libc::NFT_LOOKUP_F_INV as u32;
                sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_LOOKUP_FLAGS as u16, inverted);
            }
        }
        expr
    }
}

/// A field of a packet's headers.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Which header: `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
    pub base: libc::c_int,
    /// Where in it, in bytes.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

/// The expression that loads a field into any register: four bytes from
/// `NFT_REG32_00` on, of which `NFT_REG_1` is another name.
pub struct Load {
    /// From where.
    pub field: Field,
    /// Where to.
    pub register: u32,
}

impl Expression for Load {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        let expr = expression(c"payload");
        // SAFETY: `expr` is live and owned by the caller from here on; all four are u32.
        unsafe {
            let e = expr.as_ptr();
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_PAYLOAD_DREG as u16, self.register);
            set_field(e, self.field);
        }
        expr
    }
}

/// The expression that writes what is in register 1 to a field: `ip daddr set ADDRESS`. TCP's checksum
/// is corrected, and that of an IPv4 header.
pub struct Store {
    /// Where to: an address.
    pub field: Field,
    /// Where the checksum of that header is, if it has one.
    pub checksum: Option<u32>,
}

impl Expression for Store {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        // linux/netfilter/nf_tables.h
        const NFT_PAYLOAD_CSUM_INET: u32 = 1;
        const NFT_PAYLOAD_L4CSUM_PSEUDOHDR: u32 = 1;
        let expr = expression(c"payload");
        // SAFETY: `expr` is live and owned by the caller from here on; all are u32.
        unsafe {
            let e = expr.as_ptr();
            let register = libc::NFT_REG_1 as u32;
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_PAYLOAD_SREG as u16, register);
            set_field(e, self.field);
            if let Some(offset) = self.checksum {
                let kind = NFT_PAYLOAD_CSUM_INET;
                sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_PAYLOAD_CSUM_TYPE as u16, kind);
                sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_PAYLOAD_CSUM_OFFSET as u16, offset);
            }
            let flags = NFT_PAYLOAD_L4CSUM_PSEUDOHDR;
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_PAYLOAD_FLAGS as u16, flags);
        }
        expr
    }
}

/// # Safety
/// `expr` is a live expression `payload`.
unsafe fn set_field(expr: *mut sys::nftnl_expr, field: Field) {
    // SAFETY: handed on to the caller; all three are u32.
    unsafe {
        sys::nftnl_expr_set_u32(expr, sys::NFTNL_EXPR_PAYLOAD_BASE as u16, field.base as u32);
        sys::nftnl_expr_set_u32(expr, sys::NFTNL_EXPR_PAYLOAD_OFFSET as u16, field.offset);
        sys::nftnl_expr_set_u32(expr, sys::NFTNL_EXPR_PAYLOAD_LEN as u16, field.length);
    }
}

/// The expression that puts the key that begins in register 1 into a set, or takes it out:
/// `update @SET { … timeout … }`, `delete @SET { … }`.
pub struct Change<'a> {
    /// The set's name.
    pub set: &'a CStr,
    /// Its number, for when it is made by the same transaction.
    pub id: u32,
    /// How long it stays there from now on; `None`: it goes.
    pub life: Option<Duration>,
}

impl Expression for Change<'_> {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        // linux/netfilter/nf_tables.h, enum nft_dynset_ops; deletion since Linux 5.4
        const NFT_DYNSET_OP_UPDATE: u32 = 1;
        const NFT_DYNSET_OP_DELETE: u32 = 2;
        let expr = expression(c"dynset");
        // SAFETY: `expr` is live and owned by the caller from here on; the name is copied, the timeout
        // is a u64, in milliseconds, the others are u32.
        unsafe {
            let e = expr.as_ptr();
            let register = libc::NFT_REG_1 as u32;
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_DYNSET_SREG_KEY as u16, register);
            sys::nftnl_expr_set_str(e, sys::NFTNL_EXPR_DYNSET_SET_NAME as u16, self.set.as_ptr());
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_DYNSET_SET_ID as u16, self.id);
            let operation = match self.life {
                Some(_) => NFT_DYNSET_OP_UPDATE,
                None => NFT_DYNSET_OP_DELETE,
            };
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_DYNSET_OP as u16, operation);
            if let Some(life) = self.life {
                let ms = timeout_ms(life);
                sys::nftnl_expr_set_u64(e, sys::NFTNL_EXPR_DYNSET_TIMEOUT as u16, ms);
            }
        }
        expr
    }
}

/// The expression `dup to ADDRESS device INTERFACE`, with the address and the interface's number in
/// those registers.
pub struct Copy {
    /// The address.
    pub to: Register,
    /// The number of the interface.
    pub device: Register,
}

impl Expression for Copy {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        let expr = expression(c"dup");
        // SAFETY: `expr` is live and owned by the caller from here on; both are u32.
        unsafe {
            let e = expr.as_ptr();
            let (to, device) = (self.to.to_raw(), self.device.to_raw());
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_DUP_SREG_ADDR as u16, to);
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_DUP_SREG_DEV as u16, device);
        }
        expr
    }
}

/// The expression that loads the type of the destination address (`RTN_LOCAL`, …) into the
/// register: `fib daddr type`.
pub struct DestinationType;

impl Expression for DestinationType {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        // linux/netfilter/nf_tables.h
        const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
        const NFTA_FIB_F_DADDR: u32 = 2;
        let expr = expression(c"fib");
        // SAFETY: `expr` is live and owned by the caller from here on.
        unsafe {
            let e = expr.as_ptr();
            let register = libc::NFT_REG_1 as u32;
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_FIB_DREG as u16, register);
            let result = NFT_FIB_RESULT_ADDRTYPE;
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_FIB_RESULT as u16, result);
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_FIB_FLAGS as u16, NFTA_FIB_F_DADDR);
        }
        expr
    }
}

/// Packets pass if nobody reads the queue: NFT_QUEUE_FLAG_BYPASS (linux/netfilter/nf_tables.h) and
/// NFQ_FLAG_BYPASS (linux/netfilter/xt_NFQUEUE.h).
const BYPASS: u16 = 1;

/// The expression `queue flags bypass to NUMBER`.
pub struct Queue(pub u16);

impl Expression for Queue {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        let expr = expression(c"queue");
        // SAFETY: `expr` is live and owned by the caller from here on; all three are u16.
        unsafe {
            let e = expr.as_ptr();
            sys::nftnl_expr_set_u16(e, sys::NFTNL_EXPR_QUEUE_NUM as u16, self.0);
            sys::nftnl_expr_set_u16(e, sys::NFTNL_EXPR_QUEUE_TOTAL as u16, 1);
            sys::nftnl_expr_set_u16(e, sys::NFTNL_EXPR_QUEUE_FLAGS as u16, BYPASS);
        }
        expr
    }
}

/// The target NFQUEUE of x_tables, revision 3: `-j NFQUEUE --queue-num NUMBER --queue-bypass`.
pub struct QueueTarget(pub u16);

impl QueueTarget {
    /// Since Linux 3.10.
    pub const REVISION: u32 = 3;

    /// `struct xt_NFQ_info_v3`: number, how many queues, flags (linux/netfilter/xt_NFQUEUE.h).
    pub fn info(&self) -> [u16; 4] {
        [self.0, 1, BYPASS, 0]
    }
}

impl Expression for QueueTarget {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        let bytes: Vec<u8> = self.info().into_iter().flat_map(u16::to_ne_bytes).collect();
        let expr = expression(c"target");
        // SAFETY: takes a size; null is checked.
        let info = allocated(unsafe { libc::malloc(bytes.len()) });
        // SAFETY: `expr` is live and owned by the caller from here on, the name is copied. `info`
        // is as long as `bytes`, comes from malloc, and belongs to `expr` from here on, which frees
        // it (libnftnl, nftnl_expr_target_set() and _free()).
        unsafe {
            let e = expr.as_ptr();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), info.as_ptr().cast(), bytes.len());
            sys::nftnl_expr_set_str(e, sys::NFTNL_EXPR_TG_NAME as u16, c"NFQUEUE".as_ptr());
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_TG_REV as u16, QueueTarget::REVISION);
            sys::nftnl_expr_set(
                e,
                sys::NFTNL_EXPR_TG_INFO as u16,
                info.as_ptr(),
                bytes.len() as u32,
            );
        }
        expr
    }
}

/// The expression `dnat to :PORT`, with the port in that register: the address stays.
pub struct ToPort(pub Register);

impl Expression for ToPort {
    fn to_expr(&self, _: &Rule) -> NonNull<sys::nftnl_expr> {
        // linux/netfilter/nf_nat.h
        const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
        let expr = expression(c"nat");
        // SAFETY: `expr` is live and owned by the caller from here on; all four are u32.
        unsafe {
            let e = expr.as_ptr();
            let (kind, family) = (libc::NFT_NAT_DNAT as u32, libc::NFPROTO_INET as u32);
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_NAT_TYPE as u16, kind);
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_NAT_FAMILY as u16, family);
            let register = self.0.to_raw();
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_NAT_REG_PROTO_MIN as u16, register);
            let flags = NF_NAT_RANGE_PROTO_SPECIFIED;
            sys::nftnl_expr_set_u32(e, sys::NFTNL_EXPR_NAT_FLAGS as u16, flags);
        }
        expr
    }
}

/// A set, empty until elements are put in. `flags`: `NFT_SET_INTERVAL`, `NFT_SET_TIMEOUT`.
pub fn named_set<'a, K: SetKey>(
    table: &'a Table,
    name: &CStr,
    id: u32,
    flags: libc::c_int,
) -> Set<'a, K> {
    let set = Set::<K>::new_named(name, id, table, table.get_family());
    // SAFETY: the set is live, and this attribute is a u32.
    unsafe {
        sys::nftnl_set_set_u32(
            set.as_ptr().as_ptr(),
            sys::NFTNL_SET_FLAGS as u16,
            flags as u32,
        );
    }
    set
}

/// A set that packets fill, of so many elements at most; `idle` is how long one stays, unless the
/// packet says otherwise.
pub fn flow_set<'a, K: SetKey>(
    table: &'a Table,
    name: &CStr,
    id: u32,
    most: u32,
    idle: Duration,
) -> Set<'a, K> {
    let set = named_set(table, name, id, libc::NFT_SET_TIMEOUT | libc::NFT_SET_EVAL);
    limit(&set, most);
    // SAFETY: the set is live; the timeout is a u64, in milliseconds.
    unsafe {
        sys::nftnl_set_set_u64(
            set.as_ptr().as_ptr(),
            sys::NFTNL_SET_TIMEOUT as u16,
            timeout_ms(idle),
        );
    }
    set
}

/// How many elements a set takes.
pub fn limit<K>(set: &Set<K>, most: u32) {
    // SAFETY: the set is live, and this attribute is a u32.
    unsafe {
        sys::nftnl_set_set_u32(set.as_ptr().as_ptr(), sys::NFTNL_SET_DESC_SIZE as u16, most);
    }
}

/// Tells nft(8) that the keys are in the host's byte order, which it can't know of a set of strings:
/// else it lists them as empty. Userdata of type 0 (NFTNL_UDATA_SET_KEYBYTEORDER), four bytes,
/// BYTEORDER_HOST_ENDIAN.
pub fn in_host_order<K>(set: &Set<K>) {
    const BYTEORDER_HOST_ENDIAN: u32 = 1;
    let [a, b, c, d] = BYTEORDER_HOST_ENDIAN.to_ne_bytes();
    let userdata = [0, 4, a, b, c, d];
    // SAFETY: the set is live; the bytes are copied, their number given.
    unsafe {
        sys::nftnl_set_set_data(
            set.as_ptr().as_ptr(),
            sys::NFTNL_SET_USERDATA as u16,
            userdata.as_ptr().cast(),
            userdata.len() as u32,
        );
    }
}

/// A key, and for how long it is there.
pub fn put<K: SetKey>(set: &Set<K>, key: &K, timeout: Option<Duration>) {
    let element = element(set, key);
    if let Some(timeout) = timeout {
        // SAFETY: the element is live (owned by the set), the attribute a u64, in milliseconds.
        unsafe {
            sys::nftnl_set_elem_set_u64(
                element.as_ptr(),
                sys::NFTNL_SET_ELEM_TIMEOUT as u16,
                timeout_ms(timeout),
            );
        }
    }
}

/// An interval is two elements: where it begins, with the timeout, and where it has ended (none if
/// it reaches the largest key).
pub fn put_interval<K: SetKey>(
    set: &Set<K>,
    begin: &K,
    after: Option<&K>,
    timeout: Option<Duration>,
) {
    put(set, begin, timeout);
    if let Some(after) = after {
        let end = element(set, after);
        // SAFETY: `end` is live (owned by the set) and this attribute is a u32.
        unsafe {
            sys::nftnl_set_elem_set_u32(
                end.as_ptr(),
                sys::NFTNL_SET_ELEM_FLAGS as u16,
                libc::NFT_SET_ELEM_INTERVAL_END as u32,
            );
        }
    }
}

/// For the kernel a timeout of 0 is none at all: a gate without one would not open by itself. It counts
/// in jiffies, of 10 ms at most, and takes less than one for 0 (nf_msecs_to_jiffies64()).
fn timeout_ms(timeout: Duration) -> u64 {
    const LONGEST_JIFFY: u64 = 10;
    (timeout.as_millis() as u64).max(LONGEST_JIFFY)
}

fn element<K: SetKey>(set: &Set<K>, key: &K) -> NonNull<sys::nftnl_set_elem> {
    let key = key.data();
    // SAFETY: takes nothing; null is checked.
    let element = allocated(unsafe { sys::nftnl_set_elem_alloc() });
    // SAFETY: the key is copied, its length given; the set takes the element over and frees it.
    unsafe {
        sys::nftnl_set_elem_set(
            element.as_ptr(),
            sys::NFTNL_SET_ELEM_KEY as u16,
            key.as_ptr().cast(),
            key.len() as u32,
        );
        sys::nftnl_set_elem_add(set.as_ptr().as_ptr(), element.as_ptr());
    }
    element
}

/// Deletes all elements of a set.
pub struct FlushSet<'a>(pub &'a Set<'a, Port>);

// SAFETY: the message names the table and the set, nothing else.
unsafe impl NlMsg for FlushSet<'_> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        // SAFETY: the caller hands a buffer for the largest message; the set is live.
        unsafe {
            let header = header(buf, self.0.get_family(), libc::NFT_MSG_DELSETELEM, 0, seq);
            sys::nftnl_set_elems_nlmsg_build_payload(header, self.0.as_ptr().as_ptr());
        }
    }
}

/// The start of an acknowledged message.
///
/// # Safety
/// `buf` has room for the largest message.
unsafe fn header(
    buf: *mut c_void,
    family: ProtoFamily,
    kind: i32,
    flags: i32,
    seq: u32,
) -> *mut libc::nlmsghdr {
    // SAFETY: handed on to the caller.
    unsafe {
        sys::nftnl_nlmsg_build_hdr(
            buf.cast(),
            kind as u16,
            family as u16,
            (flags | libc::NLM_F_ACK) as u16,
            seq,
        )
    }
}

/// An expression of that name, without any of its attributes.
fn expression(name: &CStr) -> NonNull<sys::nftnl_expr> {
    // SAFETY: the name is NUL-terminated; null is checked.
    allocated(unsafe { sys::nftnl_expr_alloc(name.as_ptr()) })
}

/// The C library gives null only when memory is out; Rust's own allocations end the process then.
fn allocated<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).expect("out of memory")
}

/// What holds for any userdata; and any text comes back as the comment that it was.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let comment = comment_in(bytes);
    assert!(comment.is_empty() || comment.len() + 2 <= bytes.len());
    let text = String::from_utf8_lossy(bytes);
    let comment = super::compile::fit_comment(&text);
    let userdata = comment_userdata(&comment);
    assert_eq!(comment_in(&userdata), comment.to_bytes_with_nul());
    let behind = [&[1, 2, 0, 0][..], &userdata, bytes].concat();
    assert_eq!(comment_in(&behind), comment.to_bytes_with_nul());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_found_again() {
        assert_eq!(comment_in(&comment_userdata(c"a gate")), b"a gate\0");
        assert_eq!(comment_in(&[7, 1, 9, 0, 2, b'x', 0]), b"x\0");
        for cut in [&[][..], &[0], &[0, 3, 1], &[7, 0]] {
            assert_eq!(comment_in(cut), b"", "{cut:?}");
        }
    }

    #[test]
    fn no_gate_is_without_a_deadline() {
        assert_eq!(timeout_ms(Duration::ZERO), 10);
        assert_eq!(timeout_ms(Duration::from_micros(10)), 10);
        assert_eq!(timeout_ms(Duration::from_secs(30)), 30_000);
    }
}
