//! What happens to new connections while the gate is closed: `--syn ACTION`.
//!
//! Each action has its own folder or file, with its options, checks, part of `--dry-run`,
//! preparation, decisions, effects, report rows and warnings. `list.rs` lists them, and
//! `contract.rs` has their common interface.
//!
//! # How to add an action
//!
//! Everything about an action is in its folder below `action/`. It takes three steps:
//!
//! 1. **The folder.** An `Entry` has its name for `--syn`, its help, and its options (a clap struct). It parses what
//!    stands behind `=`. It tells which of the options make no sense without the action, and the names of its objects
//!    in the report. Then it walks through the traits of `contract.rs`, each a step of the run:
//!    - `Wanted::plan`: the options are checked together; one line says what is wrong.
//!    - `Planned`: its part of `--dry-run`, where it would steer SYNs, how long its rules may stay;
//!      `prepare` does what has to be done while nothing is gated (ask the peer, start the standby).
//!    - `Prepared::begin`: the last step before the gate closes. What is prepared outlives the gate.
//!    - `Action`: `means` says how it keeps new connections from the service. The other functions are its effects
//!      while the gate is closed and afterwards. `account` gives its objects for the report, its words for the line,
//!      and its warnings.
//!    - `Policy` (in `decide/policy.rs`), pure: what to ask while a port is closed (`while_shut`), before
//!      ports open (`aim`, `before_open`), and once the gate is open (`after_open`). There are four
//!      questions: does anybody *take* the connections, *let go* the waiting ones, how many are *left*, *stop*.
//!      `Action::ask` answers, `Policy::answered` concludes: go on, these ports may open, give the gate up.
//! 2. **One line in `action/list.rs`.** The command line, the help, the report and the checks follow it.
//! 3. **A variant of `Steer`** (`words/steer.rs`), only if the kernel has to treat SYNs in a new way. Then
//!    each backend's `compile` says what that becomes. `--dry-run` prints the same `Ruleset`, and a test
//!    compares it with what the kernel lists.
//!
//! Then describe it. `action/tests.rs` has its courses of events, `contrib/schema/report.schema.json` its object,
//! man/syngate.8 its options, and a section of man/syngate-actions.7 the rest. Tests hold the documents to the
//! command line.

pub(crate) mod auto;
pub(crate) mod contract;
pub(crate) mod divert;
pub(crate) mod drop;
pub(crate) mod elsewhere;
pub(crate) mod handover;
pub(crate) mod hold;
pub(crate) mod linger;
pub(crate) mod list;
pub(crate) mod park;
pub(crate) mod redirect;
pub(crate) mod rooms;

#[cfg(test)]
mod tests;
