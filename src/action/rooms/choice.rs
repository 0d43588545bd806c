//! Which action `--syn auto` takes, from what can be done here; how many rooms a group may have, and how many may
//! wait. Pure: a run asks by trying, `check` by what it has found.

use serde::Serialize;

/// More rooms in a group would make each choice slower.
pub(crate) const MOST_ROOMS: u32 = 64;

/// How many may wait in one room. When it is closed they move to a queue of the service's, which may be no longer
/// than `longest_queue`, and keeps place there for new connections.
pub(crate) fn largest_room(longest_queue: u32) -> u32 {
    (longest_queue / 2).max(1)
}

/// The largest `--max-held`: newer kernels let no more packets into a queue (NFQUEUE; seen on Linux 6.18).
pub(crate) const LARGEST_HELD: u32 = 65_536;

/// The order of `--syn auto`: the first that can be done.
pub(crate) const AUTO: [&str; 3] = ["park", "hold", "drop"];
/// The same with `--reload`.
pub(crate) const AUTO_FOR_RELOADS: [&str; 3] = ["handover", "hold", "drop"];

/// Where that is so, `--syn auto` does not park.
pub(crate) const COOKIES_RESET: &str = "net.ipv4.tcp_syncookies is 2, and the service does not set SO_REUSEPORT: the kernel \
                                        may reset one or two clients each time its listeners change";

/// What is taken, and what was missing for those before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Choice {
    pub action: &'static str,
    /// Each as `NAME: why`.
    pub lacking: Vec<String>,
}

/// The first action of `order` that `can` be done. The last one is taken in any case.
pub(crate) fn first(
    order: &[&'static str],
    can: impl Fn(&'static str) -> Result<(), String>,
) -> Choice {
    let mut choice = Choice {
        action: "drop",
        lacking: Vec::new(),
    };
    for action in order {
        choice.action = action;
        match can(action) {
            Ok(()) => break,
            Err(why) => choice.lacking.push(format!("{action}: {why}")),
        }
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_done_is_taken() {
        let order = ["park", "hold", "drop"];
        let only = |able: &'static [&'static str]| {
            move |action| match able.contains(&action) {
                true => Ok(()),
                false => Err("not here".to_owned()),
            }
        };
        for (able, action, lacking) in [
            (&["park", "hold", "drop"][..], "park", 0),
            (&["hold", "drop"], "hold", 1),
            (&["drop"], "drop", 2),
            (&["park"], "park", 0),
            (&[], "drop", 3),
        ] {
            let choice = first(&order, only(able));
            assert_eq!((choice.action, choice.lacking.len()), (action, lacking));
        }
        let choice = first(&order, only(&["drop"]));
        assert_eq!(choice.lacking, ["park: not here", "hold: not here"]);
    }
}
