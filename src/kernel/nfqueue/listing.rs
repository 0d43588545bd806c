//! The queues of this network namespace, as /proc lists them.

use crate::words::steer::QueueNum;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct QueueRow {
    pub(super) number: QueueNum,
    /// How many packets are in it.
    pub(super) waiting: u32,
    /// How many packets found no room, in the queue or in its reader's buffer.
    pub(super) dropped: u64,
}

/// Only queues that a program reads are listed.
pub(super) fn queues() -> Vec<QueueRow> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue");
    listed(&text.unwrap_or_default()).collect()
}

/// A line for each queue: number, reader's port id, packets in it, copy mode, copied bytes, dropped
/// because it was full, dropped because the reader was slow, last id (seq_show(),
/// net/netfilter/nfnetlink_queue.c).
fn listed(text: &str) -> impl Iterator<Item = QueueRow> {
    text.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let [number, _, waiting, _, _, full, slow, ..] = columns[..] else {
            return None;
        };
        Some(QueueRow {
            number: number.parse().ok()?,
            waiting: waiting.parse().ok()?,
            dropped: full.parse::<u64>().ok()?.saturating_add(slow.parse().ok()?),
        })
    })
}

/// What holds for any text as the kernel's list.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    assert!(listed(text).count() <= text.lines().count());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_list() {
        let queues = "    0   1234     0 2    64     9     9        0  1\n\
                      49152  -4195     5 2   128     7     2       14  1\n\
                      49153 1\n\
                      49154 1 0 2 128 18446744073709551615 1 0 1\n";
        let rows: Vec<QueueRow> = listed(queues).collect();
        let row = |number, waiting, dropped| QueueRow {
            number,
            waiting,
            dropped,
        };
        assert_eq!(
            rows,
            [row(0, 0, 18), row(49_152, 5, 9), row(49_154, 0, u64::MAX)]
        );
        assert_eq!(listed("").next(), None);
    }
}
