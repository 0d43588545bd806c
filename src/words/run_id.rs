//! The id of a run.

use std::hash::{BuildHasher, Hasher};

/// In hexadecimal digits.
pub(crate) const ID_LENGTH: usize = 16;

/// A random number in hexadecimal. The standard library seeds its hashers from getrandom(2).
pub(crate) fn new_id() -> String {
    let hasher = std::collections::hash_map::RandomState::new().build_hasher();
    format!("{:0width$x}", hasher.finish(), width = ID_LENGTH)
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
    }
}
