//! The gate: what the kernel shall contain while it is closed (`rules`), how that gets there
//! (`backend`, with `nft` and `iptables`), and the value that opens the gate again on each way out of
//! a run (`gate`).

pub(crate) mod backend;
pub(crate) mod backends;
pub(crate) mod found;
#[expect(
    clippy::module_inception,
    reason = "the folder is about the gate, this file is it"
)]
pub(crate) mod gate;
pub(crate) mod iptables;
pub(crate) mod kinds;
mod nat;
pub(crate) mod nft;
pub(crate) mod rules;
pub(crate) mod standing;
pub(crate) mod watchdog;
pub(crate) mod who;
