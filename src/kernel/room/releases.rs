//! Bugs of the kernel in moving connections that no trial shows, by the releases that mend them
//! (docs/kernels.md). Pure.

/// A bug, and of each series of the kernel's own the first release without it, as far as there is one. All three
/// have come with e8c526f2bdf1 (6.12, and in the series before it 5.15.170, 6.1.115, 6.6.59 and 6.11.6).
struct Bug {
    name: &'static str,
    mended: &'static [Release],
    /// These releases may still have it, and older ones do.
    at_the_earliest: bool,
}

/// Two numbers for the series, and one that counts in it.
type Release = (u32, u32, u32);

/// The first series that moves connections.
const FIRST: (u32, u32) = (5, 14);

const BUGS: [Bug; 3] = [
    Bug {
        name: "CVE-2024-53206",
        mended: &[
            (5, 15, 174),
            (6, 1, 120),
            (6, 6, 64),
            (6, 11, 11),
            (6, 12, 2),
        ],
        at_the_earliest: false,
    },
    Bug {
        name: "7eca3292cac7",
        mended: &[
            (5, 15, 209),
            (6, 1, 175),
            (6, 6, 142),
            (6, 12, 92),
            (6, 18, 34),
            (7, 0, 11),
        ],
        at_the_earliest: false,
    },
    // 97c8a3c1f73d, on top of 7eca3292cac7, whose releases do not have it.
    Bug {
        name: "CVE-2026-99270",
        mended: &[
            (5, 15, 210),
            (6, 1, 176),
            (6, 6, 143),
            (6, 12, 93),
            (6, 18, 35),
            (7, 0, 12),
        ],
        at_the_earliest: true,
    },
];

/// The bugs that a kernel of this release may have: a later release of its series mends them, or the series has ended
/// before that. A distribution may have mended them, or never had them.
pub(crate) fn bugs(release: &str) -> Vec<String> {
    let Some(this) = numbers(release) else {
        return Vec::new();
    };
    let told = BUGS.iter().filter_map(|bug| bug.told_of(this));
    told.collect()
}

impl Bug {
    fn told_of(&self, this: Release) -> Option<String> {
        let series = |release: &Release| (release.0, release.1);
        let own = self.mended.iter().find(|one| series(one) == series(&this));
        let newest = self.mended.iter().map(series).max()?;
        let name = self.name;
        match own {
            Some((a, b, c)) => (this.2 < *c).then(|| match self.at_the_earliest {
                true => format!("{name} (mended in {a}.{b}.{c} at the earliest)"),
                false => format!("{name} (mended in {a}.{b}.{c})"),
            }),
            None if (FIRST..newest).contains(&series(&this)) => {
                let (a, b, _) = this;
                Some(format!("{name} (mended in no release of {a}.{b})"))
            }
            None => None,
        }
    }
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
            ("6.1.119-debian", 3),
            ("6.1.120", 2),
            ("6.1.0-40-amd64", 3),
            ("6.1.175", 1),
            ("6.1.176", 0),
            ("6.6.63", 3),
            ("6.6.64+deb13", 2),
            ("6.12-rc1", 3),
            ("6.18.33", 2),
            ("6.18.44", 0),
            ("7.0.0", 2),
            // Distributions have releases of series that have ended.
            ("5.15.0-91-generic", 3),
            ("6.5.0-45-generic", 3),
            ("6.8.0-60-generic", 3),
            ("6.17.9", 2),
            ("7.1.0", 0),
            ("5.10.300", 0),
            ("", 0),
            ("linux", 0),
        ] {
            let bugs = bugs(release);
            assert_eq!(bugs.len(), expected, "{release}: {bugs:?}");
        }
        let told = [
            "CVE-2024-53206 (mended in no release of 6.8)",
            "7eca3292cac7 (mended in no release of 6.8)",
            "CVE-2026-99270 (mended in no release of 6.8)",
        ];
        assert_eq!(bugs("6.8.1"), told);
        let told = [
            "7eca3292cac7 (mended in 6.6.142)",
            "CVE-2026-99270 (mended in 6.6.143 at the earliest)",
        ];
        assert_eq!(bugs("6.6.64"), told);
    }
}
