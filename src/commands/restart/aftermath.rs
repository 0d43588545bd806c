//! After a run by name that has failed: whether the service is down, what its clients meet, and what helps.

use std::time::Instant;

use super::listening::Listening;
use super::service::state_of;
use crate::cli::Args;
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
}

impl Aftermath {
    /// `None`: nothing is to be told, however the run ends.
    pub(super) fn of(
        control: Option<Control>,
        found: &Listening,
        args: &Args,
    ) -> Option<Aftermath> {
        let options = &args.options;
        let elsewhere = options.listen_netns.is_some()
            || options.listen_netns_from.is_some()
            || options.listen_port.is_some();
        if elsewhere || options.dry_run {
            return None;
        }
        let gated = plan::ports(options);
        let served = gated.intersection(&found.ports);
        Some(Aftermath {
            control: control?,
            ports: if served.is_empty() { gated } else { served },
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
        let served: PortSet = there
            .listeners
            .iter()
            .map(|listener| listener.port)
            .collect();
        let deserted = self.ports.minus(&served);
        if deserted.is_empty() {
            return;
        }
        let state = match &self.control {
            Control::Systemd(unit) => state_of(unit),
            Control::Init(_) => None,
        };
        let kept = rooms::kept(&deserted);
        let say = Say::new(Level::Errors, started);
        let lines = lines(&self.control, &deserted, state.as_deref(), kept);
        lines.iter().for_each(|line| say.error(line));
    }
}

/// `state`: what systemd calls it. `kept`: a keep has rooms on these ports.
fn lines(control: &Control, deserted: &PortSet, state: Option<&str>, kept: bool) -> [String; 2] {
    let (who, ports) = (control.shown(), deserted.brief());
    let runs = state.is_some_and(|state| ["active", "activating", "reloading"].contains(&state));
    let is = match (state, runs) {
        (None, _) => "is down".to_owned(),
        (Some(state), false) => format!("is down ({state})"),
        (Some(state), true) => format!("is not up ({state})"),
    };
    let clients = match kept {
        true => "its new clients wait in the rooms of syngate keep",
        false => "its new clients are refused",
    };
    let verb = if runs { "restart" } else { "start" };
    let again = command_line(&control.command(verb));
    let why = match control {
        Control::Systemd(unit) => {
            format!("systemctl status {unit} and journalctl -u {unit} tell why")
        }
        Control::Init(_) => "its log tells why".to_owned(),
    };
    [
        format!("{who} {is}: nobody listens on {ports}, so {clients}"),
        format!("{why}; {again} {verb}s it"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_is_told() {
        let ports = PortSet::from_iter([80, 443]);
        let unit = Control::Systemd("web.service".to_owned());
        let why = "systemctl status web.service and journalctl -u web.service tell why; systemctl";
        for (control, state, kept, first, second) in [
            (
                &unit,
                Some("failed"),
                false,
                "web.service is down (failed): nobody listens on 80,443, so its new clients are refused",
                format!("{why} start web.service starts it"),
            ),
            (
                &unit,
                Some("activating"),
                true,
                "web.service is not up (activating): nobody listens on 80,443, so its new clients wait in the rooms of \
                 syngate keep",
                format!("{why} restart web.service restarts it"),
            ),
            (
                &Control::Init("web".to_owned()),
                None,
                false,
                "/etc/init.d/web is down: nobody listens on 80,443, so its new clients are refused",
                "its log tells why; service web start starts it".to_owned(),
            ),
        ] {
            assert_eq!(
                lines(control, &ports, state, kept),
                [first.to_owned(), second]
            );
        }
    }
}
