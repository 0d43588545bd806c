//! The decisions of a run, from the closing of the gate to its end: `step(event, now)` says what to
//! do next. Pure: it reads no clock, asks no kernel and touches nothing, so that a test can tell each
//! course of events.
//!
//! `run/drive.rs` does what it is told and comes back with the event that answers it. When there is
//! nothing to do it waits for a signal, for COMMAND's exit, or for [`state::State::wake`].

pub mod again;
pub mod beside;
pub mod config;
pub mod drain;
pub mod draining;
pub mod event;
pub mod facts;
pub mod looks;
pub mod opening;
pub mod policy;
pub mod readiness;
pub mod service;
pub mod signals;
pub mod state;
pub mod watch;

#[cfg(test)]
pub(crate) mod tale;
#[cfg(test)]
mod tests;
