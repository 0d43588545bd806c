//! What would grow if a run left something behind, counted when nothing is under way.
//!
//! What is a network namespace's, or a pid namespace's, is this host's alone, and hardly anything of it
//! may change. The rest is the machine's, where others work too: its bounds are such that one of each
//! run is seen in half an hour, and others seldom are.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::seen::Sample;
use crate::leftovers::rules;

/// Something to count.
pub struct Gauge {
    /// Its name in the results.
    pub name: &'static str,
    /// By how much it may have grown in the end.
    pub bound: f64,
    read: fn() -> Result<f64>,
}

const fn gauge(name: &'static str, bound: f64, read: fn() -> Result<f64>) -> Gauge {
    Gauge { name, bound, read }
}

/// One leaked in each run is more, after half an hour; what others do is mostly less.
const SOME: f64 = 1_000.0;

/// All of them.
pub const GAUGES: &[Gauge] = &[
    // Guards, standbys, what COMMAND left. The host's own are always the same.
    gauge("processes", 0.0, processes),
    gauge("rules", 0.0, || Ok(rules()?.len() as f64)),
    gauge("lock files", 0.0, || entries("/run/syngate")),
    gauge("locks", 0.0, || lines("/proc/locks")),
    gauge("queues", 0.0, || {
        lines("/proc/net/netfilter/nfnetlink_queue")
    }),
    // Lists, as long as a rule names them; and who is in them.
    gauge("xt_recent lists", 0.0, || entries("/proc/net/xt_recent")),
    // A table with an owner lives as long as such a socket.
    gauge("netlink sockets", 0.0, || lines("/proc/net/netlink")),
    // Of all kinds, connections that have an end here included, those in TIME_WAIT not: a client may
    // still be closing its.
    gauge("sockets", 20.0, || of_sockets("sockets:", "used")),
    gauge("orphans", 20.0, || of_sockets("TCP:", "orphan")),
    // Rules that redirect have connections tracked, for two minutes more when they are over. How many
    // those are depends on what was restarted how in the last two minutes, in which 120,000 come.
    gauge("tracked connections", 60_000.0, tracked),
    // These would be kept for five days: their ends were not seen, as the last rule that needed tracking
    // had gone. The next run that redirects has them forgotten.
    gauge("tracked, not ended", 200.0, tracked_open),
    // From here on it is all of the machine's.
    gauge("machine: open files", 2_000.0, || {
        first("/proc/sys/fs/file-nr")
    }),
    gauge("machine: TCP", SOME, || slabs(&["TCP", "TCPv6"])),
    gauge("machine: sockets", SOME, || slabs(&["sock_inode_cache"])),
    // Held SYNs.
    gauge("machine: packets", SOME, || slabs(&["skbuff_head_cache"])),
    // Rules, chains, sets and their elements have no slabs of their own: they are kmalloc's, which page
    // cache and user memory are not. 60 KiB of each run are seen.
    gauge("machine: unreclaimable slabs, KiB", 65_536.0, || {
        memory("SUnreclaim:")
    }),
    // Counters of rules have a value for each CPU. 2 KiB of each run are seen.
    gauge("machine: memory per CPU, KiB", 2_048.0, || {
        memory("Percpu:")
    }),
];

/// Reads them all.
pub fn sample() -> Result<Sample> {
    let read = |gauge: &Gauge| Ok((gauge.name.to_owned(), (gauge.read)().context(gauge.name)?));
    GAUGES.iter().map(read).collect()
}

/// Who looks is one of them, always.
fn processes() -> Result<f64> {
    let is_process = |name: &str| name.parse::<u32>().is_ok();
    let all = fs::read_dir("/proc")?.collect::<Result<Vec<_>, _>>()?;
    let names = all.iter().map(|entry| entry.file_name());
    Ok(names
        .filter(|name| is_process(&name.to_string_lossy()))
        .count() as f64)
}

/// Of a folder; none, if it is not there.
fn entries(folder: &str) -> Result<f64> {
    match Path::new(folder).exists() {
        true => Ok(fs::read_dir(folder)?.count() as f64),
        false => Ok(0.0),
    }
}

fn lines(file: &str) -> Result<f64> {
    Ok(fs::read_to_string(file)?.lines().count() as f64)
}

fn first(file: &str) -> Result<f64> {
    let text = fs::read_to_string(file)?;
    Ok(text.split_whitespace().next().context("empty")?.parse()?)
}

/// `TCP: inuse 3 orphan 0 tw 0 alloc 5 mem 1`
fn of_sockets(row: &str, field: &str) -> Result<f64> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let words = text.lines().find_map(|line| line.strip_prefix(row));
    let mut words = words.context(row.to_owned())?.split_whitespace();
    words
        .find(|word| *word == field)
        .context(field.to_owned())?;
    Ok(words.next().context(field.to_owned())?.parse()?)
}

fn tracked() -> Result<f64> {
    first("/proc/sys/net/netfilter/nf_conntrack_count")
}

fn tracked_open() -> Result<f64> {
    let text = fs::read_to_string("/proc/net/nf_conntrack")?;
    Ok(text
        .lines()
        .filter(|line| line.contains(" ESTABLISHED "))
        .count() as f64)
}

/// Objects in use, as far as the allocator knows: those that CPUs have at hand count.
fn slabs(names: &[&str]) -> Result<f64> {
    let text = fs::read_to_string("/proc/slabinfo")?;
    let rows = text.lines().filter_map(|line| line.split_once(' '));
    let of_these = rows.filter(|(name, _)| names.contains(name));
    let used = of_these.map(|(_, row)| row.split_whitespace().next().unwrap_or_default());
    Ok(used.map(str::parse::<f64>).sum::<Result<f64, _>>()?)
}

fn memory(row: &str) -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let words = text.lines().find_map(|line| line.strip_prefix(row));
    let words = words.context(row.to_owned())?;
    Ok(words.trim_end_matches("kB").trim().parse()?)
}
