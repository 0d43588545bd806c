//! The options of `--syn divert=ADDR`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap::builder::BoolishValueParser;

use super::peer::Peers;
use super::prepare::{PeerReady, ask_peer};
use super::probe::AT_A_TIME;
use super::to_peer::ToPeer;
use crate::action::contract::{
    ActionEntry, Before, Description, HEADING, Planned, Prepared, Request, Standing, SynValue,
    Wanted, options,
};
use crate::action::elsewhere::LingerOptions;
use crate::decide::removal::OTHERS_PATIENCE;
use crate::gate::kinds::Kind;
use crate::words::duration::duration;
use crate::words::ending::Ending;
use crate::words::family::Family;
use crate::words::gated::Gated;
use crate::words::limit::Limit::Number;
use crate::words::number::number_in;
use crate::words::steer::Steer;

pub(crate) const MAX_DIVERTED: u32 = 65_536;
/// The largest `--max-diverted`: each takes some 200 bytes of kernel memory.
pub(crate) const LARGEST_DIVERTED: u32 = 4_194_304;

pub(crate) const ENTRY: ActionEntry = ActionEntry {
    name: "divert",
    value: "divert=ADDR",
    help: "They, and their connections, go to the host ADDR, which has the same address and service",
    options: PeerOptions::augment_args,
    parse,
    rows: &["divert"],
    standing: Standing {
        shut: "is diverted to",
        clients: "",
        open: Some("connections to its peer finish"),
        done: "diverted or dropped",
    },
    limits: &[
        ("Diverted", Number(MAX_DIVERTED as u64)),
        ("Diverted", Number(LARGEST_DIVERTED as u64)),
        ("Peer", Number(AT_A_TIME as u64)),
    ],
    guard: |_| None,
};

#[derive(Debug, Clone, Args)]
struct PeerOptions {
    /// divert: max. number of connections at the peer at a time
    ///
    /// For each IP version. SYNs beyond that are dropped; their clients send them again.
    #[arg(long, value_name = "N", env = "SYNGATE_MAX_DIVERTED", default_value_t = MAX_DIVERTED, value_parser = diverted, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    max_diverted: u32,

    /// divert: max. time for the peer to answer
    ///
    /// It must accept a connection to each address and port before the gate closes.
    #[arg(long, value_name = "DUR", env = "SYNGATE_PEER_TIMEOUT", default_value = "2s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    peer_timeout: Duration,

    /// divert: don't ask the peer
    #[arg(long, env = "SYNGATE_NO_PEER_CHECK", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = HEADING)]
    no_peer_check: bool,
}

fn diverted(text: &str) -> Result<u32, String> {
    number_in(1..=LARGEST_DIVERTED, text)
}

fn parse(to: Option<&str>) -> Result<SynValue, String> {
    let to =
        to.ok_or("the address is missing; expected that of the peer, as in divert=10.0.0.2")?;
    Ok(Arc::new(Peers::parse(to)?))
}

impl Wanted for Peers {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String> {
        let LingerOptions { linger } = options(request.given)?;
        let options: PeerOptions = options(request.given)?;
        let kinds = request.backend.kinds();
        if !kinds.contains(&Kind::Nft) {
            return Err(format!(
                "--syn divert={self} and --backend {} exclude each other: iptables can't remember \
                 connections by the packets that it sees; nft can",
                kinds.first().map_or("", |kind| kind.name())
            ));
        }
        if !request
            .gated
            .families()
            .any(|family| self.of(family).is_some())
        {
            return Err(format!(
                "--syn divert={self}: --to {} has no address of that IP version, so nothing would be diverted",
                request.gated.scope.to
            ));
        }
        if options.peer_timeout.is_zero() && !options.no_peer_check {
            return Err(
                "--peer-timeout 0s: the peer would have no time to answer; --no-peer-check does not \
                 ask it"
                    .to_owned(),
            );
        }
        Ok(Box::new(ToPeer {
            peers: self.clone(),
            linger,
            most: options.max_diverted,
            idle: request.max_closed + linger,
            ask: (!options.no_peer_check).then_some(options.peer_timeout),
        }))
    }
}

impl Planned for ToPeer {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn describe(&self, gated: &Gated) -> Description {
        let mut before = vec![match self.ask {
            Some(timeout) => format!(
                "check that {} accepts connections to {} within {}",
                self.peers,
                gated.ports.brief(),
                humantime::format_duration(timeout)
            ),
            None => format!("{} is not asked whether it accepts connections", self.peers),
        }];
        let dropped = |family: &Family| self.peers.of(*family).is_none();
        before.extend(
            gated
                .families()
                .filter(dropped)
                .map(|family| format!("SYNs of {family} are dropped: no peer for them")),
        );
        let linger = humantime::format_duration(self.linger);
        Description {
            before,
            close: ", which go to the peer",
            after: vec![format!(
                "let connections to the peer finish within {linger}"
            )],
            ..Description::default()
        }
    }

    fn steer(&self) -> Result<Option<Steer>> {
        Ok(Some(Steer::Divert(self.diversion()?)))
    }

    fn lingers(&self) -> Duration {
        self.linger + OTHERS_PATIENCE
    }

    fn prepare(&self, before: &mut Before) -> Result<Box<dyn Prepared>, Ending> {
        ask_peer(self, before)?;
        Ok(Box::new(PeerReady(self.clone())))
    }
}
