//! Control groups of version 2 (cgroups(7)): where programs are linked, and a group for COMMAND alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// How long a group that can't be dissolved is tried, and how often.
pub(crate) const DISSOLVES_WITHIN: Duration = Duration::from_secs(2);
pub(crate) const DISSOLVE_EVERY: Duration = Duration::from_millis(5);
/// A folder has a link for each folder in it, besides its name and `.` (`kernfs_refresh_inode()`).
const LINKS_WITHOUT_GROUPS: u64 = 2;

/// Where the hierarchy is mounted. Another mount may hide it, as in `ip netns exec`: then where this process has
/// mounted it for itself.
pub(crate) fn root() -> Option<PathBuf> {
    let seen = fs::read_to_string("/proc/self/mountinfo").ok();
    let seen = seen.and_then(|mounts| mounted(&mounts));
    let seen = seen.filter(|root| root.join("cgroup.procs").exists());
    seen.or_else(|| Some(format!("/proc/self/fd/{}", own_mount().ok()?.as_raw_fd()).into()))
}

/// Where a control group is, by its path below the root, as systemd and /proc tell it.
pub(crate) fn at(group: &str) -> Option<PathBuf> {
    Some(root()?.join(group.trim_start_matches('/')))
}

/// The root of the hierarchy, for links.
///
/// # Errors
/// It is not mounted where this process can see it, and it can't mount it for itself (Linux 5.2,
/// CAP_SYS_ADMIN).
pub(crate) fn open_root() -> Result<OwnedFd> {
    let Some(root) = root() else {
        own_mount().context("there are no control groups of version 2")?;
        bail!("there are no control groups of version 2");
    };
    let opened = File::open(&root).with_context(|| root.display().to_string())?;
    Ok(opened.into())
}

/// Made once, and kept.
fn own_mount() -> io::Result<BorrowedFd<'static>> {
    static MOUNT: OnceLock<OwnedFd> = OnceLock::new();
    if MOUNT.get().is_none() {
        let mount = mounted_for_itself()?;
        let _ = MOUNT.set(mount);
    }
    let mount = MOUNT.get().map(AsFd::as_fd);
    mount.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A mount that has no place among the files, and is gone with its descriptor.
fn mounted_for_itself() -> io::Result<OwnedFd> {
    if crate::words::fault::is("no-own-mount") {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let kind = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(kind.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(kind.as_fd(), flags, MountAttrFlags::empty())?)
}

/// proc_pid_mountinfo(5): the mount point is the fifth field, the type the first behind the hyphen.
fn mounted(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, of_system) = line.split_once(" - ")?;
        let kind = of_system.split(' ').next()?;
        let mut fields = fields.split(' ');
        let (within, point) = (fields.nth(3)?, fields.next()?);
        // A mount of a part of the hierarchy would reach only that part.
        (kind == "cgroup2" && within == "/").then(|| point.into())
    })
}

/// The control group that this process is in.
///
/// # Errors
/// There is no such hierarchy.
pub(crate) fn own() -> Result<PathBuf> {
    of_process("self")
}

/// The control group that a process is in, by its name in /proc.
///
/// # Errors
/// There is no such hierarchy, or no such process.
pub(crate) fn of_process(process: &str) -> Result<PathBuf> {
    let root = root().context("no control groups of version 2 are mounted here")?;
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let group = of_version_2(&groups).context("the process is in no control group")?;
    Ok(root.join(group.trim_start_matches('/')))
}

/// Where a group of another process is that this one can reach; see [`ControlGroup::within`].
pub(crate) fn reached(within: &Path) -> Option<PathBuf> {
    Some(root()?.join(within))
}

/// Whether there are processes in that control group, or below it. False also if it has gone.
pub(crate) fn has_processes(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

/// A control group of a run's own, below the one that the run is in. Dropping it dissolves it.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    path: PathBuf,
}

impl ControlGroup {
    /// # Errors
    /// There is no such hierarchy, or this process may not make a group.
    pub(crate) fn make(name: &str) -> Result<ControlGroup> {
        let path = own()?.join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(ControlGroup { path })
    }

    /// A control group that exists.
    pub(crate) fn at(path: &Path) -> ControlGroup {
        ControlGroup {
            path: path.to_owned(),
        }
    }

    /// Where it is in the hierarchy, which each process may have mounted elsewhere.
    pub(crate) fn within(&self) -> Option<PathBuf> {
        Some(self.path.strip_prefix(root()?).ok()?.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For links.
    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// `cgroup.procs`: a process that writes 0 there is in the group from then on, and what it starts (cgroups(7)).
    pub(crate) fn entrance(&self) -> io::Result<OwnedFd> {
        let procs = self.path.join("cgroup.procs");
        Ok(File::options().write(true).open(procs)?.into())
    }

    /// The process is in the group from now on, and what it starts.
    pub(crate) fn take_in(&self, pid: i32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }
}

impl Drop for ControlGroup {
    /// A daemon that COMMAND has started goes on in the group above. A process that ends can't be moved, and
    /// is in its group until it has freed its memory.
    fn drop(&mut self) {
        let Some(above) = self.path.parent() else {
            return;
        };
        let above = above.join("cgroup.procs");
        let give_up = Instant::now() + DISSOLVES_WITHIN;
        loop {
            let inside = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines() {
                let _ = fs::write(&above, pid);
            }
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => (),
                _ => return,
            }
            if Instant::now() >= give_up {
                return;
            }
            std::thread::sleep(DISSOLVE_EVERY);
        }
    }
}

/// The control group with this id, as sock_diag and programs tell it: the inode of its folder. It is most likely
/// one of `guesses`.
pub(crate) fn with_id(id: u64, guesses: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let is = |group: &PathBuf| group.metadata().is_ok_and(|there| there.ino() == id);
    let mut guesses = guesses.into_iter();
    guesses
        .find(is)
        .or_else(|| find(|group| is(&group.to_owned())).into_iter().next())
}

/// The control groups whose name begins like this, wherever they are in the hierarchy.
pub(crate) fn named(prefix: &str) -> Vec<PathBuf> {
    let named = |group: &Path| {
        let name = group.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(prefix))
    };
    find(named)
}

/// The control groups that are so, and none below these.
fn find(is_so: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = root().into_iter().collect();
    while let Some(folder) = folders.pop() {
        if is_so(&folder) {
            found.push(folder);
            continue;
        }
        folders.extend(groups_in(&folder));
    }
    found
}

fn groups_in(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|group| group.path())
}

/// The ids of that control group and of all below it, as sock_diag tells them. None: it is not there.
pub(crate) fn ids_in(group: &Path) -> BTreeSet<u64> {
    let mut ids = BTreeSet::new();
    let mut groups = vec![group.to_owned()];
    while let Some(group) = groups.pop() {
        let Ok(there) = group.metadata() else {
            continue;
        };
        ids.insert(there.ino());
        if there.nlink() > LINKS_WITHOUT_GROUPS {
            groups.extend(groups_in(&group));
        }
    }
    ids
}

/// The processes in that control group and in all below it, as this process can name them.
pub(crate) fn processes_in(group: &Path) -> BTreeSet<i32> {
    let mut processes = BTreeSet::new();
    let mut groups = vec![group.to_owned()];
    while let Some(group) = groups.pop() {
        let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let pids = inside.lines().filter_map(|pid| pid.parse::<i32>().ok());
        processes.extend(pids.filter(|pid| *pid > 0));
        groups.extend(groups_in(&group));
    }
    processes
}

/// Whether processes of other pid namespaces are in that control group.
pub(crate) fn has_hidden(group: &Path) -> bool {
    let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    inside.lines().any(|pid| pid == "0")
}

/// The line of version 2 begins with `0::`.
fn of_version_2(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// What holds for any text as a process's mounts and control groups.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    if let Some(group) = of_version_2(text) {
        assert!(text.contains(group), "{group}");
    }
    if let Some(root) = mounted(text) {
        assert!(
            root.to_str().is_some_and(|root| text.contains(root)),
            "{root:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found() {
        const MOUNTS: &str = "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
            30 24 0:26 / /sys/fs/cgroup/cpu rw shared:4 - cgroup cgroup rw,cpu\n\
            31 24 0:27 /a /mnt rw - cgroup2 cgroup2 rw\n\
            32 24 0:27 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(MOUNTS), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted("24 1 0:22 / /sys rw - sysfs sysfs rw\n"), None);
        assert_eq!(
            of_version_2("9:name=systemd:/\n0::/a.slice\n"),
            Some("/a.slice")
        );
    }
}
