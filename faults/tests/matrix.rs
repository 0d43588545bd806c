//! What the matrix has found before.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const FAULTS: &str = env!("CARGO_BIN_EXE_faults");

/// Runs it; the results are gone afterwards. How many trials there were.
fn matrix(name: &str, options: &[&str]) -> usize {
    let results = std::env::temp_dir().join(format!("faults-{name}-{}.jsonl", std::process::id()));
    let results = Gone(results);
    let mut faults = Command::new(FAULTS);
    faults.arg("matrix").arg("--results").arg(&results.0);
    faults
        .arg("--syngate")
        .arg(Path::new(FAULTS).with_file_name("syngate"));
    let output = faults.args(options).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::read_to_string(&results.0)
        .unwrap_or_default()
        .lines()
        .count()
}

struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A wait for signals that failed was taken for a SIGTERM, which COMMAND then got; and COMMAND's end was
/// never noticed when waitpid(2) was interrupted.
#[test]
fn a_wait_that_fails_ends_nothing() {
    let only = [
        "--setting",
        "nft, drop",
        "--fault",
        "enomem",
        "--fault",
        "eintr",
    ];
    let calls = ["--call", "ppoll", "--call", "wait4", "--call", "read"];
    assert!(matrix("waits", &[&only[..], &calls].concat()) >= 6);
}

/// Where nobody heard the kernel's answer, rules that it had taken were left.
#[test]
fn an_answer_that_is_not_heard_leaves_no_rules() {
    let only = [
        "--setting",
        "nft without owner, drop",
        "--call",
        "poll",
        "--fault",
        "enomem",
    ];
    assert!(matrix("answers", &only) >= 1);
}

/// The guard was killed when it had started the standby, and before it could tell: the standby lived on.
#[test]
fn a_guard_that_dies_early_leaves_no_standby() {
    let only = [
        "--setting",
        "nft, redirect",
        "--call",
        "chdir",
        "--fault",
        "kill-after",
    ];
    assert!(matrix("standby", &only) >= 1);
}
