//! Values that only the command line has. The parsers of the others stand beside their types.

use std::sync::Arc;

use ipnet::IpNet;

use crate::decide::config::Settle;
use crate::words::duration::duration;
use crate::words::number::number_in;
use crate::words::scope::{parse_interfaces, parse_networks};

/// One value of `--to` or `--allow-from`. For clap, a `Vec` in place of the `Arc` would mean an option
/// that is repeated.
pub(crate) type Nets = Arc<[IpNet]>;
/// One value of `--interface`.
pub(crate) type Names = Arc<[String]>;

pub(crate) fn networks(text: &str) -> Result<Nets, String> {
    parse_networks(text).map(Into::into)
}

pub(crate) fn interfaces(text: &str) -> Result<Names, String> {
    parse_interfaces(text).map(Into::into)
}

/// `--max-addresses` of a keep, if it is not given.
pub(crate) const ADDRESSES: u32 = 128;
/// The programs of `--any` know no more.
const MOST_ADDRESSES: u32 = 1_024;

pub(crate) fn addresses(text: &str) -> Result<u32, String> {
    number_in(1..=MOST_ADDRESSES, text)
}

pub(crate) fn settle(text: &str) -> Result<Settle, String> {
    if text == "auto" {
        return Ok(Settle::Auto);
    }
    duration(text)
        .map(Settle::Fixed)
        .map_err(|why| format!("{why}, or auto"))
}

/// What holds for any text as `--settle`.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(taken) = duration(&text) {
        assert_eq!(settle(&text), Ok(Settle::Fixed(taken)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn settle_is_a_duration_or_auto() {
        assert_eq!(settle("auto"), Ok(Settle::Auto));
        assert_eq!(settle("1s"), Ok(Settle::Fixed(Duration::from_secs(1))));
    }

    #[test]
    fn lists_are_read_to_their_ends() {
        let nets = networks("10.0.0.0/8,fd00::1").unwrap();
        assert_eq!((nets.len(), nets[0].prefix_len()), (2, 8));
        assert!(networks("10.0.0.0/8,x").is_err());
        assert_eq!(interfaces("eth0,lo").unwrap()[..], ["eth0", "lo"]);
        assert!(interfaces("eth0,").is_err());
    }
}
