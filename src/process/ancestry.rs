//! What /proc tells of where a process comes from.

use std::fs;

/// Deeper trees are taken for a loop: /proc is not read atomically.
const DEEPEST: usize = 64;

/// Whether `pid` is `ancestor`, or was started by it or by one of its descendants that still live.
pub(crate) fn descends_from(pid: i32, ancestor: i32) -> bool {
    let line = std::iter::successors(Some(pid), |pid| parent(*pid));
    line.take(DEEPEST).any(|pid| pid == ancestor)
}

/// `None`: it has none in this pid namespace, or has ended.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().filter(|parent| *parent > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_process() {
        let own = std::process::id() as i32;
        let mut child = std::process::Command::new("sleep")
            .arg("5")
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        assert!(descends_from(pid, own) && descends_from(own, own));
        assert!(!descends_from(own, pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
