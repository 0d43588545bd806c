//! The gate: what the kernel shall contain while it is closed (`rules`), how that gets there
//! (`backend`, with `nft` and `iptables`), and the value that opens the gate again on each way out of
//! a run (`gate`).

pub mod backend;
pub mod backends;
pub mod found;
#[expect(
    clippy::module_inception,
    reason = "the folder is about the gate, this file is it"
)]
pub mod gate;
pub mod iptables;
pub mod kinds;
mod nat;
pub mod nft;
pub mod rules;
pub mod standing;
pub mod watchdog;
pub mod who;
