//! What syngate's tests, demo and bench are made of: hosts in namespaces of
//! their own, real services on them, and a client that notices everything.
//!
//! ```text
//!   +-- Host "server" --------+            +-- Host "client" --------+
//!   |  haproxy, nginx,        |    veth    |                         |
//!   |  `testkit serve`   eth0 |------------| eth0   `testkit load`   |
//!   |  10.77.0.1  fd77::1     |            |  10.77.0.2  fd77::2     |
//!   +-------------------------+            +-------------------------+
//! ```
//!
//! Nothing here touches the machine's own network, `/run` or `/etc`, and all
//! of it vanishes with the test, even if that is killed.
//!
//! As root, hosts are plain namespaces; as anyone else, or with
//! `TESTKIT_ROOTLESS=1`, they live in a user namespace where only uid 0 exists.

mod bin;
mod client;
mod fleet;
mod host;
mod pair;
mod rows;
mod running;
mod say;
pub mod services;
mod slow;
mod trio;
mod wait;

pub use bin::bin;
pub use client::{
    Delay, DelayReport, Failure, Fate, Flood, GapReport, Gaps, Hold, HoldReport, Latency, Load,
    LoadReport, RunningFlood, RunningLoad, Scan,
};
pub use fleet::Fleet;
pub use host::{Host, Ran, code, rootless};
pub use pair::{CLIENT, CLIENT6, CLIENTS, CLIENTS6, Pair, SCANNERS, SERVER, SERVER6};
pub use rows::{append_row, digest, median, mend_rows, read_rows};
pub use running::Running;
pub use say::say;
pub use slow::slow;
pub use trio::{CROSS_B, CROSS_B6, NODE_A, NODE_A6, NODE_B, NODE_B6, Trio, VIP, VIP6};
pub use wait::wait_until;
