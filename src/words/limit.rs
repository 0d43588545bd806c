//! A time or limit that the manual names, and how the manual writes it.

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    Time(Duration),
    Number(u64),
    Bytes(usize),
    /// In bytes, a multiple of 1 MiB.
    MiB(usize),
}

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter) -> Result {
        match *self {
            Limit::Time(time) => match time.as_millis() {
                0 => write!(f, "{} ms", time.as_micros() as f64 / 1e3),
                ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
                ms if ms % 1_000 == 0 => write!(f, "{} s", ms / 1_000),
                ms => write!(f, "{ms} ms"),
            },
            Limit::Number(number) => write!(f, "{number}"),
            Limit::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Limit::MiB(bytes) => write!(f, "{} MiB", bytes >> 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_the_manual_writes_them() {
        let time = |micros| Limit::Time(Duration::from_micros(micros)).to_string();
        assert_eq!(time(500), "0.5 ms");
        assert_eq!(time(1_500_000), "1500 ms");
        assert_eq!(time(90_000_000), "90 s");
        assert_eq!(time(7_200_000_000), "2h");
        assert_eq!(Limit::Number(7).to_string(), "7");
        assert_eq!(Limit::Bytes(7).to_string(), "7 bytes");
        assert_eq!(Limit::MiB(3 << 20).to_string(), "3 MiB");
    }
}
