//! The processes that a run starts beside itself: the watchdog and the guard of a standby. They are
//! syngate too, called with command lines that no person types and no help shows.

use std::ffi::OsString;
use std::time::Duration;

use crate::action::redirect::{guard, wire};
use crate::gate::backends;
use crate::gate::watchdog;

/// What such a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Orders {
    Watchdog(watchdog::WatchOrders),
    /// `syngate standby-guard MILLISECONDS LINE`.
    Standby {
        line: OsString,
        grace: Duration,
    },
}

impl Orders {
    pub(crate) fn parse(words: &[OsString]) -> Option<Orders> {
        let watchdog = watchdog::WatchOrders::parse(words).map(Orders::Watchdog);
        watchdog.or_else(|| Orders::standby(words))
    }

    fn standby(words: &[OsString]) -> Option<Orders> {
        let [_, command, ms, line] = words else {
            return None;
        };
        if command != wire::COMMAND {
            return None;
        }
        Some(Orders::Standby {
            line: line.clone(),
            grace: Duration::from_millis(ms.to_str()?.parse().ok()?),
        })
    }

    /// Returns when there is nothing left to guard.
    pub(crate) fn carry_out(&self) {
        match self {
            Orders::Watchdog(orders) => backends::watch(orders),
            Orders::Standby { line, grace } => guard::guard(line, *grace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::kinds::Kind;

    fn parse(call: &[&str]) -> Option<Orders> {
        let words: Vec<OsString> = call.iter().map(OsString::from).collect();
        Orders::parse(&words)
    }

    #[test]
    fn guards_are_called_in_one_way_each() {
        let watchdog = Orders::Watchdog(watchdog::WatchOrders {
            kind: Kind::Nft,
            run: "0123456789abcdef".to_owned(),
            within: Duration::from_millis(1_500),
        });
        let call = ["syngate", "watchdog", "nft", "0123456789abcdef", "1500"];
        assert_eq!(parse(&call), Some(watchdog));
        let standby = Orders::Standby {
            line: "serve --port 8080".into(),
            grace: Duration::from_secs(10),
        };
        let call = ["syngate", "standby-guard", "10000", "serve --port 8080"];
        assert_eq!(parse(&call), Some(standby));
        for call in [
            &["syngate"][..],
            &["syngate", "watchdog"],
            &["syngate", "watchdog", "pf", "0123456789abcdef", "1500"],
            &["syngate", "watchdog", "nft", "0123456789abcdef", "soon"],
            &["syngate", "standby-guard", "soon", "serve"],
            &["syngate", "standby-guard", "10000", "serve", "--port"],
            &["watchdog", "nft", "0123456789abcdef", "1500"],
        ] {
            assert_eq!(parse(call), None, "{call:?}");
        }
    }
}
