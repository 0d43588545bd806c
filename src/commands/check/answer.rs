//! The answer, before all that it follows from: whether syngate can gate this here, and by which action. Pure.

use super::findings::{Answer, Findings};
use crate::commands::restart::Stands;
use crate::words::ports::PortSet;

/// What `--json` has of it.
pub(super) fn answered(findings: &Findings) -> Answer {
    let can = findings.refusal.is_none();
    let call = match (&findings.name, &findings.wanted) {
        (Some(stands), _) => Some(format!("syngate restart {}", stands.name)),
        (None, Some(ports)) => {
            let served = ports.minus(&deserted(findings, ports));
            let call = || format!("syngate --port {served} --syn auto -- COMMAND");
            (!served.is_empty()).then(call)
        }
        (None, None) => None,
    };
    Answer {
        can,
        text: answer(findings),
        call: call.filter(|_| can),
    }
}

/// One line.
pub(super) fn answer(findings: &Findings) -> String {
    if let Some(why) = &findings.refusal {
        return format!("no: no gate can be closed here: {why}");
    }
    let (restart, reload) = (findings.auto.action, findings.reload.action);
    let is_deserted = findings.listeners.as_ref().is_some_and(Vec::is_empty);
    match (&findings.name, &findings.wanted) {
        (Some(stands), _) => of_service(stands, restart, reload),
        (None, Some(ports)) if is_deserted => format!(
            "yes, but nobody listens on {}: there is nothing to restart, and no client is served",
            ports.brief()
        ),
        (None, Some(ports)) => {
            let deserted = deserted(findings, ports);
            let served = ports.minus(&deserted).brief();
            let yes = match deserted.is_empty() {
                true => "yes".to_owned(),
                false => format!(
                    "yes for {served}, but nobody listens on {} (a typo?)",
                    deserted.brief()
                ),
            };
            format!(
                "{yes}: --port {served} --syn auto does it by {}; with --reload, by {reload}",
                how(restart)
            )
        }
        (None, None) => format!(
            "yes: a gate can be closed here, by --syn auto with {}",
            how(restart)
        ),
    }
}

/// Those of the ports on which nobody listens, as far as that is known.
fn deserted(findings: &Findings, ports: &PortSet) -> PortSet {
    let Some(endpoints) = &findings.listeners else {
        return PortSet::EMPTY;
    };
    let served: PortSet = endpoints.iter().map(|endpoint| endpoint.port).collect();
    ports.minus(&served)
}

fn of_service(stands: &Stands, restart: &str, reload: &str) -> String {
    let name = &stands.name;
    let by = |syn: &str, auto: &str| match syn {
        "auto" => how(auto),
        syn => how(syn.split('=').next().unwrap_or(syn)),
    };
    let ports = match stands.ports.is_empty() {
        // Those of a container.
        true => "its ports".to_owned(),
        false => PortSet::brief(&stands.ports),
    };
    let reload = stands.reload.as_ref().map(|_| match stands.syn.as_str() {
        "auto" => format!("; syngate reload {name} by {reload}"),
        syn => format!("; syngate reload {name} by {syn}"),
    });
    format!(
        "yes: syngate restart {name} gates {ports} by {}{}",
        by(&stands.syn, restart),
        reload.unwrap_or_default()
    )
}

/// The action, and what clients notice of it.
fn how(action: &str) -> String {
    let clients = match action {
        "park" | "handover" => "clients are connected at once, and wait for their answer",
        "hold" => "the first packets (SYNs) of clients wait",
        "drop" => "clients try again after a second",
        _ => "clients are served elsewhere meanwhile",
    };
    format!("{action} ({clients})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::rooms::choice::Choice;
    use crate::commands::check::endpoint::Endpoint;
    use crate::commands::check::findings::tests::findings;

    fn listens_on(port: u16) -> Endpoint {
        Endpoint {
            address: "0.0.0.0".parse().unwrap(),
            port,
            interface: None,
            sockets: 1,
            backlog: 511,
            accept_queue: 0,
            uid: Some(0),
            reuseport: None,
            unparkable: None,
            processes: Vec::new(),
        }
    }

    fn choice(action: &'static str) -> Choice {
        Choice {
            action,
            lacking: Vec::new(),
        }
    }

    #[test]
    fn the_answer_names_the_action() {
        let mut found = findings();
        (found.auto, found.reload) = (choice("hold"), choice("handover"));
        let yes = "yes: a gate can be closed here, by --syn auto with hold (the first packets";
        assert!(answer(&found).starts_with(yes), "{}", answer(&found));
        found.wanted = Some(PortSet::from_iter([80, 443]));
        let yes = "yes, but nobody listens on 80,443: ";
        assert!(answer(&found).starts_with(yes), "{}", answer(&found));
        found.listeners = None;
        let yes = "yes: --port 80,443 --syn auto does it by hold (the first packets (SYNs) of clients wait); \
                   with --reload, by handover";
        assert_eq!(answer(&found), yes);
        found.listeners = Some(vec![listens_on(80)]);
        let yes =
            "yes for 80, but nobody listens on 443 (a typo?): --port 80 --syn auto does it by hold";
        assert!(answer(&found).starts_with(yes), "{}", answer(&found));
        let call = answered(&found).call;
        assert_eq!(call.unwrap(), "syngate --port 80 --syn auto -- COMMAND");
        found.listeners = Some(Vec::new());
        assert_eq!(answered(&found).call, None, "there is nothing to restart");
        found.listeners = Some(vec![listens_on(80)]);
        found.refusal = Some("it needs root".to_owned());
        let cannot = answered(&found);
        assert_eq!((cannot.can, cannot.call), (false, None));
        assert_eq!(
            answer(&found),
            "no: no gate can be closed here: it needs root"
        );
    }

    #[test]
    fn a_service_s_profile_may_name_the_action() {
        let mut found = findings();
        (found.auto, found.reload) = (choice("park"), choice("handover"));
        for (syn, can_reload, ports, expected) in [
            (
                "auto",
                true,
                &[80][..],
                "yes: syngate restart web gates 80 by park (clients are connected at once, and wait for their answer); \
                 syngate reload web by handover",
            ),
            (
                "drop",
                true,
                &[80],
                "yes: syngate restart web gates 80 by drop (clients try again after a second); syngate reload web by drop",
            ),
            (
                "redirect=8080",
                false,
                &[],
                "yes: syngate restart web gates its ports by redirect (clients are served elsewhere meanwhile)",
            ),
        ] {
            found.name = Some(Stands {
                name: "web".to_owned(),
                syn: syn.to_owned(),
                what: String::new(),
                remarks: Vec::new(),
                restart: String::new(),
                reload: can_reload.then(String::new),
                run: None,
                ports: ports.iter().copied().collect(),
            });
            assert_eq!(answer(&found), expected);
        }
    }
}
