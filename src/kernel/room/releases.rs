//! Bugs of the kernel in moving connections that no trial shows, by the releases that mend them
//! (docs/kernels.md). Pure.

/// A bug, and of each series the first release without it.
struct Bug {
    name: &'static str,
    mended: &'static [(u32, u32, u32)],
}

const BUGS: [Bug; 2] = [
    Bug {
        name: "CVE-2024-53206",
        mended: &[(6, 1, 120), (6, 6, 64), (6, 11, 11), (6, 12, 2)],
    },
    Bug {
        name: "7eca3292cac7",
        mended: &[(6, 1, 175)],
    },
];

/// The bugs that a kernel may have whose release is older than the one that mends them. A distribution may
/// have mended them earlier.
pub(crate) fn bugs(release: &str) -> Vec<String> {
    let Some(this) = numbers(release) else {
        return Vec::new();
    };
    let older = |bug: &Bug| {
        let same_series = |mended: &&(u32, u32, u32)| (mended.0, mended.1) == (this.0, this.1);
        let (a, b, c) = *bug.mended.iter().find(same_series)?;
        (this.2 < c).then(|| format!("{} (mended in {a}.{b}.{c})", bug.name))
    };
    BUGS.iter().filter_map(older).collect()
}

fn numbers(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?, number().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_releases_of_a_series_may_have_the_bugs() {
        for (release, expected) in [
            ("6.1.119-debian", 2),
            ("6.1.120", 1),
            ("6.1.0-40-amd64", 2),
            ("6.1.175", 0),
            ("6.6.63", 1),
            ("6.6.64+deb13", 0),
            ("6.12-rc1", 1),
            ("6.18.44", 0),
            ("7.0.0", 0),
            ("", 0),
            ("linux", 0),
        ] {
            let bugs = bugs(release);
            assert_eq!(bugs.len(), expected, "{release}: {bugs:?}");
        }
        assert_eq!(
            bugs("6.6.63"),
            ["CVE-2024-53206 (mended in 6.6.64)".to_owned()]
        );
    }
}
