//! Values that the layers above share.

pub(crate) mod command_line;
pub(crate) mod count;
pub(crate) mod duration;
pub(crate) mod ended;
pub(crate) mod ending;
pub(crate) mod env;
pub(crate) mod exit;
pub(crate) mod family;
pub(crate) mod fault;
pub(crate) mod file_id;
pub(crate) mod gated;
pub(crate) mod hop;
pub(crate) mod lacking;
pub(crate) mod limit;
pub(crate) mod listen_ports;
pub(crate) mod meant;
pub(crate) mod ms;
pub(crate) mod number;
pub(crate) mod plain;
pub(crate) mod ports;
pub(crate) mod ready;
pub(crate) mod run_id;
pub(crate) mod scope;
pub(crate) mod steer;
pub(crate) mod unit_name;
