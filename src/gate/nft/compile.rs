//! From [`Rules`] to nf_tables: which table, set and rule. Pure; it prints itself in nft(8)'s own
//! syntax, and `messages.rs` makes netlink of the same.

use std::ffi::{CStr, CString};
use std::fmt;
use std::time::Duration;

use nftnl::{Hook, Priority};

use crate::gate::{Rules, Steer};
use crate::ports::PortSet;

/// The set of gated ports.
pub const PORTS: &CStr = c"ports";
/// The counter of stopped SYNs.
pub const STOPPED: &CStr = c"syns_stopped";
/// The base chain.
pub const CHAIN: &CStr = c"input";
/// Behind the host's own input filter (priority 0): what that refuses is not ours to stop or count.
const BEHIND_FILTER: Priority = 10;
/// A table's userdata holds a comment of at most 128 bytes, its NUL included (libnftnl/udata.h,
/// NFTNL_UDATA_COMMENT_MAXLEN).
const COMMENT_MAX: usize = 127;

/// Everything that the kernel gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// `syngate_<run id>`: no two runs share it, also not across pid namespaces.
    pub table: CString,
    /// Who made it, for `nft list ruleset`.
    pub comment: CString,
    /// Where the chain sees packets, and when: before chains of a larger priority.
    pub hook: Hook,
    /// See [`Ruleset::hook`].
    pub priority: Priority,
    /// What the set is filled with when the gate closes.
    pub ports: PortSet,
    /// What the only rule is made of, left to right.
    pub rule: Vec<Term>,
}

/// A term of a rule: a condition that lets the packet go on to the next term, or what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// It is TCP. Without this a UDP payload would be read as TCP flags.
    Tcp,
    /// SYN is set; ACK, FIN and RST are not. ECN's bits are not looked at (RFC 3168, 6.1.1: a SYN
    /// may carry ECE and CWR).
    NewSyn,
    /// The destination port is in the set.
    ToGatedPort,
    /// Count it.
    Count,
    /// Drop it.
    Drop,
}

/// Compiles the rules of run `id`; `comment` says who made them.
pub fn compile(rules: &Rules, id: &str, comment: &str) -> Ruleset {
    let verdict = match rules.steer {
        Steer::Drop => Term::Drop,
    };
    Ruleset {
        table: CString::new(format!("syngate_{id}")).expect("an id is hexadecimal"),
        comment: fit_comment(comment),
        hook: Hook::In,
        priority: BEHIND_FILTER,
        ports: rules.ports.clone(),
        rule: vec![
            Term::Tcp,
            Term::NewSyn,
            Term::ToGatedPort,
            Term::Count,
            verdict,
        ],
    }
}

/// nft prints comments between quotes as they are: whatever would end or garble that is replaced.
fn fit_comment(text: &str) -> CString {
    let mut clean: String = text
        .chars()
        .map(|c| if c == '"' { '\'' } else { c })
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    while clean.len() > COMMENT_MAX {
        clean.pop();
    }
    CString::new(clean).expect("control characters, NUL among them, are replaced")
}

impl Ruleset {
    /// In nft(8)'s syntax, as a script for `nft -f` and as `nft list table` shows it. Each port
    /// leaves the set `timeout` after the gate has closed.
    pub fn script(&self, timeout: Duration) -> String {
        let timeout = NftTime(timeout);
        let elements: Vec<String> = self
            .ports
            .to_string()
            .split(',')
            .map(|range| format!("{range} timeout {timeout}"))
            .collect();
        let rule: Vec<String> = self.rule.iter().map(Term::to_string).collect();
        format!(
            "table inet {table} {{\n\
             \tcomment \"{comment}\"\n\
             \tflags owner\n\n\
             \tcounter {stopped} {{ }}\n\n\
             \tset {ports} {{\n\
             \t\ttype inet_service\n\
             \t\tflags interval,timeout\n\
             \t\telements = {{ {elements} }}\n\
             \t}}\n\n\
             \tchain {chain} {{\n\
             \t\ttype filter hook {hook} priority {priority}; policy accept;\n\
             \t\t{rule}\n\
             \t}}\n\
             }}\n",
            table = shown(&self.table),
            comment = shown(&self.comment),
            stopped = shown(STOPPED),
            ports = shown(PORTS),
            chain = shown(CHAIN),
            elements = elements.join(", "),
            hook = hook_name(self.hook),
            priority = self.priority,
            rule = rule.join(" "),
        )
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Tcp => write!(f, "meta l4proto tcp"),
            Term::NewSyn => write!(f, "tcp flags & (fin | syn | rst | ack) == syn"),
            Term::ToGatedPort => write!(f, "tcp dport @{}", shown(PORTS)),
            Term::Count => write!(f, "counter name \"{}\"", shown(STOPPED)),
            Term::Drop => write!(f, "drop"),
        }
    }
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::PreRouting => "prerouting",
        Hook::In => "input",
        Hook::Forward => "forward",
        Hook::Out => "output",
        Hook::PostRouting => "postrouting",
        Hook::Ingress => "ingress",
    }
}

/// A time as nft writes it: `1d2h3m4s5ms`.
struct NftTime(Duration);

impl fmt::Display for NftTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        let parts = [
            (ms / 86_400_000, "d"),
            (ms / 3_600_000 % 24, "h"),
            (ms / 60_000 % 60, "m"),
            (ms / 1_000 % 60, "s"),
            (ms % 1_000, "ms"),
        ];
        for (count, unit) in parts {
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

fn shown(text: &CStr) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_nft_writes_them() {
        for (ms, text) in [
            (30_000, "30s"),
            (90_500, "1m30s500ms"),
            (86_400_000, "1d"),
            (29_996, "29s996ms"),
        ] {
            assert_eq!(NftTime(Duration::from_millis(ms)).to_string(), text);
        }
    }

    #[test]
    fn comments_fit_and_end_no_quotes() {
        let comment = fit_comment("a \"quoted\"\nword\0");
        assert_eq!(comment.as_c_str(), c"a 'quoted'?word?");
        let long = "é".repeat(100);
        let comment = fit_comment(&long);
        assert!(comment.as_bytes().len() <= COMMENT_MAX);
        assert!(comment.to_str().is_ok(), "not cut within a character");
    }
}
