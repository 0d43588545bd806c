//! Guesses the word for a misspelt one. Pure.

/// The candidate that `word` probably means. A candidate at a distance of 1 comes first. Then the only one that
/// begins with the word, or that the word begins with. Then the nearest, if it is near enough.
pub(crate) fn meant<S: AsRef<str>>(
    word: &str,
    candidates: impl IntoIterator<Item = S>,
) -> Option<S> {
    let word = &word.to_lowercase();
    let mut nearest: Option<(usize, S)> = None;
    let mut begin = Vec::new();
    for candidate in candidates {
        let name = candidate.as_ref().to_lowercase();
        let distance = distance(word, &name);
        if begins_alike(word, &name) && distance > 1 {
            begin.push(candidate);
        } else if nearest.as_ref().is_none_or(|(least, _)| distance < *least) {
            nearest = Some((distance, candidate));
        }
    }
    let near = nearest.filter(|(distance, _)| *distance <= tolerated(word));
    match (near, begin.len()) {
        (Some((0 | 1, name)), _) => Some(name),
        (_, 1) => begin.pop(),
        (near, _) => near.map(|(_, name)| name),
    }
}

fn begins_alike(word: &str, name: &str) -> bool {
    const ENOUGH: usize = 3;
    let enough = letters(word).min(letters(name)) >= ENOUGH;
    enough && (word.starts_with(name) || name.starts_with(word))
}

/// `; did you mean NAME?`, or an empty text.
pub(crate) fn question(name: Option<impl AsRef<str>>) -> String {
    name.map_or_else(String::new, |name| {
        format!("; did you mean {}?", name.as_ref())
    })
}

/// The largest distance: one mistake in three letters.
fn tolerated(word: &str) -> usize {
    letters(word) / 3
}

fn letters(word: &str) -> usize {
    word.trim_start_matches('-').chars().count()
}

/// The number of letters that are missing, added, changed, or swapped with the next one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            let changed = last[j - 1] + usize::from(!same);
            let mut least = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before_last[j - 2] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slips_are_counted() {
        for (a, b, slips) in [
            ("", "", 0),
            ("", "abc", 3),
            ("http", "http", 0),
            ("htpp", "http", 1),
            ("htttp", "http", 1),
            ("htp", "http", 1),
            ("hodl", "hold", 1),
            ("--prot", "--port", 1),
            ("statsu", "status", 1),
            ("drop", "hold", 4),
            ("ä", "a", 1),
        ] {
            assert_eq!(distance(a, b), slips, "{a} {b}");
            assert_eq!(distance(b, a), slips, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_is_meant_if_it_is_near() {
        let options = [
            "--port",
            "--precheck",
            "--dry-run",
            "--drain",
            "--drain-until",
        ];
        for (word, expected) in [
            ("--prot", Some("--port")),
            ("--Port", Some("--port")),
            ("--dryrun", Some("--dry-run")),
            ("--drian", Some("--drain")),
            ("--drain", Some("--drain")),
            ("--drain-utnil", Some("--drain-until")),
            ("--pre", Some("--precheck")),
            ("--p", None),
            ("--json", None),
            ("--", None),
            ("", None),
        ] {
            assert_eq!(meant(word, options), expected, "{word}");
        }
        let backends = ["nft", "iptables", "iptables-nft", "iptables-legacy"];
        assert_eq!(meant("nftables", backends), Some("nft"));
        assert_eq!(meant("iptable", backends), Some("iptables"));
        assert_eq!(meant("ipt", backends), None, "three begin so");
        assert_eq!(meant("x", ["y"]), None, "of a letter nothing is left");
        assert_eq!(meant("bat", ["bad", "bar"]), Some("bad"), "the first");
        assert_eq!(meant("", ["abc"]), None);
    }

    #[test]
    fn a_guess_is_a_question() {
        assert_eq!(question(Some("--port")), "; did you mean --port?");
        assert_eq!(question(None::<&str>), "");
    }

    proptest! {
        #[test]
        fn any_two_words_have_a_distance(a in ".{0,12}", b in ".{0,12}") {
            let slips = distance(&a, &b);
            prop_assert_eq!(slips == 0, a == b);
            prop_assert_eq!(slips, distance(&b, &a));
            prop_assert!(slips <= a.chars().count().max(b.chars().count()));
        }
    }
}
