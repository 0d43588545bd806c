//! The gate: its contents in the kernel (`rules`), the backends that put them there (`backend`,
//! `nft`, `iptables`), and the value that opens it on each way out of a run (`gate`).

pub(crate) mod backend;
pub(crate) mod backends;
pub(crate) mod by_port;
pub(crate) mod consumers;
pub(crate) mod counted;
pub(crate) mod counts;
pub(crate) mod door;
pub(crate) mod firewall;
pub(crate) mod found;
#[expect(
    clippy::module_inception,
    reason = "the folder is about the gate, this file is it"
)]
pub(crate) mod gate;
pub(crate) mod here;
pub(crate) mod iptables;
pub(crate) mod kinds;
pub(crate) mod nat;
pub(crate) mod nft;
pub(crate) mod rooms;
pub(crate) mod rules;
pub(crate) mod settings;
pub(crate) mod standing;
pub(crate) mod watchdog;
pub(crate) mod who;
