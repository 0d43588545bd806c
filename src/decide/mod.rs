//! The decisions of a run, from the closed gate to its end: `step(event, now)` returns the next
//! task. Pure: no clock and no system call, so that a test can play any course of events.
//!
//! `run/drive.rs` carries out the task and returns with the event that answers it. When there is no
//! task, it waits for a signal, for COMMAND's exit, or for the time from [`state::State::wake`].

pub(crate) mod again;
pub(crate) mod beside;
pub(crate) mod config;
pub(crate) mod drain;
pub(crate) mod draining;
pub(crate) mod event;
pub(crate) mod facts;
mod handshakes;
mod late;
pub(crate) mod leaving;
pub(crate) mod looks;
pub(crate) mod missing;
pub(crate) mod opening;
pub(crate) mod policy;
pub(crate) mod rate;
pub(crate) mod readiness;
pub(crate) mod removal;
pub(crate) mod service;
pub(crate) mod services;
pub(crate) mod sessions;
pub(crate) mod signals;
pub(crate) mod state;
pub(crate) mod watch;
pub(crate) mod wishes;

#[cfg(test)]
pub(crate) mod tale;
#[cfg(test)]
mod tests;
