//! `--syn divert`: is the peer a neighbour, does it take connections, would anything of this host make
//! it fail? Nothing is gated before that is known.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Before, not_gated, unseen};
use crate::netlink::Refusal;
use crate::report::{Ending, Report};
use crate::route::{Link, NextHop, Routing};
use crate::signals::Caught;
use crate::sockets::diag::Sockets;
use crate::sockets::{Family, Want};
use crate::step::{OTHERS_LOOK, OTHERS_PATIENCE};
use crate::syn::SynAction;
use crate::syn::divert::ToPeer;
use crate::syn::divert::probe::{AT_A_TIME, Answer, Asking};
use crate::syn::divert::way::{Here, Question, Served, questions, remarks, without_peer};
use crate::syn::hold::queue;

impl Before<'_> {
    /// Sees to it that connections can be handed to the peer.
    ///
    /// # Errors
    /// They can't.
    pub fn ask_peer(&self, sockets: &mut Sockets, report: &mut Report) -> Result<(), Ending> {
        let SynAction::Divert(to) = &self.plan.syn else {
            return Ok(());
        };
        let diversion = to.diversion().map_err(no_peer)?;
        let mut routing = Routing::open().map_err(no_peer)?;
        let here = here(&mut routing).map_err(|refusal| no_peer(refusal.into()))?;
        let served = self.served(sockets)?;
        let scope = &self.plan.scope;
        for family in without_peer(&served, scope, &diversion, &here) {
            let version = match family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            };
            let text = format!(
                "--syn divert={}: that is no {version} address: SYNs of {version} are dropped",
                to.peers
            );
            self.warn(text, report);
        }
        let addressed = self.plan.standby_scope().is_some();
        let questions = questions(&served, addressed, scope, &diversion, &here);
        let route_mtu = |hop: &NextHop| {
            let route = routing.to(hop.address, Some(hop.device.index));
            route.ok().flatten().and_then(|route| route.mtu)
        };
        let joins = |link: &Link| crate::sys::joins_received(&link.device.to_string());
        for remark in remarks(&questions, &here, route_mtu, joins) {
            self.warn(format!("--syn divert: {remark}"), report);
        }
        self.put(to, &questions, report)
    }

    /// Who listens for the gated ports.
    fn served(&self, sockets: &mut Sockets) -> Result<Vec<Served>, Ending> {
        let config = &self.plan.config;
        let sample = sockets.look(Want::default()).map_err(unseen)?;
        let served = |port| config.listen_ports.served_by(port, &config.ports);
        let all = sample.listeners.into_iter().map(|listener| Served {
            ports: served(listener.port),
            listener,
        });
        Ok(all.collect())
    }

    /// Does the peer take a connection to each address and port that is served here?
    fn put(&self, to: &ToPeer, questions: &[Question], report: &mut Report) -> Result<(), Ending> {
        let Some(timeout) = to.ask else {
            self.say.phase("the peer is not asked");
            return Ok(());
        };
        let (can, cannot): (Vec<Question>, Vec<Question>) =
            questions.iter().cloned().partition(|q| q.from.is_some());
        if !cannot.is_empty() {
            let all = cannot.iter().map(|question| question.to);
            let text = format!(
                "--syn divert={}: it can't be asked whether it accepts connections to {}, since this host \
                 has no other address there that the peer has not; is --to what is missing?",
                to.peers,
                shown(all)
            );
            self.warn(text, report);
        }
        for portion in can.chunks(AT_A_TIME) {
            self.let_others_go_first()?;
            let until = Instant::now() + timeout;
            let mut asking = Asking::begin(&report.run, portion, timeout).map_err(no_peer)?;
            while !asking.take().map_err(no_peer)? && Instant::now() < until {
                self.say.waiting("waiting for the peer to answer");
                self.wait_for_news(&asking, until)?;
            }
            self.say.done_waiting();
            self.judge(to, &asking.answers())?;
        }
        if !can.is_empty() {
            let all = can.iter().map(|question| question.to);
            self.say
                .phase(&format!("the peer accepts connections to {}", shown(all)));
        }
        Ok(())
    }

    fn wait_for_news(&self, asking: &Asking, until: Instant) -> Result<(), Ending> {
        let until = self.say.due().map_or(until, |due| due.min(until));
        let caught = self.signals.wait_beside(Some(until), Some(asking.news()));
        match caught {
            Ok(Some(Caught::Stop(signal, sender))) => {
                Err(Ending::interrupted_before(signal, sender))
            }
            Err(error) => Err(no_peer(error.into())),
            Ok(_) => Ok(()),
        }
    }

    /// When the rules to ask by go, the kernel drops what is in any queue of the network namespace
    /// (nf_queue_nf_hook_drop()): whoever holds SYNs has time to let them go.
    fn let_others_go_first(&self) -> Result<(), Ending> {
        let until = Instant::now() + OTHERS_PATIENCE;
        while queue::others_hold(None) && Instant::now() < until {
            self.wait_until(Instant::now() + OTHERS_LOOK)?;
        }
        Ok(())
    }

    fn judge(&self, to: &ToPeer, answers: &[(SocketAddr, Answer)]) -> Result<(), Ending> {
        let with = |wanted: fn(&Answer) -> bool| {
            let all = answers.iter().filter(|(_, answer)| wanted(answer));
            shown(all.map(|(at, _)| *at))
        };
        let refused = with(|answer| matches!(answer, Answer::Refused(_)));
        let silent = with(|answer| *answer == Answer::Silent);
        let hint = "(--to names the addresses that both hosts have)";
        let why = match (&refused[..], &silent[..]) {
            ("", "") => return Ok(()),
            ("", silent) => {
                let timeout = to.ask.map(|t| humantime::format_duration(t).to_string());
                format!(
                    "it does not answer on {silent} within --peer-timeout {}: does it have that address, \
                     and let its packets in (rp_filter, firewall)? {hint}",
                    timeout.unwrap_or_default()
                )
            }
            (refused, _) => format!("it refuses connections to {refused} {hint}"),
        };
        Err(not_gated(
            "peer",
            &format!("--syn divert={}: {why}", to.peers),
        ))
    }
}

fn here(routing: &mut Routing) -> Result<Here, Refusal> {
    Ok(Here {
        own: routing.addresses()?,
        links: routing.links()?,
    })
}

fn no_peer(error: anyhow::Error) -> Ending {
    not_gated("peer", &format!("{error:#}"))
}

/// Some of them, and how many more.
fn shown(all: impl Iterator<Item = SocketAddr>) -> String {
    const SHOWN: usize = 4;
    let all: Vec<String> = all.map(|at| at.to_string()).collect();
    match all.len() {
        0..=SHOWN => all.join(" "),
        n => format!("{} and {} more", all[..SHOWN].join(" "), n - SHOWN),
    }
}
