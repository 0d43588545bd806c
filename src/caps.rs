//! The one privilege that syngate needs.

/// linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_PTRACE: u32 = 19;

/// What to tell whoever lacks it.
pub const NEEDED: &str = "closing the gate needs the capability CAP_NET_ADMIN over this network \
                          namespace: run it as root (sudo), or give it to the caller \
                          (AmbientCapabilities=CAP_NET_ADMIN in a systemd unit)";

/// The same for whoever wants to open one.
pub const NEEDED_TO_OPEN: &str = "opening gates of others needs the capability CAP_NET_ADMIN over \
                                  this network namespace: run it as root (sudo)";

/// Whether this process has CAP_NET_ADMIN. It may still be one of a user namespace that does not
/// own the network namespace: then the kernel refuses later.
pub fn net_admin() -> bool {
    has(CAP_NET_ADMIN)
}

/// Whether this process may see which sockets other users' processes hold.
pub fn sys_ptrace() -> bool {
    has(CAP_SYS_PTRACE)
}

fn has(capability: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Without /proc the kernel has to tell.
    effective(&status).is_none_or(|caps| caps & (1 << capability) != 0)
}

/// CapEff, a hexadecimal mask (proc(5)).
fn effective(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_effective_set() {
        assert_eq!(
            effective("Name:\tx\nCapEff:\t0000000000001000\n"),
            Some(1 << 12)
        );
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
