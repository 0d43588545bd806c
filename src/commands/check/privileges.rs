//! The privileges of this process.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::geteuid;

use super::host::Privileges;
use crate::kernel::caps;

impl Privileges {
    pub(crate) fn mine() -> Privileges {
        Privileges {
            uid: geteuid().as_raw(),
            net_admin: caps::net_admin(),
            sys_ptrace: caps::sys_ptrace(),
            host_root: host_root(),
        }
    }
}

/// The root of the host owns /proc/sys; a user namespace that does not have this root shows the owner
/// as nobody.
pub(crate) fn host_root() -> bool {
    geteuid().is_root() && fs::metadata("/proc/sys/kernel").is_ok_and(|m| m.uid() == 0)
}
