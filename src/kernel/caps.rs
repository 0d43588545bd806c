//! The one privilege that syngate needs, and must have from its caller.

use nix::unistd::{getegid, geteuid, getgid, getuid};

use crate::kernel::process_status::{status_of, value};
use crate::kernel::sys::started_with_other_rights;

/// linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

pub(crate) const NEEDED: &str = "closing the gate needs the capability CAP_NET_ADMIN over this network \
                          namespace: run it as root (sudo); in a container, start that with \
                          --cap-add NET_ADMIN; in a systemd unit, set AmbientCapabilities=CAP_NET_ADMIN";

pub(crate) const NEEDED_TO_OPEN: &str = "opening gates of others needs the capability CAP_NET_ADMIN over \
                                  this network namespace: run it as root (sudo)";

/// Whether this process has CAP_NET_ADMIN. If that is over a user namespace that does not own the
/// network namespace, the kernel refuses later.
pub(crate) fn net_admin() -> bool {
    has(CAP_NET_ADMIN)
}

/// Whether this process may see which sockets the processes of other users hold.
pub(crate) fn sys_ptrace() -> bool {
    has(CAP_SYS_PTRACE)
}

/// Whether this process may make network namespaces and load programs of eBPF (Linux 5.8). If that is over a
/// user namespace, the kernel refuses later.
pub(crate) fn programs_and_namespaces() -> bool {
    [CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF].into_iter().all(has)
}

/// Whether this process may use the programs of iptables-legacy. They read a file in /proc that only root may read,
/// lock a file in /run, and talk to the kernel through a raw socket.
pub(crate) fn iptables_legacy() -> bool {
    geteuid().is_root() && has(CAP_NET_RAW)
}

/// Tells why this process has rights that its caller has not, and what to do instead. With rights from
/// its file, anybody could shut a port, or run a command as another user.
///
/// AT_SECURE alone proves nothing: security modules set it too, SELinux when it changes the domain, as
/// for a unit's processes, and AppArmor when it clears the environment.
pub(crate) fn gained_by_file() -> Option<&'static str> {
    const BY_ID: &str = "the file of syngate is set-user-ID or set-group-ID, so anybody could close ports \
                         and run commands by it: take that away (chmod ug-s), and use sudo";
    const BY_CAPABILITY: &str = "the file of syngate has capabilities, so anybody could close ports by it: \
                                 take them away (setcap -r), and give them to the caller \
                                 (AmbientCapabilities=CAP_NET_ADMIN in a systemd unit)";
    if getuid() != geteuid() || getgid() != getegid() {
        return Some(BY_ID);
    }
    let gained =
        started_with_other_rights() && !getuid().is_root() && exceeds_ambient(&status_of("self"));
    gained.then_some(BY_CAPABILITY)
}

/// After execve(2) a process that is not root has the ambient capabilities of its caller, and those of
/// the file (capabilities(7)).
fn exceeds_ambient(status: &str) -> bool {
    match (mask(status, "CapPrm:"), mask(status, "CapAmb:")) {
        (Some(permitted), Some(ambient)) => permitted & !ambient != 0,
        // Without /proc there is only AT_SECURE.
        _ => true,
    }
}

fn has(capability: u32) -> bool {
    // Without /proc: try, and let the kernel refuse.
    mask(&status_of("self"), "CapEff:").is_none_or(|caps| caps & (1u64 << capability) != 0)
}

/// One of the sets, a hexadecimal mask (proc(5)).
fn mask(status: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(value(status, name)?, 16).ok()
}

/// What holds for any text as a process's status.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let _ = (exceeds_ambient(text), mask(text, "CapEff:"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_sets() {
        let status = "Name:\tx\nCapEff:\t0000000000001000\n";
        assert_eq!(mask(status, "CapEff:"), Some(1 << 12));
        assert_eq!(mask(status, "CapPrm:"), None);
    }

    #[test]
    fn what_the_caller_has_handed_on_was_not_gained() {
        let sets = |permitted: u32, ambient: u32| {
            exceeds_ambient(&format!(
                "CapPrm:\t{permitted:016x}\nCapAmb:\t{ambient:016x}\n"
            ))
        };
        assert!(!sets(0, 0));
        assert!(!sets(0x1000, 0x1000));
        assert!(!sets(0x1000, 0x3000));
        assert!(sets(0x1000, 0));
        assert!(sets(0x3000, 0x1000));
        assert!(exceeds_ambient(""));
    }
}
