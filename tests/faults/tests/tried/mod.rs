//! The program, called as `make faults` and `make soak` do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

const FAULTS: &str = env!("CARGO_BIN_EXE_faults");

/// Runs it, with a file of results that is gone afterwards: what it said, and the rows.
pub fn tried(name: &str, arguments: &[&str]) -> (Output, Vec<Value>) {
    let results = std::env::temp_dir().join(format!("faults-{name}-{}.jsonl", std::process::id()));
    let results = Gone(results);
    let mut faults = Command::new(FAULTS);
    faults.args(arguments).arg("--results").arg(&results.0);
    faults
        .arg("--syngate")
        .arg(Path::new(FAULTS).with_file_name("syngate"));
    let output = faults.output().unwrap();
    let rows = fs::read_to_string(&results.0).unwrap_or_default();
    let rows = rows.lines().map(serde_json::from_str);
    (output, rows.collect::<Result<_, _>>().unwrap())
}

struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
