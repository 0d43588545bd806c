//! Which places get rooms where there are more than `--max-addresses`. Pure.

use std::collections::BTreeMap;

use crate::kernel::room::Place;

/// As many of the new places as may be kept beside those that are kept already. Users take turns, so that the places
/// of one user don't keep out the service's. Returns the others, too.
pub(super) fn chosen<'a>(
    mut new: Vec<Place>,
    kept: impl IntoIterator<Item = &'a Place>,
    most: usize,
) -> (Vec<Place>, Vec<Place>) {
    let mut of_user: BTreeMap<u32, usize> = BTreeMap::new();
    let mut free = most;
    for place in kept {
        *of_user.entry(place.uid).or_default() += 1;
        free = free.saturating_sub(1);
    }
    new.sort();
    let mut turns: Vec<(usize, Place)> = Vec::new();
    for place in new {
        let before = of_user.entry(place.uid).or_default();
        turns.push((*before, place));
        *before += 1;
    }
    turns.sort();
    let mut places: Vec<Place> = turns.into_iter().map(|(_, place)| place).collect();
    let others = places.split_off(free.min(places.len()));
    (places, others)
}

/// What is told of the others, unless there are none.
pub(super) fn words(others: &[Place], most: usize) -> Option<String> {
    let shown = others.first()?.shown();
    let them = match others.len() - 1 {
        0 => format!("{shown} is"),
        1 => format!("{shown} and another one are"),
        n => format!("{shown} and {n} others are"),
    };
    Some(format!(
        "{them} not kept: --max-addresses {most} allows no more"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sockets::Listener;

    fn place(uid: u32, address: &str) -> Place {
        let mut listener = Listener::made_up(address, 80, false);
        listener.uid = uid;
        Place::of(&listener)
    }

    fn shown(places: &[Place]) -> Vec<String> {
        let shown = places.iter().map(|p| format!("{} {}", p.uid, p.address));
        shown.collect()
    }

    #[test]
    fn each_user_has_a_turn() {
        let new = [
            (1_000, "127.0.0.1"),
            (1_000, "127.0.0.3"),
            (1_000, "127.0.0.2"),
            (0, "192.0.2.2"),
            (0, "192.0.2.1"),
        ];
        let new: Vec<Place> = new.map(|(uid, address)| place(uid, address)).into();
        let (places, others) = chosen(new.clone(), &[], 3);
        let first = ["1000 127.0.0.1", "0 192.0.2.1", "1000 127.0.0.2"];
        assert_eq!(shown(&places), first);
        assert_eq!(shown(&others), ["0 192.0.2.2", "1000 127.0.0.3"]);
        let kept = [place(1_000, "127.0.0.8"), place(1_000, "127.0.0.9")];
        let (places, others) = chosen(new.clone(), &kept, 4);
        assert_eq!(shown(&places), ["0 192.0.2.1", "0 192.0.2.2"]);
        assert_eq!(others.len(), 3);
        assert_eq!(chosen(new.clone(), &kept, 1).0, []);
        let (places, others) = chosen(new, &kept, 7);
        assert_eq!((places.len(), others.len()), (5, 0));
    }

    #[test]
    fn the_first_of_the_others_is_named() {
        let others = [place(0, "::1"), place(0, "::2"), place(0, "::3")];
        let told = |count| words(&others[..count], 128);
        assert_eq!(told(0), None);
        let one = told(1).unwrap();
        assert!(one.starts_with("[::1]:80 is not kept: "), "{one}");
        let two = told(2).unwrap();
        assert!(two.starts_with("[::1]:80 and another one are"), "{two}");
        let three = told(3).unwrap();
        assert!(
            three.starts_with("[::1]:80 and 2 others are not kept"),
            "{three}"
        );
        assert!(
            three.ends_with(" --max-addresses 128 allows no more"),
            "{three}"
        );
    }
}
