//! Values: what the layers above speak of.

pub mod command_line;
pub mod duration;
pub mod ended;
pub mod ending;
pub mod env;
pub mod exit;
pub mod family;
pub mod fault;
pub mod gated;
pub mod hop;
pub mod lacking;
pub mod listen_ports;
pub mod meant;
pub mod ms;
pub mod number;
pub mod ports;
pub mod run_id;
pub mod scope;
pub mod steer;
