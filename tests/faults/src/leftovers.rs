//! Finds what a run has left behind on its host. For inside a host.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use anyhow::Result;
use nix::sys::stat::{major, minor};

use crate::setting::Place;

/// All of syngate's, and the standby, which runs the server's program on another port.
pub fn processes(place: &Place) -> Result<Vec<String>> {
    let mut left = running(&place.syngate)?;
    let servers = running(&place.testkit)?;
    left.extend(servers.into_iter().filter(|words| words.contains(":8080")));
    Ok(left)
}

/// COMMAND, which goes on when syngate was killed.
pub fn commands(place: &Place) -> Result<Vec<String>> {
    let script = place.file("restart");
    let mut shells = running("/bin/sh")?;
    shells.retain(|words| words.contains(&script));
    Ok(shells)
}

/// All that run this file: pids and arguments.
fn running(program: &str) -> Result<Vec<String>> {
    let program = Path::new(program).canonicalize()?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        if fs::read_link(path.join("exe")).is_ok_and(|exe| exe == program) {
            let pid = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let words = fs::read(path.join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            found.push(format!("{pid} {words}"));
        }
    }
    Ok(found)
}

/// Queues that somebody reads.
pub fn queues() -> String {
    fs::read_to_string("/proc/net/netfilter/nfnetlink_queue").unwrap_or_default()
}

/// The locks that are held on what is in `/run/syngate`, as /proc/locks lists them.
pub fn locks() -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir("/run/syngate").into_iter().flatten() {
        let file = entry?.metadata()?;
        let device = file.dev();
        // Other hosts' folders are on devices of their own, with the same inodes.
        files.push(format!(
            "{:02x}:{:02x}:{}",
            major(device),
            minor(device),
            file.ino()
        ));
    }
    let held = fs::read_to_string("/proc/locks")?;
    let is_ours = |line: &&str| {
        let mut words = line.split_whitespace();
        words.any(|word| files.iter().any(|file| word == file))
    };
    Ok(held.lines().filter(is_ours).map(str::to_owned).collect())
}

/// The lines of all rulesets, without counts, and without what the first use of iptables makes for good.
pub fn ruleset() -> Result<BTreeSet<String>> {
    Ok(rules()?.into_iter().collect())
}

/// The same, each line as often as it is there.
pub fn rules() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut lists = vec!["nft list ruleset"];
    // Asking makes the tables where there are none.
    for (names, save) in [
        ("/proc/net/ip_tables_names", "iptables-legacy-save"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ] {
        if fs::read_to_string(names).is_ok_and(|names| !names.is_empty()) {
            lists.push(save);
        }
    }
    for list in lists {
        let words: Vec<&str> = list.split(' ').collect();
        let listed = Command::new(words[0]).args(&words[1..]).output()?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let text = text.lines().filter(|line| !is_frame(line.trim()));
        lines.extend(text.map(without_counts));
    }
    Ok(lines)
}

/// The tables and base chains of iptables, without their rules; and what has no meaning of its own.
fn is_frame(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["" | "}" | "COMMIT"] => true,
        ["#", ..] | ["type", .., "accept;"] => true,
        ["table", "ip" | "ip6", name, "{"] => ["filter", "nat", "raw"].contains(&name),
        ["chain", name, "{"] | [name, "ACCEPT", _] => {
            let name = name.trim_start_matches(':');
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase())
        }
        [name] => name.starts_with('*'),
        _ => false,
    }
}

fn without_counts(line: &str) -> String {
    let counts = line.split(' ').map(|word| match word.parse::<u64>() {
        Ok(_) => "N",
        Err(_) if word.starts_with('[') => "",
        Err(_) => word,
    });
    counts.collect::<Vec<_>>().join(" ")
}
