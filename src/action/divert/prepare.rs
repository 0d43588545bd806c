//! Checks the peer before any port is gated: whether it is a neighbour, whether it takes
//! connections, and whether this host is set up for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::act::DivertAction;
use super::probe::{AT_A_TIME, Asking, Reply};
use super::to_peer::ToPeer;
use super::way::{Enquiry, Here, Served, enquiries, remarks, without_peer};
use crate::action::contract::{Action, Before, Prepared, Seen};
use crate::decide::removal::{OTHERS_LOOK, OTHERS_PATIENCE};
use crate::gate::who::Who;
use crate::kernel::netlink::Refusal;
use crate::kernel::nfqueue;
use crate::kernel::route::{Link, Routing};
use crate::kernel::sockets::{Looks, Want};
use crate::process::signals::Caught;
use crate::words::ending::Ending;
use crate::words::hop::NextHop;
use crate::words::ports::PortSet;
use crate::words::steer::Diversion;

/// The peer takes connections, or `--no-peer-check` was given.
pub(crate) struct PeerReady(pub ToPeer);

impl Prepared for PeerReady {
    fn begin(&self, _: &Seen) -> Result<Box<dyn Action>> {
        let to = self.0.diversion()?;
        Ok(Box::new(DivertAction::new(to, self.0.linger)))
    }
}

/// Checks that connections can be handed to the peer.
///
/// # Errors
/// Connections can't be handed to the peer.
pub(crate) fn ask_peer(to: &ToPeer, before: &mut Before) -> Result<(), Ending> {
    let diversion = to.diversion().map_err(no_peer)?;
    let mut routing = Routing::open().map_err(no_peer)?;
    let here = here(&mut routing, &diversion).map_err(|refusal| no_peer(refusal.into()))?;
    let served = served(before)?;
    warn_of_what_is_not_diverted(to, &diversion, &served, &here, before);
    let addressed = before.gated.addresses_are_known();
    let enquiries = enquiries(&served, addressed, &before.gated.scope, &diversion, &here);
    let joins = |link: &Link| crate::kernel::sys::joins_received(&link.device.to_string());
    for remark in remarks(&enquiries, &here, joins) {
        before.warn(format!("--syn divert: {remark}"));
    }
    ask_all(to, &enquiries, &mut routing, before)
}

fn warn_of_what_is_not_diverted(
    to: &ToPeer,
    diversion: &Diversion,
    served: &[Served],
    here: &Here,
    before: &mut Before,
) {
    let gated = before.gated;
    for family in without_peer(served, &gated.scope, diversion, here) {
        before.warn(format!(
            "--syn divert={} has no {family} address: SYNs of {family} are dropped",
            to.peers
        ));
    }
    let asked: PortSet = served.iter().flat_map(|s| s.ports.iter()).collect();
    let deserted = gated.ports.minus(&asked);
    if to.ask.is_some() && !deserted.is_empty() {
        let deserted = deserted.brief();
        before.warn(format!(
            "syngate does not ask the peer about {deserted}, since nobody listens there on this host now"
        ));
    }
}

fn served(before: &mut Before) -> Result<Vec<Served>, Ending> {
    let sample = before.sockets.look(Want::default());
    let listeners = sample.map_err(Ending::unseen)?.listeners.into_iter();
    let served = listeners.map(|listener| Served {
        ports: before.gated.served_by(listener.port),
        listener,
    });
    Ok(served.collect())
}

/// Asks the peer for a connection to each address and port that is served here.
fn ask_all(
    to: &ToPeer,
    enquiries: &[Enquiry],
    routing: &mut Routing,
    before: &Before,
) -> Result<(), Ending> {
    let Some(timeout) = to.ask else {
        before.say.phase("the peer is not asked");
        return Ok(());
    };
    let from_nowhere = enquiries.iter().filter(|enquiry| enquiry.from.is_none());
    let cannot = shown(from_nowhere.map(|enquiry| enquiry.to));
    if !cannot.is_empty() {
        return Err(refused(
            to,
            &format!(
                "it can't be asked about {cannot}: this host has no address of its own to ask from; give --to the \
                 addresses that both hosts have, or --no-peer-check"
            ),
        ));
    }
    for portion in enquiries.chunks(AT_A_TIME) {
        let_others_go_first(before)?;
        match ask(portion, timeout, before)? {
            Some(replies) => {
                let absent = || absent(portion, routing);
                judge(&replies, absent, timeout).map_err(|why| refused(to, &why))?;
            }
            None => return Ok(()),
        }
    }
    if !enquiries.is_empty() {
        let all = shown(enquiries.iter().map(|enquiry| enquiry.to));
        let say = before.say;
        say.phase(&format!("the peer accepts connections to {all}"));
    }
    Ok(())
}

/// `None`: this host can't ask at the moment.
fn ask(
    portion: &[Enquiry],
    timeout: Duration,
    before: &Before,
) -> Result<Option<Vec<(SocketAddr, Reply)>>, Ending> {
    let until = Instant::now() + timeout;
    let comment = Who::me("divert", before.command).to_string();
    let mut asking = match Asking::begin(before.run, &comment, portion, timeout) {
        Ok(asking) => asking,
        // The gate can't be closed either, so this check need not fail the run.
        Err(error) if before.best_effort => {
            let say = before.say;
            say.phase(&format!("the peer can't be asked: {error:#}"));
            return Ok(None);
        }
        Err(error) => return Err(no_peer(error)),
    };
    while !asking.take().map_err(no_peer)? && Instant::now() < until {
        before.say.waiting("waiting for the peer to answer");
        wait_for_news(&asking, until, before)?;
    }
    before.say.done_waiting();
    let_others_go_first(before)?;
    Ok(Some(asking.replies()))
}

fn wait_for_news(asking: &Asking, until: Instant, before: &Before) -> Result<(), Ending> {
    let until = before.say.due().map_or(until, |due| due.min(until));
    let caught = before.signals.wait_beside(Some(until), Some(asking.news()));
    match caught {
        Some(Caught::Stop(signal, sender)) => Err(Ending::interrupted_before(signal, sender)),
        _ => Ok(()),
    }
}

/// When the temporary rules of the check are removed, the kernel drops the packets in all queues of
/// the network namespace (nf_queue_nf_hook_drop()). So this waits for other runs to release their
/// held SYNs.
fn let_others_go_first(before: &Before) -> Result<(), Ending> {
    let until = Instant::now() + OTHERS_PATIENCE;
    while nfqueue::others_hold(None) && Instant::now() < until {
        before.signals.until(Instant::now() + OTHERS_LOOK)?;
    }
    Ok(())
}

/// Passes if the peer has accepted all connections.
///
/// # Errors
/// A sentence that says what is wrong.
fn judge(
    answers: &[(SocketAddr, Reply)],
    absent: impl FnOnce() -> Option<NextHop>,
    timeout: Duration,
) -> Result<(), String> {
    let with = |wanted: fn(&Reply) -> bool| {
        let all = answers.iter().filter(|(_, answer)| wanted(answer));
        shown(all.map(|(at, _)| *at))
    };
    let refused = with(|answer| *answer == Reply::Refused);
    let silent = with(|answer| *answer == Reply::Silent);
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
            "it does not answer on {silent} within --peer-timeout {}: does it lack that address, drop the packets \
             (rp_filter, firewall), or divert them itself now? (--to names the addresses that both hosts have)",
            humantime::format_duration(timeout)
        )),
    }
}

/// The next hop whose link-layer address the kernel could not resolve. If that can't be read, it
/// counts as resolved.
fn absent(enquiries: &[Enquiry], routing: &mut Routing) -> Option<NextHop> {
    let mut hops: Vec<NextHop> = enquiries.iter().map(|q| q.neighbour).collect();
    hops.dedup();
    hops.into_iter()
        .find(|hop| routing.is_absent(hop).unwrap_or(false))
}

fn refused(to: &ToPeer, why: &str) -> Ending {
    Ending::not_gated("peer", &format!("--syn divert={}: {why}", to.peers))
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
    Ending::not_gated("peer", &format!("{error:#}"))
}

/// The first few addresses, and how many more there are.
fn shown(all: impl Iterator<Item = SocketAddr>) -> String {
    const SHOWN: usize = 4;
    let all: Vec<String> = all.map(|at| at.to_string()).collect();
    match all.len() {
        0..=SHOWN => all.join(" "),
        n => format!("{} and {} more", all[..SHOWN].join(" "), n - SHOWN),
    }
}
