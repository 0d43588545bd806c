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

/// How many SYNs were answered with a cookie, by listeners and by SYNPROXY.
pub(super) fn cookies_sent() -> Option<u64> {
    Some(netstat("SyncookiesSent")? + answered_by_synproxy())
}

/// How many SYNs SYNPROXY has answered (synproxy_cpu_seq_show()). The file is there once a rule has been.
pub(super) fn answered_by_synproxy() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/stat/synproxy");
    hexadecimal_sum(&table.unwrap_or_default(), "syn_received")
}

/// The sum of a column with a line for each CPU.
fn hexadecimal_sum(table: &str, name: &str) -> u64 {
    let mut lines = table.lines();
    let names = lines.next().unwrap_or_default();
    let Some(column) = names.split_whitespace().position(|n| n == name) else {
        return 0;
    };
    let number = |line: &str| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok();
    let numbers = lines.filter_map(number);
    numbers.fold(0, u64::saturating_add)
}

/// A count of TCP since the network namespace was made (a column of netstat).
pub(crate) fn netstat(name: &str) -> Option<u64> {
    // /proc/net is that of the process, whose first thread may be in another namespace.
    let netstat = std::fs::read_to_string("/proc/thread-self/net/netstat").ok()?;
    value(&netstat, "TcpExt:", name)
}

/// How many connections listeners have accepted (tcp_create_openreq_child()).
pub(super) fn passive_opens() -> Option<u64> {
    let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").ok()?;
    value(&snmp, "Tcp:", "PassiveOpens")
}

/// The sockets of TCP, and the connections in TIME_WAIT (sockstat_seq_show(), net/ipv4/proc.c). IPv6
/// has a count of its own for sockets, not for TIME_WAIT.
pub(super) fn sockets_in_use() -> Option<(usize, usize)> {
    let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok();
    let v4 = read("sockstat")?;
    let v6 = read("sockstat6").unwrap_or_default();
    let count = |table: &str, group: &str, name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(group))?;
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1)?.parse::<usize>().ok()
    };
    let of_v6 = count(&v6, "TCP6:", "inuse").unwrap_or(0);
    Some((
        count(&v4, "TCP:", "inuse")? + of_v6,
        count(&v4, "TCP:", "tw")?,
    ))
}

fn value(table: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = table.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = names.split_whitespace().position(|n| n == name)?;
    values.split_whitespace().nth(column)?.parse().ok()
}

/// What holds for any text as netstat's.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let _ = value(text, "TcpExt:", "SyncookiesSent");
    let _ = hexadecimal_sum(text, "syn_received");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_cookie_count() {
        let netstat = "TcpExt: A SyncookiesSent B\nTcpExt: 1 42 3\nIpExt: C\nIpExt: 9\n";
        assert_eq!(value(netstat, "TcpExt:", "SyncookiesSent"), Some(42));
        assert_eq!(value(netstat, "TcpExt:", "C"), None);
        assert_eq!(value("", "TcpExt:", "SyncookiesSent"), None);
        assert!(cookies_sent().is_some(), "this kernel counts them");
        let synproxy = "entries\t\tsyn_received\tcookie_invalid\n\
                        00000000\t0000001f\t00000000\n00000000 00000002 00000000\n";
        assert_eq!(hexadecimal_sum(synproxy, "syn_received"), 33);
        assert_eq!(hexadecimal_sum("", "syn_received"), 0);
    }
}
