//! Counts, as people read them.

use std::fmt::Display;

/// `1 connection`, `7 connections`.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(count: N, what: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// With a verb: `1 connection was`, `7 connections were`.
pub(crate) fn counted_does<N: Display + PartialEq + From<u8>>(
    count: N,
    what: &str,
    [one, many]: [&str; 2],
) -> String {
    let verb = if count == N::from(1) { one } else { many };
    format!("{} {verb}", counted(count, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_from_many() {
        assert_eq!(counted(1_u64, "SYN"), "1 SYN");
        assert_eq!(counted(0_usize, "SYN"), "0 SYNs");
        assert_eq!(counted(11_u32, "SYN"), "11 SYNs");
        let wait = |count: usize| counted_does(count, "connection", ["waits", "wait"]);
        assert_eq!(wait(1), "1 connection waits");
        assert_eq!(wait(21), "21 connections wait");
    }
}
