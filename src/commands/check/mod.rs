//! `syngate check`: what this host can do, what the service on the ports does, and what follows.
//! Looking leaves no trace.

pub mod advice;
pub mod host;
pub mod service;
mod show;

use serde::Serialize;

use self::advice::{Advice, advise};
use self::host::{Answer, Backend, Host};
use self::service::Place;
use crate::cli::CheckArgs;
use crate::tell::say::{Say, print};
use crate::words::exit::Exit;
use crate::words::ports::PortSet;

/// What a host where no gate can be closed exits with.
const NO_GATE: u8 = 1;

/// All findings: what `--json` prints.
#[derive(Debug, Serialize)]
pub struct Check {
    version: u32,
    syngate: &'static str,
    /// What `--backend auto` takes; null if no gate can be closed.
    backend: Option<Backend>,
    /// Why no gate can be closed.
    refusal: Option<String>,
    host: Host,
    /// Null if they can't be listed.
    listeners: Option<Vec<Place>>,
    advice: Vec<Advice>,
}

/// Carries it out.
pub fn run(args: &CheckArgs, say: &Say) -> Exit {
    let wanted = args
        .ports
        .iter()
        .fold(PortSet::EMPTY, |all, some| all.union(some));
    let check = Check::look((!wanted.is_empty()).then_some(&wanted));
    if args.json {
        let json = serde_json::to_string_pretty(&check).expect("all of it has a form in JSON");
        print(&format!("{json}\n"));
    } else {
        print(&show::page(&check));
    }
    match &check.refusal {
        None => Exit::Status(0),
        Some(why) => {
            say.error(&format!("no gate can be closed here: {why}"));
            Exit::Status(NO_GATE)
        }
    }
}

impl Check {
    /// `wanted`: the ports to look at; all that are listened on, if there are none.
    fn look(wanted: Option<&PortSet>) -> Check {
        let every = PortSet::from_ranges([1..=u16::MAX]);
        let (listeners, sock_diag) = match service::look(wanted.unwrap_or(&every)) {
            Ok(places) => (Some(places), Answer::Yes),
            Err(error) => (None, Answer::No(format!("{error:#}"))),
        };
        let host = Host::look(sock_diag);
        let (backend, refusal) = match host.backend() {
            Ok(backend) => (Some(backend), None),
            Err(why) => (None, Some(why)),
        };
        Check {
            version: 1,
            syngate: env!("CARGO_PKG_VERSION"),
            advice: advise(&host, listeners.as_deref().unwrap_or_default(), wanted),
            backend,
            refusal,
            host,
            listeners,
        }
    }
}
