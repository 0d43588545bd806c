//! The names of syngate's tables, sets and counters, and the comment on its tables.

use std::ffi::{CStr, CString};

use crate::gate::rules::PREFIX;

pub(super) const PORTS: &CStr = c"ports";
pub(super) const STOPPED: &CStr = c"syns_stopped";
/// SYNs that found the set of diverted connections full.
pub(super) const NO_ROOM: &CStr = c"no_room";
/// Packets of diverted connections that are not SYNs.
pub(super) const WENT_ON: &CStr = c"went_on";

// The sets to which the gate is narrowed.
pub(super) const TO_V4: &CStr = c"to4";
pub(super) const TO_V6: &CStr = c"to6";
pub(super) const INTERFACES: &CStr = c"interfaces";

// The sets of what the gate lets through.
pub(super) const ALLOWED_V4: &CStr = c"allowed4";
pub(super) const ALLOWED_V6: &CStr = c"allowed6";
pub(super) const ALLOWED_INTERFACES: &CStr = c"allowed_interfaces";

/// The clients that are refused while a run leaves its load balancer.
pub(super) const FROM_V4: &CStr = c"from4";
pub(super) const FROM_V6: &CStr = c"from6";
/// The ports whose new connections are counted meanwhile.
pub(super) const COUNTED: &CStr = c"counted";
pub(super) const ARRIVED: &CStr = c"new_connections";

/// Diverted connections, by addresses and ports of both ends.
pub(super) const FLOWS: &CStr = c"flows";
/// Diverted connections whose clients have closed their side or given up.
pub(super) const CLOSING: &CStr = c"closing";
/// New connections to be diverted, which have not met the host's own rules yet.
pub(super) const ARRIVING: &CStr = c"arriving";
/// Connections that are half open on this host. A repeated SYN of such a client is not diverted.
pub(super) const HALF_OPEN: &CStr = c"half_open";

/// nft(8) takes a comment of at most 128 bytes, its NUL included (libnftnl/udata.h,
/// NFTNL_UDATA_COMMENT_MAXLEN).
const SHOWN_MAX: usize = 127;
/// A table's userdata holds 256 bytes (NFT_USERDATA_MAXLEN). What the comment has no room for stands beside
/// it, and both have a type and a length.
const COMMENT_MAX: usize = 256 - 2 * 2 - 1;

pub(super) fn table_name(id: &str) -> CString {
    CString::new(format!("{PREFIX}{id}")).expect("an id is hexadecimal")
}

/// Makes a text fit for a comment. nft prints comments between quotes as they are, so this replaces
/// characters that would end or garble them.
pub(super) fn fit_comment(text: &str) -> CString {
    let mut clean: String = text
        .chars()
        .map(|c| if c == '"' { '\'' } else { c })
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    while clean.len() > COMMENT_MAX {
        clean.pop();
    }
    CString::new(clean).expect("control characters, NUL among them, are replaced")
}

/// The part of a comment that nft(8) shows, and the rest.
pub(super) fn shown(comment: &CStr) -> (&[u8], &[u8]) {
    let text = comment.to_bytes();
    let mut end = text.len().min(SHOWN_MAX);
    // A character of UTF-8 does not begin at a byte 0b10xxxxxx.
    while end < text.len() && text[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_fit_and_end_no_quotes() {
        let comment = fit_comment("a \"quoted\"\nword\0");
        assert_eq!(comment.as_c_str(), c"a 'quoted'?word?");
        // 256 bytes of userdata, less two types, two lengths and a NUL.
        let fits = "x".repeat(251);
        assert_eq!(fit_comment(&fits).to_bytes(), fits.as_bytes());
        assert_eq!(
            fit_comment(&(fits.clone() + "yz")).to_bytes(),
            fits.as_bytes()
        );
        let cut = fit_comment(&"é".repeat(200));
        assert_eq!(
            cut.to_str().unwrap(),
            "é".repeat(125),
            "not within a character"
        );
        let comment = fit_comment(&"é".repeat(100));
        let (first, rest) = shown(&comment);
        assert_eq!((first.len(), first.len() + rest.len()), (126, 200));
        assert_eq!(shown(c"short"), (&b"short"[..], &b""[..]));
    }
}
