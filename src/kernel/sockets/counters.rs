//! What the kernel counts, and how it is set, in this thread's network namespace.

use super::sample::{Cookies, SynLimits};

/// The kernel's defaults, on a small host.
pub(super) const SYN_LIMITS: SynLimits = SynLimits {
    cookies: Cookies::WhenFull,
    max_syn_backlog: 128,
};

pub(super) fn syn_limits() -> SynLimits {
    let value = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.trim().parse::<u32>().ok()
    };
    SynLimits {
        cookies: match value("tcp_syncookies") {
            Some(0) => Cookies::Never,
            Some(2) => Cookies::Always,
            _ => Cookies::WhenFull,
        },
        max_syn_backlog: value("tcp_max_syn_backlog").unwrap_or(SYN_LIMITS.max_syn_backlog),
    }
}

pub(super) fn syncookies_sent() -> Option<u64> {
    netstat("SyncookiesSent")
}

/// A count of TCP since the network namespace was made (a column of netstat).
pub(crate) fn netstat(name: &str) -> Option<u64> {
    // /proc/net is that of the process, whose first thread may be in another namespace.
    let netstat = std::fs::read_to_string("/proc/thread-self/net/netstat").ok()?;
    netstat_value(&netstat, name)
}

fn netstat_value(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = names.split_whitespace().position(|n| n == name)?;
    values.split_whitespace().nth(column)?.parse().ok()
}

/// What holds for any text as netstat's.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let _ = netstat_value(text, "SyncookiesSent");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_cookie_count() {
        let netstat = "TcpExt: A SyncookiesSent B\nTcpExt: 1 42 3\nIpExt: C\nIpExt: 9\n";
        assert_eq!(netstat_value(netstat, "SyncookiesSent"), Some(42));
        assert_eq!(netstat_value(netstat, "C"), None);
        assert_eq!(netstat_value("", "SyncookiesSent"), None);
        assert!(syncookies_sent().is_some(), "this kernel counts them");
    }
}
