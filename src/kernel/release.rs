//! The kernel's release, as uname(1) shows it.

use std::fs;

pub(crate) fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.unwrap_or_default().trim().to_owned()
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
