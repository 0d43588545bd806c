//! The unsafe layer over libnftnl: objects with typed attributes, and messages that the `nftnl`
//! crate lacks. The crate lacks owner tables, named counters, flushing a set, and several
//! expressions and set attributes. `expressions` and `sets` build these on this module without
//! unsafe code.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use nftnl::nftnl_sys::{self as sys, libc};
use nftnl::set::Set;
use nftnl::{MsgType, NlMsg, ProtoFamily, Table};

use super::uapi::{NFT_OBJECT_COUNTER, NFT_TABLE_F_OWNER};
use super::userdata;

/// An object that libnftnl allocates and frees, and whose attributes it sets.
///
/// # Safety
/// `set` copies the value, and the attributes below have the types that libnftnl expects.
pub(super) unsafe trait Object {
    type Raw;

    /// Null if there is no memory.
    fn allocate() -> *mut Self::Raw;

    /// # Safety
    /// `object` comes from `allocate`. Nobody uses it from now on.
    unsafe fn free(object: *mut Self::Raw);

    /// # Safety
    /// `object` is live, and `value` is readable for `length` bytes.
    unsafe fn set(object: *mut Self::Raw, attribute: u16, value: *const c_void, length: u32);
}

pub(super) struct Attribute<O, V: ?Sized>(u16, PhantomData<O>, PhantomData<V>);

/// A number, a text with its NUL, or bytes.
pub(super) trait AttributeValue {
    fn bytes(&self) -> (*const c_void, u32);
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl AttributeValue for $number {
            fn bytes(&self) -> (*const c_void, u32) {
                (std::ptr::from_ref(self).cast(), size_of::<$number>() as u32)
            }
        })*
    };
}

numbers!(u16, u32, u64);

impl AttributeValue for CStr {
    fn bytes(&self) -> (*const c_void, u32) {
        self.to_bytes_with_nul().bytes()
    }
}

impl AttributeValue for [u8] {
    fn bytes(&self) -> (*const c_void, u32) {
        (self.as_ptr().cast(), self.len() as u32)
    }
}

macro_rules! objects {
    ($($object:ident: $raw:ident, $allocate:ident, $free:ident, $set:ident;)*) => { $(
        pub(super) enum $object {}

        // SAFETY: libnftnl copies values, and keeps none of the pointers.
        unsafe impl Object for $object {
            type Raw = sys::$raw;

            fn allocate() -> *mut sys::$raw {
                // SAFETY: takes nothing.
                unsafe { sys::$allocate() }
            }

            unsafe fn free(object: *mut sys::$raw) {
                // SAFETY: handed on to the caller.
                unsafe { sys::$free(object) };
            }

            unsafe fn set(object: *mut sys::$raw, attribute: u16, value: *const c_void, length: u32) {
                // SAFETY: handed on to the caller.
                unsafe { sys::$set(object, attribute, value, length) };
            }
        }
    )* };
}

objects! {
    TableObject: nftnl_table, nftnl_table_alloc, nftnl_table_free, nftnl_table_set_data;
    NamedObject: nftnl_obj, nftnl_obj_alloc, nftnl_obj_free, nftnl_obj_set_data;
    SetObject: nftnl_set, nftnl_set_alloc, nftnl_set_free, nftnl_set_set_data;
    ElementObject: nftnl_set_elem, nftnl_set_elem_alloc, nftnl_set_elem_free, nftnl_set_elem_set;
}

/// An expression; libnftnl knows it by name.
pub(super) trait Named {
    const NAME: &'static CStr;
}

// SAFETY: libnftnl copies the values of the attributes below.
unsafe impl<E: Named> Object for E {
    type Raw = sys::nftnl_expr;

    fn allocate() -> *mut sys::nftnl_expr {
        // SAFETY: the name is NUL-terminated.
        unsafe { sys::nftnl_expr_alloc(E::NAME.as_ptr()) }
    }

    unsafe fn free(object: *mut sys::nftnl_expr) {
        // SAFETY: handed on to the caller.
        unsafe { sys::nftnl_expr_free(object) };
    }

    unsafe fn set(object: *mut sys::nftnl_expr, attribute: u16, value: *const c_void, length: u32) {
        // SAFETY: handed on to the caller.
        unsafe { sys::nftnl_expr_set(object, attribute, value, length) };
    }
}

macro_rules! expressions {
    ($($expression:ident: $name:literal;)*) => { $(
        pub(super) enum $expression {}

        impl Named for $expression {
            const NAME: &'static CStr = $name;
        }
    )* };
}

expressions! {
    ByteorderExpr: c"byteorder";
    CounterExpr: c"objref";
    DupExpr: c"dup";
    DynsetExpr: c"dynset";
    FibExpr: c"fib";
    LookupExpr: c"lookup";
    MetaExpr: c"meta";
    NatExpr: c"nat";
    PayloadExpr: c"payload";
    QueueExpr: c"queue";
}

macro_rules! attributes {
    ($($object:ident { $($(#[$doc:meta])* $name:ident: $value:ty = $number:ident;)* })*) => { $(
        impl $object {
            $($(#[$doc])* pub(super) const $name: Attribute<$object, $value> =
                Attribute(sys::$number as u16, PhantomData, PhantomData);)*
        }
    )* };
}

// The unsafe code below relies on these types: each is the one that libnftnl expects.
attributes! {
    TableObject {
        FAMILY: u32 = NFTNL_TABLE_FAMILY;
        NAME: CStr = NFTNL_TABLE_NAME;
        FLAGS: u32 = NFTNL_TABLE_FLAGS;
        USERDATA: [u8] = NFTNL_TABLE_USERDATA;
    }
    NamedObject {
        FAMILY: u32 = NFTNL_OBJ_FAMILY;
        TABLE: CStr = NFTNL_OBJ_TABLE;
        NAME: CStr = NFTNL_OBJ_NAME;
        TYPE: u32 = NFTNL_OBJ_TYPE;
    }
    SetObject {
        FLAGS: u32 = NFTNL_SET_FLAGS;
        /// In milliseconds.
        TIMEOUT: u64 = NFTNL_SET_TIMEOUT;
        SIZE: u32 = NFTNL_SET_DESC_SIZE;
        USERDATA: [u8] = NFTNL_SET_USERDATA;
    }
    ElementObject {
        KEY: [u8] = NFTNL_SET_ELEM_KEY;
        FLAGS: u32 = NFTNL_SET_ELEM_FLAGS;
        /// In milliseconds.
        TIMEOUT: u64 = NFTNL_SET_ELEM_TIMEOUT;
    }
    ByteorderExpr {
        INTO: u32 = NFTNL_EXPR_BYTEORDER_DREG;
        FROM: u32 = NFTNL_EXPR_BYTEORDER_SREG;
        OPERATION: u32 = NFTNL_EXPR_BYTEORDER_OP;
        /// In bytes.
        LENGTH: u32 = NFTNL_EXPR_BYTEORDER_LEN;
        /// The size of each number, in bytes.
        SIZE: u32 = NFTNL_EXPR_BYTEORDER_SIZE;
    }
    CounterExpr {
        TYPE: u32 = NFTNL_EXPR_OBJREF_IMM_TYPE;
        NAME: CStr = NFTNL_EXPR_OBJREF_IMM_NAME;
    }
    DupExpr {
        ADDRESS: u32 = NFTNL_EXPR_DUP_SREG_ADDR;
        DEVICE: u32 = NFTNL_EXPR_DUP_SREG_DEV;
    }
    DynsetExpr {
        KEY: u32 = NFTNL_EXPR_DYNSET_SREG_KEY;
        SET: CStr = NFTNL_EXPR_DYNSET_SET_NAME;
        SET_ID: u32 = NFTNL_EXPR_DYNSET_SET_ID;
        OPERATION: u32 = NFTNL_EXPR_DYNSET_OP;
        /// In milliseconds.
        TIMEOUT: u64 = NFTNL_EXPR_DYNSET_TIMEOUT;
    }
    FibExpr {
        INTO: u32 = NFTNL_EXPR_FIB_DREG;
        RESULT: u32 = NFTNL_EXPR_FIB_RESULT;
        FLAGS: u32 = NFTNL_EXPR_FIB_FLAGS;
    }
    LookupExpr {
        KEY: u32 = NFTNL_EXPR_LOOKUP_SREG;
        SET: CStr = NFTNL_EXPR_LOOKUP_SET;
        SET_ID: u32 = NFTNL_EXPR_LOOKUP_SET_ID;
        FLAGS: u32 = NFTNL_EXPR_LOOKUP_FLAGS;
    }
    MetaExpr {
        KEY: u32 = NFTNL_EXPR_META_KEY;
        INTO: u32 = NFTNL_EXPR_META_DREG;
    }
    NatExpr {
        TYPE: u32 = NFTNL_EXPR_NAT_TYPE;
        FAMILY: u32 = NFTNL_EXPR_NAT_FAMILY;
        PORT: u32 = NFTNL_EXPR_NAT_REG_PROTO_MIN;
        FLAGS: u32 = NFTNL_EXPR_NAT_FLAGS;
    }
    PayloadExpr {
        INTO: u32 = NFTNL_EXPR_PAYLOAD_DREG;
        FROM: u32 = NFTNL_EXPR_PAYLOAD_SREG;
        BASE: u32 = NFTNL_EXPR_PAYLOAD_BASE;
        OFFSET: u32 = NFTNL_EXPR_PAYLOAD_OFFSET;
        LENGTH: u32 = NFTNL_EXPR_PAYLOAD_LEN;
        CHECKSUM_TYPE: u32 = NFTNL_EXPR_PAYLOAD_CSUM_TYPE;
        CHECKSUM_OFFSET: u32 = NFTNL_EXPR_PAYLOAD_CSUM_OFFSET;
        FLAGS: u32 = NFTNL_EXPR_PAYLOAD_FLAGS;
    }
    QueueExpr {
        NUMBER: u16 = NFTNL_EXPR_QUEUE_NUM;
        TOTAL: u16 = NFTNL_EXPR_QUEUE_TOTAL;
        FLAGS: u16 = NFTNL_EXPR_QUEUE_FLAGS;
    }
}

/// An object that this process owns until libnftnl takes it over.
pub(super) struct Owned<O: Object>(NonNull<O::Raw>);

impl<O: Object> Owned<O> {
    pub(super) fn new() -> Owned<O> {
        Owned(allocated(O::allocate()))
    }

    #[must_use]
    pub(super) fn with<V: AttributeValue + ?Sized>(
        self,
        Attribute(number, ..): Attribute<O, V>,
        value: &V,
    ) -> Owned<O> {
        let (bytes, length) = value.bytes();
        // SAFETY: the object is live, and `value` outlives the call.
        unsafe { O::set(self.0.as_ptr(), number, bytes, length) };
        self
    }

    /// For functions of libnftnl that take the object over.
    pub(super) fn into_raw(self) -> NonNull<O::Raw> {
        ManuallyDrop::new(self).0
    }
}

impl<O: Object> Drop for Owned<O> {
    fn drop(&mut self) {
        // SAFETY: the object is live, and nobody else has it.
        unsafe { O::free(self.0.as_ptr()) };
    }
}

pub(super) fn set_attribute<K, V: AttributeValue + ?Sized>(
    set: &Set<K>,
    Attribute(number, ..): Attribute<SetObject, V>,
    value: &V,
) {
    let (bytes, length) = value.bytes();
    // SAFETY: the set is live, and `value` outlives the call.
    unsafe { SetObject::set(set.as_ptr().as_ptr(), number, bytes, length) };
}

pub(super) fn add_element<K>(set: &Set<K>, element: Owned<ElementObject>) {
    let element = element.into_raw();
    // SAFETY: both are live; the set takes the element over and frees it.
    unsafe { sys::nftnl_set_elem_add(set.as_ptr().as_ptr(), element.as_ptr()) };
}

/// A table with a comment, which nft(8) lists.
pub(super) struct CommentedTable<'a> {
    pub(super) family: ProtoFamily,
    pub(super) name: &'a CStr,
    pub(super) comment: &'a CStr,
    /// The kernel destroys the table when the socket that made it is closed.
    pub(super) owned: bool,
}

// SAFETY: the message is a few attributes of bounded length, far below the largest one.
unsafe impl NlMsg for CommentedTable<'_> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        let mut table = Owned::new()
            .with(TableObject::FAMILY, &(self.family as u32))
            .with(TableObject::NAME, self.name)
            .with(
                TableObject::USERDATA,
                &userdata::with_comment(self.comment)[..],
            );
        if self.owned {
            table = table.with(TableObject::FLAGS, &NFT_TABLE_F_OWNER);
        }
        // SAFETY: the caller hands a buffer for the largest message; the table is live.
        unsafe {
            let header = header(buf, self.family, libc::NFT_MSG_NEWTABLE, NEW, seq);
            sys::nftnl_table_nlmsg_build_payload(header, table.0.as_ptr());
        }
    }
}

/// A named counter. It outlives the rules that use it, so syngate can read it when the gate is
/// open.
pub(super) struct NewCounter<'a> {
    pub(super) table: &'a Table,
    pub(super) name: &'a CStr,
}

// SAFETY: the message is a few attributes of bounded length, far below the largest one.
unsafe impl NlMsg for NewCounter<'_> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        let family = self.table.get_family();
        let counter = Owned::new()
            .with(NamedObject::FAMILY, &(family as u32))
            .with(NamedObject::TABLE, self.table.get_name())
            .with(NamedObject::NAME, self.name)
            .with(NamedObject::TYPE, &NFT_OBJECT_COUNTER);
        // SAFETY: the caller hands a buffer for the largest message; the counter is live.
        unsafe {
            let header = header(buf, family, libc::NFT_MSG_NEWOBJ, NEW, seq);
            sys::nftnl_obj_nlmsg_build_payload(header, counter.0.as_ptr());
        }
    }
}

pub(super) struct FlushSet<'a, K>(pub(super) &'a Set<'a, K>);

// SAFETY: the message names the table and the set, nothing else.
unsafe impl<K> NlMsg for FlushSet<'_, K> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        // SAFETY: the caller hands a buffer for the largest message; the set is live.
        unsafe {
            let header = header(buf, self.0.get_family(), libc::NFT_MSG_DELSETELEM, 0, seq);
            sys::nftnl_set_elems_nlmsg_build_payload(header, self.0.as_ptr().as_ptr());
        }
    }
}

/// For messages that create something.
const NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;

/// Writes the start of an acknowledged message.
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

/// libnftnl returns null only when it is out of memory. Rust's own allocations abort the process
/// then.
fn allocated<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).expect("out of memory")
}
