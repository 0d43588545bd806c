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
