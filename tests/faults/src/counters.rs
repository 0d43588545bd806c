//! What the kernel counts of the packets that it drops and sends again: a reason that syngate does not know.

use std::{collections::BTreeMap, fs};

/// The counters of a host, by name.
type Counters = BTreeMap<String, u64>;

/// Parts of the names of counters that may explain what clients saw.
const TELLING: [&str; 8] = [
    "Drop",
    "Overflow",
    "PAWS",
    "QFull",
    "Skipped",
    "Challenge",
    "SynRetrans",
    "Discards",
];

/// The counters of TCP and IP now. Empty if they can't be read.
pub fn counters() -> Counters {
    let files = ["/proc/net/netstat", "/proc/net/snmp"];
    let texts = files.map(|file| fs::read_to_string(file).unwrap_or_default());
    texts.iter().flat_map(|text| parse(text)).collect()
}

/// Pairs of lines: the names, and the numbers.
fn parse(text: &str) -> Vec<(String, u64)> {
    let lines: Vec<&str> = text.lines().collect();
    let of = |pair: &[&str]| {
        let [names, numbers] = [pair[0], pair[1]].map(|line| line.split(' ').skip(1));
        let numbers = numbers.map(|number| number.parse().unwrap_or(0));
        let names = names.map(str::to_owned);
        names.zip(numbers).collect::<Vec<_>>()
    };
    lines.chunks_exact(2).flat_map(of).collect()
}

/// In words: which of the counters that explain something have grown.
pub fn grown(before: &Counters, now: &Counters) -> Vec<String> {
    let grown = now.iter().filter_map(|(name, now)| {
        let by = now.saturating_sub(before.get(name).copied().unwrap_or(0));
        let tells = TELLING.iter().any(|part| name.contains(part));
        (tells && by > 0).then(|| format!("{name} +{by}"))
    });
    grown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_meanwhile_is_told() {
        let of = |drops: u64| -> Counters {
            let text = format!("TcpExt: SyncookiesSent ListenDrops\nTcpExt: {drops} {drops}\n");
            parse(&text).into_iter().collect()
        };
        assert_eq!(grown(&of(1), &of(4)), ["ListenDrops +3"]);
    }
}
