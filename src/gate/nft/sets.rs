//! Sets that the `nftnl` crate can't make: with timeouts, intervals or a fixed size, and filled by
//! packets.

use std::ffi::CStr;
use std::time::Duration;

use nftnl::Table;
use nftnl::set::{Set, SetKey};
use nix::libc;

use super::raw::{ElementObject, Owned, SetObject, add_element, set_attribute};
use super::userdata;

/// A TCP port as a set key: nft's `inet_service` (13 in nft's list of data types).
pub(super) struct Port(pub(super) u16);

impl SetKey for Port {
    const TYPE: u32 = 13;
    const LEN: u32 = 2;

    fn data(&self) -> Box<[u8]> {
        Box::new(self.0.to_be_bytes())
    }
}

/// An interface as a set key: nft's `ifname` (41 in nft's list of data types), NUL-padded.
pub(super) struct Interface(pub(super) String);

impl SetKey for Interface {
    const TYPE: u32 = 41;
    const LEN: u32 = 16;

    fn data(&self) -> Box<[u8]> {
        let mut name = self.0.clone().into_bytes();
        name.resize(Interface::LEN as usize, 0);
        name.into()
    }
}

/// The addresses and ports of both ends of a connection as a set key: nft's `ipv4_addr .
/// inet_service . ipv4_addr . inet_service`. The number of a concatenated type consists of the
/// numbers of its parts (7, 13 and, for IPv6, 8), six bits each. Each part fills whole registers of
/// four bytes.
pub(super) struct FlowV4(pub(super) Box<[u8]>);

impl SetKey for FlowV4 {
    const TYPE: u32 = 7 << 18 | 13 << 12 | 7 << 6 | 13;
    const LEN: u32 = 4 * 4;

    fn data(&self) -> Box<[u8]> {
        self.0.clone()
    }
}

/// See [`FlowV4`].
pub(super) struct FlowV6(pub(super) Box<[u8]>);

impl SetKey for FlowV6 {
    const TYPE: u32 = 8 << 18 | 13 << 12 | 8 << 6 | 13;
    const LEN: u32 = 2 * 16 + 2 * 4;

    fn data(&self) -> Box<[u8]> {
        self.0.clone()
    }
}

/// An empty set. `flags`: `NFT_SET_INTERVAL`, `NFT_SET_TIMEOUT`.
pub(super) fn named_set<'a, K: SetKey>(
    table: &'a Table,
    name: &CStr,
    id: u32,
    flags: libc::c_int,
) -> Set<'a, K> {
    let set = Set::<K>::new_named(name, id, table, table.get_family());
    set_attribute(&set, SetObject::FLAGS, &(flags as u32));
    set
}

/// A set that packets fill, of at most `most` elements. An element stays for `idle`, unless the
/// packet's rule says otherwise.
pub(super) fn flow_set<'a, K: SetKey>(
    table: &'a Table,
    name: &CStr,
    id: u32,
    most: u32,
    idle: Duration,
) -> Set<'a, K> {
    let set = named_set(table, name, id, libc::NFT_SET_TIMEOUT | libc::NFT_SET_EVAL);
    limit(&set, most);
    set_attribute(&set, SetObject::TIMEOUT, &timeout_ms(idle));
    set
}

pub(super) fn limit<K>(set: &Set<K>, most: u32) {
    set_attribute(set, SetObject::SIZE, &most);
}

/// Makes nft(8) list the keys of a set of strings.
pub(super) fn in_host_order<K>(set: &Set<K>) {
    set_attribute(
        set,
        SetObject::USERDATA,
        &userdata::with_host_byte_order()[..],
    );
}

/// Adds a key, which the kernel removes after `timeout`.
pub(super) fn put<K: SetKey>(set: &Set<K>, key: &K, timeout: Option<Duration>) {
    let mut element = element(key);
    if let Some(timeout) = timeout {
        element = element.with(ElementObject::TIMEOUT, &timeout_ms(timeout));
    }
    add_element(set, element);
}

/// Adds an interval as two elements: its first key, with the timeout, and the first key after it,
/// unless it reaches the largest key.
pub(super) fn put_interval<K: SetKey>(
    set: &Set<K>,
    begin: &K,
    after: Option<&K>,
    timeout: Option<Duration>,
) {
    put(set, begin, timeout);
    if let Some(after) = after {
        let end = libc::NFT_SET_ELEM_INTERVAL_END as u32;
        add_element(set, element(after).with(ElementObject::FLAGS, &end));
    }
}

fn element<K: SetKey>(key: &K) -> Owned<ElementObject> {
    Owned::new().with(ElementObject::KEY, &key.data()[..])
}

/// The kernel takes a timeout of 0 as none, and a gate without a timeout would not open by itself.
/// The kernel counts in jiffies, of 10 ms at most, and rounds less than one down to 0
/// (nf_msecs_to_jiffies64()).
pub(super) fn timeout_ms(timeout: Duration) -> u64 {
    const LONGEST_JIFFY: u64 = 10;
    (timeout.as_millis() as u64).max(LONGEST_JIFFY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gate_is_without_a_deadline() {
        assert_eq!(timeout_ms(Duration::ZERO), 10);
        assert_eq!(timeout_ms(Duration::from_micros(10)), 10);
        assert_eq!(timeout_ms(Duration::from_secs(30)), 30_000);
    }
}
