//! After a run by name has failed: whether the service is down, what happens to its clients, and what helps.

use std::time::Instant;

use super::listening::{Listening, served};
use super::service::{Service, state_of};
use crate::cli::{Args, RunOptions};
use crate::commands::check::endpoint::Control;
use crate::gate::rooms;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Looks, Want};
use crate::run::plan;
use crate::tell::say::{Level, Say};
use crate::words::command_line::command_line;
use crate::words::exit::Exit;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

/// What has to be there when the run is over.
pub(crate) struct Aftermath {
    control: Control,
    ports: PortSet,
    /// What tests its configuration.
    test: Option<String>,
}

/// Somebody has said that the listeners are not where syngate looks for them.
pub(super) fn listens_elsewhere(options: &RunOptions) -> bool {
    options.listen_netns.is_some()
        || options.listen_netns_from.is_some()
        || options.listen_port.is_some()
}

impl Aftermath {
    /// `None`: nothing is to be told, however the run ends.
    pub(super) fn of(
        control: Option<Control>,
        found: &Listening,
        test: Option<String>,
        args: &Args,
    ) -> Option<Aftermath> {
        let options = &args.options;
        if listens_elsewhere(options) || options.dry_run {
            return None;
        }
        let gated = plan::ports(options);
        let served = gated.intersection(&found.ports);
        Some(Aftermath {
            control: control?,
            ports: if served.is_empty() { gated } else { served },
            test,
        })
    }

    /// Looks once, and tells what is wrong.
    pub(crate) fn tell(&self, exit: Exit, started: Instant) {
        if exit == Exit::Status(0) {
            return;
        }
        // A look that fails tells nothing.
        let sockets = Sockets::new(&self.ports, &Scope::default());
        let Ok(there) = sockets.and_then(|mut sockets| sockets.look(Want::default())) else {
            return;
        };
        let deserted = self.ports.minus(&served(&there));
        if deserted.is_empty() {
            return;
        }
        let elsewhere = self.look();
        let state = match &self.control {
            Control::Systemd(unit) => state_of(unit),
            Control::Init(_) => None,
        };
        let down = Down {
            control: &self.control,
            deserted: &deserted,
            state: state.as_deref(),
            elsewhere: elsewhere.as_ref(),
            test: self.test.as_deref(),
            kept: rooms::kept(&deserted),
        };
        let say = Say::new(Level::Errors, started);
        down.lines().iter().for_each(|line| say.error(line));
    }

    /// Where the service listens now. `None`: nowhere, or that can't be seen.
    fn look(&self) -> Option<Listening> {
        let name = match &self.control {
            Control::Systemd(unit) => unit.clone(),
            Control::Init(name) => format!("{name}.service"),
        };
        let found = Service::find(&name).ok()??.look().ok()?;
        Some(found.listening).filter(|listening| !listening.ports.is_empty())
    }
}

/// A service of which something is missing.
struct Down<'a> {
    control: &'a Control,
    deserted: &'a PortSet,
    /// What systemd calls the state of its unit.
    state: Option<&'a str>,
    elsewhere: Option<&'a Listening>,
    test: Option<&'a str>,
    /// A keep has rooms on these ports.
    kept: bool,
}

impl Down<'_> {
    fn lines(&self) -> [String; 2] {
        let (who, ports) = (self.control.shown(), self.deserted.brief());
        let state = self.state;
        let runs =
            state.is_some_and(|state| ["active", "activating", "reloading"].contains(&state));
        let clients = match self.kept {
            true => "its new clients wait in the rooms of syngate keep",
            false => "its new clients are refused",
        };
        if let Some(there) = self.elsewhere {
            let (who, on) = (&there.who, there.ports.brief());
            let again = command_line(&self.control.command("restart"));
            return [
                format!("{who} runs, but listens on {on} and not on {ports}: there {clients}"),
                format!(
                    "if that is meant, gate it by --port {on}; else correct its configuration, then {again}"
                ),
            ];
        }
        let is = match (state, runs) {
            (None, _) => "is down".to_owned(),
            (Some(state), false) => format!("is down ({state})"),
            (Some(state), true) => format!("is not up ({state})"),
        };
        let verb = if runs { "restart" } else { "start" };
        let again = command_line(&self.control.command(verb));
        [
            format!("{who} {is}: nobody listens on {ports}, so {clients}"),
            format!("{}correct that first, then {again}", self.why()),
        ]
    }

    /// What tells why.
    fn why(&self) -> String {
        let log = match self.control {
            Control::Systemd(unit) => format!("systemctl status {unit} and journalctl -u {unit}"),
            Control::Init(_) => "its log".to_owned(),
        };
        match (self.test, self.control) {
            (Some(test), _) => format!("to see why: {test}, or {log}; "),
            (None, Control::Systemd(_)) => format!("{log} tell why: "),
            (None, Control::Init(_)) => format!("the output above, or {log}, tells why: "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_is_told() {
        let unit = Control::Systemd("web.service".to_owned());
        let script = Control::Init("web".to_owned());
        let refused = "nobody listens on 80,443, so its new clients are refused";
        let why = "systemctl status web.service and journalctl -u web.service tell why: correct that first, then \
                   systemctl";
        for (control, state, test, first, second) in [
            (
                &unit,
                Some("failed"),
                None,
                format!("web.service is down (failed): {refused}"),
                format!("{why} start web.service"),
            ),
            (
                &unit,
                Some("activating"),
                None,
                format!("web.service is not up (activating): {refused}"),
                format!("{why} restart web.service"),
            ),
            (
                &script,
                None,
                None,
                format!("/etc/init.d/web is down: {refused}"),
                "the output above, or its log, tells why: correct that first, then service web start".to_owned(),
            ),
            (
                &script,
                None,
                Some("web -t"),
                format!("/etc/init.d/web is down: {refused}"),
                "to see why: web -t, or its log; correct that first, then service web start"
                    .to_owned(),
            ),
        ] {
            let down = Down {
                control,
                deserted: &PortSet::from_iter([80, 443]),
                state,
                elsewhere: None,
                test,
                kept: false,
            };
            assert_eq!(down.lines(), [first, second]);
        }
    }

    #[test]
    fn a_service_that_lacks_a_port_is_not_told_to_be_down() {
        let there = Listening {
            ports: PortSet::from_iter([81, 8080]),
            who: "web (pid 7)".to_owned(),
            ..Listening::default()
        };
        let down = Down {
            control: &Control::Init("web".to_owned()),
            deserted: &PortSet::from_iter([80]),
            state: None,
            elsewhere: Some(&there),
            test: None,
            kept: true,
        };
        let expected = [
            "web (pid 7) runs, but listens on 81,8080 and not on 80: there its new clients wait in the rooms of \
             syngate keep",
            "if that is meant, gate it by --port 81,8080; else correct its configuration, then service web restart",
        ];
        assert_eq!(down.lines(), expected);
    }
}
