//! What becomes of the SYNs of new connections while the gate is closed.
//!
//! An action says where the kernel steers them (`Steer`). One that has work of its own in user
//! space does it here too, so that `run.rs` treats all alike: the gate is opened in one order for
//! all of them, by emptying the set of gated ports, then removing the rules.

use crate::cli::Syn;
use crate::gate::Steer;

/// `--syn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SynAction {
    /// The kernel drops them. A client's kernel sends its SYN again: after 1 s, and then, on Linux
    /// 6.5 and newer, each second three times more (tcp_syn_linear_timeouts); on others after 3, 7,
    /// 15 s (RFC 6298, 5.7).
    Drop,
}

impl SynAction {
    /// The action that was asked for.
    pub fn new(syn: Syn) -> SynAction {
        match syn {
            Syn::Drop => SynAction::Drop,
        }
    }

    /// Its name on the command line and in the report.
    pub fn name(&self) -> &'static str {
        match self {
            SynAction::Drop => "drop",
        }
    }

    /// Where the kernel shall steer the SYNs.
    pub fn steer(&self) -> Steer {
        match self {
            SynAction::Drop => Steer::Drop,
        }
    }
}
