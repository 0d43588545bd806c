//! `--syn divert`: is the peer a neighbour, does it take connections, would anything of this host make
//! it fail? Nothing is gated before that is known.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Before, not_gated, unseen};
use crate::action::SynAction;
use crate::action::divert::ToPeer;
use crate::action::divert::probe::{AT_A_TIME, Answer, Asking};
use crate::action::divert::way::{Here, Question, Served, questions, remarks, without_peer};
use crate::decide::{OTHERS_LOOK, OTHERS_PATIENCE};
use crate::gate::who::Who;
use crate::kernel::netlink::Refusal;
use crate::kernel::nfqueue;
use crate::kernel::route::{Link, Routing};
use crate::kernel::sockets::Want;
use crate::kernel::sockets::diag::Sockets;
use crate::process::signals::Caught;
use crate::run::report::Report;
use crate::words::ending::Ending;
use crate::words::hop::NextHop;
use crate::words::ports::PortSet;
use crate::words::steer::Diversion;

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
        let here = here(&mut routing, &diversion).map_err(|refusal| no_peer(refusal.into()))?;
        let served = self.served(sockets)?;
        let scope = &self.plan.scope;
        self.warn_of_what_is_not_diverted(to, &diversion, &served, &here, report);
        let addressed = self.plan.standby_scope().is_some();
        let questions = questions(&served, addressed, scope, &diversion, &here);
        let joins = |link: &Link| crate::kernel::sys::joins_received(&link.device.to_string());
        for remark in remarks(&questions, &here, joins) {
            self.warn(format!("--syn divert: {remark}"), report);
        }
        self.ask_each(to, &questions, &mut routing, &report.run)
    }

    fn warn_of_what_is_not_diverted(
        &self,
        to: &ToPeer,
        diversion: &Diversion,
        served: &[Served],
        here: &Here,
        report: &mut Report,
    ) {
        let scope = &self.plan.scope;
        for family in without_peer(served, scope, diversion, here) {
            let text = format!(
                "--syn divert={}: that is no {family} address: SYNs of {family} are dropped",
                to.peers
            );
            self.warn(text, report);
        }
        let mut own = here.own.iter();
        if !own.any(|own| own.global && scope.reaches(own.address)) {
            let to = &scope.to;
            let text = format!("--to {to}: this host has no such address, and diverts nothing");
            self.warn(text, report);
        }
        let asked: PortSet = served.iter().flat_map(|s| s.ports.iter()).collect();
        let deserted = self.plan.config.ports.minus(&asked);
        if to.ask.is_some() && !deserted.is_empty() {
            let deserted = deserted.brief();
            let text = format!("the peer is not asked about {deserted}: nobody listens there now");
            self.warn(text, report);
        }
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
    fn ask_each(
        &self,
        to: &ToPeer,
        questions: &[Question],
        routing: &mut Routing,
        run: &str,
    ) -> Result<(), Ending> {
        let Some(timeout) = to.ask else {
            self.say.phase("the peer is not asked");
            return Ok(());
        };
        let from_nowhere = questions.iter().filter(|question| question.from.is_none());
        let cannot = shown(from_nowhere.map(|question| question.to));
        if !cannot.is_empty() {
            return Err(refused(
                to,
                &format!(
                    "it can't be asked about {cannot}: that leaves this host no address of its own to \
                     ask from; --to names the addresses that both hosts have, and --no-peer-check \
                     does not ask"
                ),
            ));
        }
        let comment = Who::me(self.plan.syn.name(), &self.plan.command_line()).to_string();
        for portion in questions.chunks(AT_A_TIME) {
            self.let_others_go_first()?;
            let until = Instant::now() + timeout;
            let mut asking = match Asking::begin(run, &comment, portion, timeout) {
                Ok(asking) => asking,
                // The gate can't be closed either.
                Err(error) if self.plan.config.best_effort => {
                    self.say
                        .phase(&format!("the peer can't be asked: {error:#}"));
                    return Ok(());
                }
                Err(error) => return Err(no_peer(error)),
            };
            while !asking.take().map_err(no_peer)? && Instant::now() < until {
                self.say.waiting("waiting for the peer to answer");
                self.wait_for_news(&asking, until)?;
            }
            self.say.done_waiting();
            self.let_others_go_first()?;
            let absent = || absent(portion, routing);
            judge(&asking.answers(), absent, timeout).map_err(|why| refused(to, &why))?;
        }
        if !questions.is_empty() {
            let all = shown(questions.iter().map(|question| question.to));
            self.say
                .phase(&format!("the peer accepts connections to {all}"));
        }
        Ok(())
    }

    fn wait_for_news(&self, asking: &Asking, until: Instant) -> Result<(), Ending> {
        let until = self.say.due().map_or(until, |due| due.min(until));
        let caught = self.signals.wait_beside(Some(until), Some(asking.news()));
        match caught {
            Some(Caught::Stop(signal, sender)) => Err(Ending::interrupted_before(signal, sender)),
            _ => Ok(()),
        }
    }

    /// When the rules to ask by go, the kernel drops what is in any queue of the network namespace
    /// (nf_queue_nf_hook_drop()): whoever holds SYNs has time to let them go.
    fn let_others_go_first(&self) -> Result<(), Ending> {
        let until = Instant::now() + OTHERS_PATIENCE;
        while nfqueue::others_hold(None) && Instant::now() < until {
            self.wait_until(Instant::now() + OTHERS_LOOK)?;
        }
        Ok(())
    }
}

/// Whether all were accepted.
///
/// # Errors
/// What is wrong, in words.
fn judge(
    answers: &[(SocketAddr, Answer)],
    absent: impl FnOnce() -> Option<NextHop>,
    timeout: Duration,
) -> Result<(), String> {
    let with = |wanted: fn(&Answer) -> bool| {
        let all = answers.iter().filter(|(_, answer)| wanted(answer));
        shown(all.map(|(at, _)| *at))
    };
    let refused = with(|answer| *answer == Answer::Refused);
    let silent = with(|answer| *answer == Answer::Silent);
    if !refused.is_empty() {
        return Err(format!(
            "it refuses connections to {refused}: does its service listen there? (--to names the \
             addresses that both hosts have)"
        ));
    }
    if silent.is_empty() {
        return Ok(());
    }
    match absent() {
        Some(hop) => Err(format!(
            "no host answers at {} on {}",
            hop.address, hop.device
        )),
        None => Err(format!(
            "it does not answer on {silent} within --peer-timeout {}: does it have that address, let \
             its packets in (rp_filter, firewall), and divert nothing itself just now? (--to names the \
             addresses that both hosts have)",
            humantime::format_duration(timeout)
        )),
    }
}

/// One of which the kernel could not find out where it is on its link. What can't be told is there.
fn absent(questions: &[Question], routing: &mut Routing) -> Option<NextHop> {
    let mut hops: Vec<NextHop> = questions.iter().map(|q| q.neighbour).collect();
    hops.dedup();
    hops.into_iter()
        .find(|hop| routing.is_absent(hop).unwrap_or(false))
}

fn refused(to: &ToPeer, why: &str) -> Ending {
    not_gated("peer", &format!("--syn divert={}: {why}", to.peers))
}

fn here(routing: &mut Routing, to: &Diversion) -> Result<Here, Refusal> {
    let mut routes = Vec::new();
    for hop in to.peers() {
        let route = routing.to(hop.address, Some(hop.device.index))?;
        routes.extend(route.map(|route| (hop.address, route)));
    }
    Ok(Here {
        own: routing.addresses()?,
        links: routing.links()?,
        routes,
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
