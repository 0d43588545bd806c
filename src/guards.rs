//! The processes that a run starts beside itself: the watchdog and the guard of a standby. They are
//! syngate too, called with command lines that no person types and no help shows.

use std::ffi::OsString;
use std::time::Duration;

use crate::action::redirect::standby;
use crate::gate::choice::Kind;
use crate::gate::watchdog;

/// What such a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Orders {
    /// `syngate watchdog KIND RUN MILLISECONDS`.
    Watchdog {
        kind: Kind,
        run: String,
        within: Duration,
    },
    /// `syngate standby-guard MILLISECONDS LINE`.
    Standby { line: OsString, grace: Duration },
}

impl Orders {
    pub(crate) fn parse(words: &[OsString]) -> Option<Orders> {
        Orders::watchdog(words).or_else(|| Orders::standby(words))
    }

    fn watchdog(words: &[OsString]) -> Option<Orders> {
        let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
        let [_, watchdog::COMMAND, kind, run, ms] = words?[..] else {
            return None;
        };
        Some(Orders::Watchdog {
            kind: Kind::named(kind)?,
            run: run.to_owned(),
            within: Duration::from_millis(ms.parse().ok()?),
        })
    }

    fn standby(words: &[OsString]) -> Option<Orders> {
        let [_, command, ms, line] = words else {
            return None;
        };
        if command != standby::COMMAND {
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
            Orders::Watchdog { kind, run, within } => watchdog::watch(*kind, run, *within),
            Orders::Standby { line, grace } => standby::guard(line, *grace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(call: &[&str]) -> Option<Orders> {
        let words: Vec<OsString> = call.iter().map(OsString::from).collect();
        Orders::parse(&words)
    }

    #[test]
    fn guards_are_called_in_one_way_each() {
        let watchdog = Orders::Watchdog {
            kind: Kind::Nft,
            run: "0123456789abcdef".to_owned(),
            within: Duration::from_millis(1_500),
        };
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
