//! The id of a run.

use std::hash::{BuildHasher, Hasher};

/// In hexadecimal digits.
pub(crate) const ID_LENGTH: usize = 16;

/// A random number in hexadecimal. The standard library seeds its hashers from getrandom(2).
pub(crate) fn new_id() -> String {
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    format!("{:0width$x}", hasher.finish(), width = ID_LENGTH)
}

/// Whether it is one. Files are named by it.
pub(crate) fn is_id(id: &str) -> bool {
    id.len() == ID_LENGTH
        && id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_have_the_same() {
        let (one, other) = (new_id(), new_id());
        assert_eq!((one.len(), other.len()), (ID_LENGTH, ID_LENGTH));
        assert!(u64::from_str_radix(&one, 16).is_ok(), "{one}");
        assert_ne!(one, other);
        assert!(is_id(&one) && is_id(&other));
        for wrong in ["", "../../etc/passwd", &one[1..], "0123456789ABCDEF"] {
            assert!(!is_id(wrong), "{wrong}");
        }
    }
}
