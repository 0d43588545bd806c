//! All that `syngate check` finds.

use serde::Serialize;

use super::advice::{Advice, advise};
use super::backend::{AutoBackend, Holding};
use super::endpoint::Endpoint;
use super::host::Host;
use super::service;
use crate::action::rooms::choice::{AUTO, AUTO_FOR_RELOADS, Choice};
use crate::commands::restart::Stands;
use crate::kernel::support::Support;
use crate::process::lock::{LocksOf, directory_in_use, roll};
use crate::words::ports::PortSet;

/// Whether a gate can be closed here, and what restarts the service then.
#[derive(Debug, Default, Serialize)]
pub(super) struct Answer {
    pub(super) can: bool,
    /// The line that people see first.
    pub(super) text: String,
    /// Null: no gate can be closed, or there is nothing to restart.
    pub(super) call: Option<String>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    pub(crate) version: u32,
    pub(crate) syngate: &'static str,
    /// What follows from the rest: it is the last to be filled in.
    pub(super) answer: Answer,
    /// What `--backend auto` takes; null if no gate can be closed.
    pub(crate) backend: Option<AutoBackend>,
    /// Why no gate can be closed.
    pub(crate) refusal: Option<String>,
    /// What holds SYNs with `--syn hold`.
    pub(crate) hold: Holding,
    /// What `--syn auto` does, as far as the host decides it.
    pub(crate) auto: Choice,
    /// The same with `--reload`.
    #[serde(skip)]
    pub(crate) reload: Choice,
    /// The ports that were asked for, or that NAME has.
    #[serde(skip)]
    pub(crate) wanted: Option<PortSet>,
    /// What NAME stands for; null if none was given.
    pub(crate) name: Option<Stands>,
    pub(crate) host: Host,
    /// Null if they can't be listed.
    pub(crate) listeners: Option<Vec<Endpoint>>,
    pub(crate) advice: Vec<Advice>,
}

impl Findings {
    /// `wanted`: the ports to look at; `None`: all that are listened on.
    pub(crate) fn look(wanted: Option<&PortSet>) -> Findings {
        let every = PortSet::from_ranges([1..=u16::MAX]);
        let (listeners, sock_diag) = match service::look(wanted.unwrap_or(&every), wanted.is_some())
        {
            Ok(endpoints) => (Some(endpoints), Support::Yes),
            Err(error) => (None, Support::No(format!("{error:#}"))),
        };
        let host = Host::look(sock_diag);
        let (backend, refusal) = match host.backend() {
            Ok(backend) => (Some(backend), None),
            Err(why) => (None, Some(why)),
        };
        let mut advice = advise(&host, listeners.as_deref(), wanted);
        advice.splice(0..0, gated_now(wanted.unwrap_or(&every)));
        let known = listeners.as_deref().filter(|_| wanted.is_some());
        let auto = |order| host.auto(order, known);
        Findings {
            version: 1,
            syngate: env!("CARGO_PKG_VERSION"),
            answer: Answer::default(),
            advice,
            backend,
            refusal,
            hold: host.holding(),
            auto: auto(&AUTO),
            reload: auto(&AUTO_FOR_RELOADS),
            wanted: wanted.cloned(),
            name: None,
            host,
            listeners,
        }
    }
}

impl Findings {
    /// The calls of the service that is named are those by its name.
    pub(super) fn name(&mut self, stands: Stands) {
        let calls = [
            ("restart", Some(stands.restart.as_str())),
            ("reload", stands.reload.as_deref()),
        ];
        for command in self
            .advice
            .iter_mut()
            .filter_map(|one| one.command.as_mut())
        {
            let same = |(_, call): &&(_, Option<&str>)| {
                let work = call.and_then(work_of);
                work.is_some() && work == work_of(command)
            };
            if let Some((verb, _)) = calls.iter().find(same) {
                *command = format!("syngate {verb} {}", stands.name);
            }
        }
        self.name = Some(stands);
    }
}

/// The COMMAND of a call.
fn work_of(call: &str) -> Option<&str> {
    Some(call.split_once(" -- ")?.1)
}

/// What a run has locked now: what is found may be otherwise when it has ended.
fn gated_now(ports: &PortSet) -> Vec<Advice> {
    let runs = roll(LocksOf::Runs, &directory_in_use()).unwrap_or_default();
    let runs = runs.living.into_iter().filter_map(|run| {
        let shared = run.ports.intersection(ports);
        let text = format!("a run gates it now: {}", run.holder);
        (!shared.is_empty()).then(|| Advice::about("gated_now", shared, &text))
    });
    runs.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::commands::check::host::tests::usual;

    #[test]
    fn a_service_that_is_named_has_its_calls_by_name() {
        let mut found = findings();
        let advice = |command: &str| Advice::on_host("code", "").by(command.to_owned());
        found.advice = vec![
            advice("syngate --port 80 --syn auto -- service web restart"),
            advice("syngate --port 80 --syn auto --reload -- service web reload"),
            advice("syngate --port 80 -- service other restart"),
        ];
        found.name(Stands {
            name: "web".to_owned(),
            syn: "auto".to_owned(),
            what: String::new(),
            remarks: Vec::new(),
            restart: "syngate --port 80 --syn auto --precheck 'web -t' -- service web restart"
                .to_owned(),
            reload: Some("syngate --port 80 --syn auto --reload -- service web reload".to_owned()),
            run: None,
            ports: PortSet::from_iter([80]),
        });
        let calls = found.advice.iter().filter_map(|one| one.command.as_deref());
        assert_eq!(
            calls.collect::<Vec<_>>(),
            [
                "syngate restart web",
                "syngate reload web",
                "syngate --port 80 -- service other restart"
            ]
        );
        assert!(found.name.is_some());
    }

    /// Of a host on which nobody listens.
    pub(in crate::commands::check) fn findings() -> Findings {
        let host = usual();
        Findings {
            version: 1,
            syngate: "0",
            answer: Answer::default(),
            backend: host.backend().ok(),
            refusal: None,
            hold: host.holding(),
            auto: host.auto(&AUTO, None),
            reload: host.auto(&AUTO_FOR_RELOADS, None),
            wanted: None,
            name: None,
            listeners: Some(Vec::new()),
            advice: Vec::new(),
            host,
        }
    }
}
