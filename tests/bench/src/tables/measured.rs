//! What tables are made from.

use crate::{
    machine::Machine,
    sample::{Cost, Sample},
};

/// All that was measured.
pub struct Measured {
    pub machine: Machine,
    pub restarts: Vec<Sample>,
    pub many: Vec<Sample>,
    pub costs: Vec<Cost>,
}
