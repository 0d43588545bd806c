//! Whether COMMAND has taken the standby for the service, as when both have one pid file. Then the old
//! instance still listens, untouched, and a new one listens beside it. Pure.

use crate::kernel::sockets::holders::names;
use crate::kernel::sockets::{Listener, Sample};

/// Two instances on one address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TwoInstances {
    /// The processes that listened before COMMAND, and still listen.
    pub old: String,
    /// The processes that have begun to listen since.
    pub new: String,
}

/// A reload keeps old listeners as well, and may add some: but the same processes hold both. A service
/// that COMMAND has not touched at all has no new listener. Processes that can't be seen prove nothing.
pub(super) fn two_instances(before: &Sample, now: &Sample) -> Option<TwoInstances> {
    let is_old = |l: &&Listener| before.listeners.iter().any(|old| old.id == l.id);
    let (old, new): (Vec<&Listener>, Vec<&Listener>) = now.listeners.iter().partition(is_old);
    new.into_iter().find_map(|new| {
        let there_before = before.listeners.iter().filter(|l| l.same_place(new));
        let untouched = old.iter().filter(|l| l.same_place(new));
        let untouched: Vec<u32> = untouched.map(|l| l.inode).collect();
        let mut holders = now.holders.values().map(|holder| &holder.inodes);
        let one_holds_both = holders
            .any(|held| held.contains(&new.inode) && untouched.iter().any(|i| held.contains(i)));
        let two = TwoInstances {
            old: names(&now.holders, &untouched),
            new: names(&now.holders, &[new.inode]),
        };
        let are_seen = !two.old.is_empty() && !two.new.is_empty();
        (are_seen && !one_holds_both && untouched.len() == there_before.count()).then_some(two)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tale::{held_by, on_80};

    /// The sockets with these cookies, and the processes that hold them.
    fn seen(cookies: &[u64], holders: &[(i32, &[u32])]) -> Sample {
        let mut sample = on_80(cookies);
        for (pid, inodes) in holders {
            let mut one = held_by(sample.clone(), &[*pid]).holders;
            one.get_mut(pid).unwrap().inodes = inodes.to_vec();
            sample.holders.extend(one);
        }
        sample
    }

    #[test]
    fn only_a_new_instance_beside_an_untouched_one_is_a_mistake() {
        let before = seen(&[1, 2], &[(811, &[1, 2])]);
        let told = |now: &Sample| two_instances(&before, now).is_some();
        let both = seen(&[1, 2, 3], &[(811, &[1, 2]), (911, &[3])]);
        let two = two_instances(&before, &both).unwrap();
        assert!(two.old.ends_with("(pid 811)"), "{two:?}");
        assert!(two.new.ends_with("(pid 911)"), "{two:?}");

        let nothing_done = seen(&[1, 2], &[(811, &[1, 2])]);
        assert!(!told(&nothing_done), "COMMAND did nothing");
        let reloaded = seen(&[1, 2, 3], &[(811, &[1, 2, 3]), (912, &[3])]);
        assert!(!told(&reloaded), "one more worker of the same master");
        let restarted = seen(&[3], &[(911, &[3])]);
        assert!(!told(&restarted), "it was replaced");
        let one_of_two = seen(&[2, 3], &[(811, &[2]), (911, &[3])]);
        assert!(!told(&one_of_two), "some of it was replaced");
        assert!(!told(&seen(&[1, 2, 3], &[])), "nobody can be seen");
        assert!(
            !told(&seen(&[1, 2, 3], &[(811, &[1, 2])])),
            "who is new can't be seen"
        );
    }
}
