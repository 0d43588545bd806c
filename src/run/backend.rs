//! Which backend makes the gate.

use anyhow::Error;

use crate::gate::backends;
use crate::gate::kinds::Choice;
use crate::words::steer::Steer;

/// `--backend`, and the backend that takes its place where SYNs are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) given: Choice,
    /// The same, unless the run holds SYNs.
    pub(crate) to_hold: Choice,
}

impl Backend {
    pub(crate) fn given(given: Choice) -> Backend {
        Backend {
            given,
            to_hold: given,
        }
    }

    /// Asks the kernel, if SYNs are to be held.
    pub(crate) fn on_this_host(self, steer: Steer) -> Backend {
        let to_hold = match steer {
            Steer::Queue(_) => backends::to_hold(self.given),
            Steer::Drop | Steer::Redirect(_) | Steer::Divert(_) | Steer::Refuse => self.to_hold,
        };
        Backend { to_hold, ..self }
    }

    /// The backend for rules that steer SYNs so.
    pub(crate) fn of(self, steer: Steer) -> Choice {
        match steer {
            Steer::Queue(_) => self.to_hold,
            Steer::Drop | Steer::Redirect(_) | Steer::Divert(_) | Steer::Refuse => self.given,
        }
    }

    /// Why another backend than the given one makes the gate, if that is so.
    pub(crate) fn why_another(self, steer: Steer) -> Option<String> {
        (self.of(steer) != self.given).then(|| {
            format!(
                "--backend {}: {} makes the gate, since this kernel lacks nft's queue (other rules that \
                 hold SYNs, nft lists in a form that it can't load again)",
                self.given.name(),
                self.to_hold.name()
            )
        })
    }

    /// Says why no other backend was tried.
    pub(crate) fn failed(self, steer: Steer, error: Error) -> Error {
        match self.of(steer) == self.given {
            true => error,
            false => error.context(format!(
                "only {} holds SYNs here, since this kernel lacks nft's queue",
                self.to_hold.name()
            )),
        }
    }

    /// Whether the user has named the backend whose place another one may take.
    pub(crate) fn is_named(self) -> bool {
        self.given != Choice::Auto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gate_that_holds_syns_is_made_by_another_backend() {
        let backend = Backend {
            given: Choice::Nft,
            to_hold: Choice::IptablesLegacy,
        };
        let hold = Steer::Queue(7);
        assert_eq!(backend.of(hold), Choice::IptablesLegacy);
        let why = backend.why_another(hold).unwrap();
        assert!(
            why.starts_with("--backend nft: iptables-legacy makes the gate, since "),
            "{why}"
        );
        for other in [Steer::Drop, Steer::Redirect(81)] {
            assert_eq!(backend.of(other), Choice::Nft);
            assert_eq!(backend.why_another(other), None);
        }
        assert_eq!(Backend::given(Choice::Auto).why_another(hold), None);
    }
}
