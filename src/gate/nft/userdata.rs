//! Userdata: data that nft(8) stores with tables and sets for its own use, as type, length and
//! value.

use std::ffi::CStr;

use super::names::shown;

/// NFTNL_UDATA_TABLE_COMMENT.
const COMMENT: u8 = 0;
/// What the comment has no room for. nft(8) passes over types that it does not know.
const REST: u8 = 0xf0;

/// A comment as nft(8) writes it, with a NUL at the end, and its rest.
pub(super) fn with_comment(comment: &CStr) -> Vec<u8> {
    let (text, rest) = shown(comment);
    let length = |text: &[u8]| u8::try_from(text.len()).expect("cut to fit, in names.rs");
    let mut userdata = [&[COMMENT, length(text) + 1], text, &[0]].concat();
    if !rest.is_empty() {
        userdata.extend([REST, length(rest)]);
        userdata.extend(rest);
    }
    userdata
}

/// The comment with its rest, without a NUL; empty if there is none.
pub(super) fn comment_in(mut userdata: &[u8]) -> Vec<u8> {
    let (mut comment, mut more) = (&[][..], &[][..]);
    while let [kind, length, rest @ ..] = userdata {
        let Some((value, others)) = rest.split_at_checked(usize::from(*length)) else {
            break;
        };
        match *kind {
            COMMENT if comment.is_empty() => comment = value,
            REST if more.is_empty() => more = value,
            _ => (),
        }
        userdata = others;
    }
    let comment = comment.split(|byte| *byte == 0).next();
    [comment.unwrap_or_default(), more].concat()
}

/// Tells nft(8) that a set's keys are in host byte order. For a set of strings nft(8) can't know
/// this, and would list the keys as empty.
pub(super) fn with_host_byte_order() -> [u8; 6] {
    const NFTNL_UDATA_SET_KEYBYTEORDER: u8 = 0;
    const BYTEORDER_HOST_ENDIAN: u32 = 1;
    let [a, b, c, d] = BYTEORDER_HOST_ENDIAN.to_ne_bytes();
    [NFTNL_UDATA_SET_KEYBYTEORDER, 4, a, b, c, d]
}

/// Checks the parser for any userdata, and that any comment reads back as it was.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let comment = comment_in(bytes);
    assert!(comment.is_empty() || comment.len() + 2 <= bytes.len());
    let text = String::from_utf8_lossy(bytes);
    let comment = super::names::fit_comment(&text);
    let userdata = with_comment(&comment);
    assert!(userdata.len() <= 256);
    assert_eq!(comment_in(&userdata), comment.to_bytes());
    let behind = [&[1, 2, 0, 0][..], &userdata].concat();
    assert_eq!(comment_in(&behind), comment.to_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_host_byte_order_are_said_to_be() {
        let one = 1_u32.to_ne_bytes();
        assert_eq!(
            with_host_byte_order(),
            [0, 4, one[0], one[1], one[2], one[3]]
        );
    }

    #[test]
    fn comments_are_found_again() {
        assert_eq!(comment_in(&with_comment(c"a gate")), b"a gate");
        assert_eq!(comment_in(&[7, 1, 9, 0, 2, b'x', 0]), b"x");
        let twice = [0, 1, b'x', 0, 1, b'y', REST, 1, b'1', REST, 1, b'2'];
        assert_eq!(comment_in(&twice), b"x1", "the first of each kind");
        let long = std::ffi::CString::new("x".repeat(200)).unwrap();
        let userdata = with_comment(&long);
        assert_eq!(userdata[..3], [COMMENT, 128, b'x']);
        assert_eq!(comment_in(&userdata), long.to_bytes());
        for cut in [&[][..], &[0], &[0, 3, 1], &[7, 0]] {
            assert_eq!(comment_in(cut), b"", "{cut:?}");
        }
    }
}
