//! What becomes of the SYNs of new connections while the gate is closed.
//!
//! An action says where the kernel steers them (`Steer`). One that has work of its own in user
//! space does it here too ([`Work`]), so that `run.rs` treats all alike: the gate is opened in one
//! order for all of them, by letting go who waits, emptying the set of gated ports, letting go who
//! came in between, letting finish who was steered elsewhere, then removing the rules.

pub mod divert;
pub mod hold;
pub mod redirect;

use std::time::Duration;

use anyhow::Result;

use self::divert::{Divert, ToPeer};
use self::hold::{Hold, Limits};
use self::redirect::{Redirect, ToStandby};
use crate::kernel::nfqueue::FIRST_NUMBER;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;
use crate::words::steer::QueueNum;
use crate::words::steer::Steer;

/// `--syn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SynAction {
    /// The kernel drops them. A client's kernel sends its SYN again: after 1 s, and then, on Linux
    /// 6.5 and newer, each second three times more (tcp_syn_linear_timeouts); on others after 3, 7,
    /// 15 s (RFC 6298, 5.7).
    Drop,
    /// They wait in a queue.
    Hold {
        /// `--queue-num`: which one; else one that is free.
        queue: Option<QueueNum>,
        /// `--max-held` and `--max-held-per-source`.
        limits: Limits,
        /// `--syn auto`: where that can't be done, they are dropped.
        or_drop: bool,
    },
    /// They go to another port of this host, and their connections stay there.
    Redirect(ToStandby),
    /// They go to a peer, and their connections stay there.
    Divert(ToPeer),
}

/// What is done in user space while the gate is closed.
pub enum Work {
    /// Nothing.
    None,
    /// SYNs are held.
    Hold(Box<Hold>),
    /// Connections go elsewhere, and finish there.
    Redirect(Box<Redirect>),
    /// They go to another host, and finish there.
    Divert(Box<Divert>),
}

impl SynAction {
    /// Its name, as the report has it.
    pub fn name(&self) -> &'static str {
        match self {
            SynAction::Drop => "drop",
            SynAction::Hold { .. } => "hold",
            SynAction::Redirect(_) => "redirect",
            SynAction::Divert(_) => "divert",
        }
    }

    /// How long the rules stay, at most, once the gate is open.
    pub fn linger(&self) -> Duration {
        match self {
            SynAction::Redirect(to) => to.linger,
            SynAction::Divert(to) => to.linger,
            SynAction::Drop | SynAction::Hold { .. } => Duration::ZERO,
        }
    }

    /// Whether dropping is as good, if nothing else can be done.
    pub fn or_drop(&self) -> bool {
        matches!(self, SynAction::Hold { or_drop: true, .. })
    }

    /// Gets ready for the SYNs that the gate will stop. Nothing is stopped yet.
    ///
    /// # Errors
    /// It can't be done here.
    pub fn begin(&self, gated: &PortSet, scope: &Scope) -> Result<Work> {
        Ok(match self {
            SynAction::Drop => Work::None,
            SynAction::Hold { queue, limits, .. } => {
                Work::Hold(Box::new(Hold::begin(*queue, *limits, gated)?))
            }
            SynAction::Redirect(to) => Work::Redirect(Box::new(Redirect::begin(to, gated, scope)?)),
            SynAction::Divert(to) => Work::Divert(Box::new(Divert::begin(to)?)),
        })
    }

    /// Where the kernel would steer the SYNs, for whoever only asks.
    ///
    /// # Errors
    /// The peer is no neighbour of this host's.
    pub fn steer(&self) -> Result<Steer> {
        Ok(match self {
            SynAction::Drop => Steer::Drop,
            SynAction::Hold { queue, .. } => Steer::Queue(queue.unwrap_or(FIRST_NUMBER)),
            SynAction::Redirect(to) => Steer::Redirect(to.port),
            SynAction::Divert(to) => Steer::Divert(to.diversion()?),
        })
    }
}

impl Work {
    /// Where the kernel shall steer the SYNs.
    pub fn steer(&self) -> Steer {
        match self {
            Work::None => Steer::Drop,
            Work::Hold(hold) => Steer::Queue(hold.queue()),
            Work::Redirect(redirect) => Steer::Redirect(redirect.port()),
            Work::Divert(divert) => Steer::Divert(divert.to()),
        }
    }

    /// The SYNs that wait, if any can.
    pub fn hold(&mut self) -> Option<&mut Hold> {
        match self {
            Work::Hold(hold) => Some(hold),
            _ => None,
        }
    }

    /// The connections that go to a peer, if any can.
    pub fn divert(&mut self) -> Option<&mut Divert> {
        match self {
            Work::Divert(divert) => Some(divert),
            _ => None,
        }
    }

    /// The connections that go to a standby, if any can.
    pub fn redirect(&mut self) -> Option<&mut Redirect> {
        match self {
            Work::Redirect(redirect) => Some(redirect),
            _ => None,
        }
    }
}
