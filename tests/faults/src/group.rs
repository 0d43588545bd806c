//! A control group of version 2 for a service, as systemd has it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use testkit::Host;

use crate::clock::wait_patiently;

/// As long as it is not dropped. Its processes have to end before.
pub struct Group(PathBuf);

impl Group {
    /// For that host.
    pub fn of(host: &Host) -> Result<Group> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let is_v2 = |line: &&str| line.split(' ').nth(2) == Some("cgroup2");
        let root = mounts.lines().find(is_v2);
        let root = root.and_then(|line| line.split(' ').nth(1));
        let root = Path::new(root.context("no control groups of version 2")?);
        let path = root.join(format!("faults-{}", host.pid()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Group(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = || fs::remove_dir(&self.0).is_ok();
        let _ = wait_patiently(Duration::from_secs(5), "an empty control group", gone);
    }
}
