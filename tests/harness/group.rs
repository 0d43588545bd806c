//! Control groups of version 2, for services of tests.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::{Host, wait_until};

use super::SOON;

/// A control group of a test's own, which is empty at its end.
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn of(host: &Host) -> Group {
        Group::called(host, &format!("testkit-{}", host.pid()))
    }

    pub(crate) fn called(host: &Host, name: &str) -> Group {
        let mounted = host.must([
            "sh",
            "-ec",
            "awk '$3 == \"cgroup2\" {print $2; exit}' /proc/mounts",
        ]);
        let path = PathBuf::from(mounted.trim()).join(name);
        fs::create_dir(&path).unwrap();
        Group(path)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// Where it is in the hierarchy.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_string_lossy())
    }

    /// None of its processes runs, and one that enters it does not go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let is = u8::from(frozen);
        fs::write(self.0.join("cgroup.freeze"), is.to_string()).unwrap();
        let events = || fs::read_to_string(self.0.join("cgroup.events")).unwrap();
        let told = || events().contains(&format!("frozen {is}\n"));
        wait_until(SOON, "its processes to stop or go on", told).unwrap();
    }

    /// Before a command line that is to run in it.
    pub(crate) fn entered(&self, host: &Host) -> String {
        let enter = format!("echo 0 >{}/cgroup.procs; exec \"$@\"", self.0.display());
        format!("sh {}", host.write("enter.sh", enter).display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = wait_until(SOON, "an empty control group", || {
            fs::remove_dir(&self.0).is_ok()
        });
    }
}
