//! The values of `--syn`, and of the options that belong to one of its actions.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};

use crate::action::divert::peer::Peers;
use crate::kernel::services::one_port;
use crate::words::meant::{meant, question};
use crate::words::number::number_in;

/// The default of `--max-held`.
pub(crate) const MAX_HELD: u32 = 65_536;
/// The largest `--max-held`: newer kernels let no more packets into a queue (seen on Linux 6.18).
pub(crate) const LARGEST_HELD: u32 = 65_536;
/// The default of `--max-held-per-source` is this part of `--max-held`.
pub(crate) const PART_OF_SOURCE: u32 = 4;

/// The default of `--max-diverted`.
pub(crate) const MAX_DIVERTED: u32 = 65_536;
/// The largest `--max-diverted`: an entry takes some 200 bytes of the kernel's memory.
pub(crate) const LARGEST_DIVERTED: u32 = 4_194_304;

/// `--syn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Syn {
    /// They are dropped, and their clients send them again
    Drop,
    /// They wait in a queue of the kernel's, and go on when the gate opens
    Hold,
    /// hold where that can be done, else drop
    Auto,
    /// They, and their connections, go to this port, where a standby listens
    Redirect(u16),
    /// They, and their connections, go to this host, which has the same address
    Divert(Peers),
}

/// clap's own parser for enums knows no values with a part of their own, as in `redirect=PORT`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SynParser;

impl Syn {
    const NAMES: [&str; 5] = ["drop", "hold", "auto", "redirect", "divert"];

    fn parse(text: &str) -> Result<Syn, String> {
        let (action, to) = match text.split_once('=') {
            Some((action, to)) => (action, Some(to)),
            None => (text, None),
        };
        match (action, to) {
            ("drop", None) => Ok(Syn::Drop),
            ("hold", None) => Ok(Syn::Hold),
            ("auto", None) => Ok(Syn::Auto),
            ("redirect", Some(port)) => one_port(port).map(Syn::Redirect),
            ("redirect", None) => Err(
                "where to? expected the port that the standby listens on, as in redirect=8080"
                    .to_owned(),
            ),
            ("divert", Some(peers)) => Peers::parse(peers).map(Syn::Divert),
            ("divert", None) => {
                Err("where to? expected the address of the peer, as in divert=10.0.0.2".to_owned())
            }
            _ => Err(format!(
                "expected drop, hold, auto, redirect=PORT or divert=ADDR{}",
                question(meant(action, Syn::NAMES))
            )),
        }
    }
}

impl TypedValueParser for SynParser {
    type Value = Syn;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Syn, clap::Error> {
        let parse = |text: &str| Syn::parse(text);
        TypedValueParser::parse_ref(&parse, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = [
            (
                "drop",
                "They are dropped, and their clients send them again",
            ),
            (
                "hold",
                "They wait in a queue of the kernel's, and go on when the gate opens",
            ),
            ("auto", "hold where that can be done, else drop"),
            (
                "redirect=PORT",
                "They, and their connections, go to PORT of the same address, where a standby listens",
            ),
            (
                "divert=ADDR",
                "They, and their connections, go to the host ADDR, which has the same address and service",
            ),
        ];
        let values = values.map(|(name, help)| PossibleValue::new(name).help(help));
        Some(Box::new(values.into_iter()))
    }
}

pub(crate) fn held(text: &str) -> Result<u32, String> {
    number_in(1..=LARGEST_HELD, text)
}

pub(crate) fn diverted(text: &str) -> Result<u32, String> {
    number_in(1..=LARGEST_DIVERTED, text)
}

pub(crate) fn queue_number(text: &str) -> Result<u16, String> {
    number_in(0..=u16::MAX, text)
}
