//! Values: what the layers above speak of.

pub mod exit;
pub mod fault;
pub mod listen_ports;
pub mod meant;
pub mod ports;
pub mod scope;
