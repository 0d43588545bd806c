//! The decisions of a run, from the closing of the gate to its end: `step(event, now)` says what to
//! do next. Pure: it reads no clock, asks no kernel and touches nothing, so that a test can tell each
//! course of events.
//!
//! `run/drive.rs` does what it is told and comes back with the event that answers it. When there is
//! nothing to do it waits for a signal, for COMMAND's exit, or for [`state::State::wake`].

pub(crate) mod again;
pub(crate) mod beside;
pub(crate) mod config;
pub(crate) mod drain;
pub(crate) mod draining;
pub(crate) mod event;
pub(crate) mod facts;
pub(crate) mod looks;
pub(crate) mod opening;
pub(crate) mod policy;
pub(crate) mod readiness;
pub(crate) mod service;
pub(crate) mod signals;
pub(crate) mod state;
pub(crate) mod watch;

#[cfg(test)]
pub(crate) mod tale;
#[cfg(test)]
mod tests;
