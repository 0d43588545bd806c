//! The kernel's release: as uname(1) shows it, and kernel.org's from which a distribution has made it.

use std::fs;

pub(crate) fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.unwrap_or_default().trim().to_owned()
}

/// The release of kernel.org that this kernel was made from, as far as the kernel tells.
pub(crate) fn made_from() -> String {
    let version = fs::read_to_string("/proc/sys/kernel/version").unwrap_or_default();
    debians(&version).map_or_else(release, str::to_owned)
}

/// Debian counts its own builds in the release (6.1.0-57) and tells kernel.org's in the version: `#1 SMP
/// PREEMPT_DYNAMIC Debian 6.1.192-3 (2026-11-26)`.
fn debians(version: &str) -> Option<&str> {
    version.split_once(" Debian ")?.1.split_whitespace().next()
}

/// Whether the release is that one or a newer one. Distributions bring back changes to older ones.
pub(crate) fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut numbers = numbers.map_while(|number| number.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    version.is_some_and(|version| version >= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_tells_the_release_of_kernel_org_in_its_version() {
        for (version, expected) in [
            (
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-3 (2026-11-26)",
                Some("6.1.192-3"),
            ),
            (
                "#1 SMP Debian 5.10.262-1 (2026-07-31)\n",
                Some("5.10.262-1"),
            ),
            ("#1 SMP PREEMPT_DYNAMIC Mon Nov 30 07:00:00 UTC 2026", None),
            ("", None),
        ] {
            assert_eq!(debians(version), expected, "{version}");
        }
    }

    #[test]
    fn releases_are_compared_by_number() {
        for (release, expected) in [
            ("6.16.0", true),
            ("7.3.4+deb13-cloud-amd64", true),
            ("6.9.1", false),
            ("5.100", false),
            ("6.16-rc1", true),
            ("", false),
            ("linux", false),
        ] {
            assert_eq!(is_at_least(release, (6, 16)), expected, "{release}");
        }
        assert!(is_at_least(&release(), (3, 10)));
    }
}
