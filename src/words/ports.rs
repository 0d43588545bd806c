//! Ports as people write them (`80,443,8000-8010,https`) and as the kernel takes them (disjoint
//! ranges in ascending order). Pure.

use std::fmt;
use std::ops::RangeInclusive;

/// A set of TCP ports, kept as disjoint ranges in ascending order that do not touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortSet {
    ranges: Vec<RangeInclusive<u16>>,
}

impl PortSet {
    pub(crate) const EMPTY: PortSet = PortSet { ranges: Vec::new() };

    pub(crate) fn all() -> PortSet {
        PortSet::from_ranges([0..=u16::MAX])
    }

    /// The ranges may overlap and come in any order.
    pub(crate) fn from_ranges(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> PortSet {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|r| !r.is_empty()).collect();
        sorted.sort_by_key(|r| *r.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        PortSet { ranges: merged }
    }

    /// Parses one `--port` value. `service` looks a name up in the services database.
    ///
    /// # Errors
    /// A sentence that says which item is wrong and what would be right.
    pub(crate) fn parse(
        text: &str,
        service: impl Fn(&str) -> Option<u16>,
    ) -> Result<PortSet, String> {
        if text.trim().is_empty() {
            return Err(format!("no port given; {EXPECTED}"));
        }
        let mut ranges = Vec::new();
        for item in text.split(',') {
            ranges.push(parse_item(item.trim(), &service)?);
        }
        Ok(PortSet::from_ranges(ranges))
    }

    /// For messages: the whole set if it is short, else its beginning and the number of ports.
    pub(crate) fn brief(&self) -> String {
        const SHOWN: usize = 8;
        if self.ranges.len() <= SHOWN {
            return self.to_string();
        }
        let some = PortSet {
            ranges: self.ranges[..SHOWN].to_vec(),
        };
        format!("{some},… ({} ports)", self.len())
    }

    /// What goes before the numbers in a message.
    pub(crate) fn word(&self) -> &'static str {
        match self.iter().nth(1) {
            Some(_) => "ports",
            None => "port",
        }
    }

    pub(crate) fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.ranges
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().cloned().flatten()
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|r| *r.start() <= port);
        after > 0 && self.ranges[after - 1].contains(&port)
    }

    #[must_use]
    pub(crate) fn union(&self, other: &PortSet) -> PortSet {
        PortSet::from_ranges(self.ranges.iter().chain(&other.ranges).cloned())
    }

    #[must_use]
    pub(crate) fn minus(&self, other: &PortSet) -> PortSet {
        let mut left = Vec::new();
        let mut cuts = other.ranges.iter().peekable();
        for range in &self.ranges {
            let (mut from, to) = (u32::from(*range.start()), u32::from(*range.end()));
            while let Some(cut) = cuts.peek() {
                let (cut_from, cut_to) = (u32::from(*cut.start()), u32::from(*cut.end()));
                if cut_from > to {
                    break;
                }
                if cut_from > from {
                    left.push(from as u16..=(cut_from - 1) as u16);
                }
                from = from.max(cut_to + 1);
                if cut_to >= to {
                    break; // it may cut the next range as well
                }
                cuts.next();
            }
            if from <= to {
                left.push(from as u16..=to as u16);
            }
        }
        PortSet { ranges: left }
    }

    #[must_use]
    pub(crate) fn intersection(&self, other: &PortSet) -> PortSet {
        self.minus(&self.minus(other))
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> PortSet {
        PortSet::from_ranges(ports.into_iter().map(|p| p..=p))
    }
}

impl fmt::Display for PortSet {
    /// In the syntax of `--port`: `80,443,8000-8010`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.ranges.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (a, b) if a == b => write!(f, "{comma}{a}")?,
                (a, b) => write!(f, "{comma}{a}-{b}")?,
            }
        }
        Ok(())
    }
}

const EXPECTED: &str = "expected ports 1-65535, ranges such as 8000-8010, or service names, \
                        separated by commas";

fn parse_item(
    item: &str,
    service: &impl Fn(&str) -> Option<u16>,
) -> Result<RangeInclusive<u16>, String> {
    if item.is_empty() {
        return Err(format!("an empty item between commas; {EXPECTED}"));
    }
    let numeric = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if numeric(item) {
        let port = number(item)?;
        return Ok(port..=port);
    }
    let numbers = |separator| {
        let two = item.split_once(separator);
        two.filter(|(from, to)| numeric(from) && numeric(to))
    };
    if let Some((from, to)) = numbers('-') {
        let (from, to) = (number(from)?, number(to)?);
        if from > to {
            return Err(format!(
                "the range '{item}' runs backwards; write {to}-{from}"
            ));
        }
        return Ok(from..=to);
    }
    if let Some((from, to)) = numbers(':') {
        return Err(format!("'{item}': write a range as {from}-{to}"));
    }
    match service(item) {
        Some(port) => Ok(port..=port),
        None => Err(format!(
            "'{item}' is neither a port nor a TCP service in the services database; {EXPECTED}"
        )),
    }
}

fn number(digits: &str) -> Result<u16, String> {
    match digits.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!(
            "'{digits}' is not a port; ports are numbers from 1 to 65535"
        )),
    }
}

/// A list of items in the syntax of `--port`: `["80", "8000-8010"]`.
pub(crate) fn as_ranges<S: serde::Serializer>(
    ports: &PortSet,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let range = |range: &RangeInclusive<u16>| PortSet::from_ranges([range.clone()]).to_string();
    serializer.collect_seq(ports.ranges().iter().map(range))
}

/// Checks the properties of sets for any text. A semicolon separates two values.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut sets = text.split(';').flat_map(|text| {
        let parsed = PortSet::parse(text, |name| name.starts_with("http").then_some(80));
        parsed.inspect_err(|why| assert!(!why.is_empty()))
    });
    let Some(a) = sets.next() else {
        return;
    };
    assert!(!a.is_empty() && !a.contains(0) && !a.brief().is_empty());
    let apart = |pair: &[RangeInclusive<u16>]| pair[0].end() < &(pair[1].start() - 1);
    assert!(a.ranges().windows(2).all(apart));
    assert_eq!(PortSet::parse(&a.to_string(), |_| None).as_ref(), Ok(&a));
    if let Some(b) = sets.next() {
        let (both, left) = (a.intersection(&b), a.minus(&b));
        assert_eq!(both.union(&left), a);
        assert_eq!(both.len() + left.len(), a.len());
        assert!(left.intersection(&b).is_empty());
        assert_eq!(a.union(&b).len(), left.len() + b.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn services(name: &str) -> Option<u16> {
        match name {
            "http" => Some(80),
            "http-alt" => Some(8080),
            _ => None,
        }
    }

    fn parsed(text: &str) -> String {
        PortSet::parse(text, services).unwrap().to_string()
    }

    #[test]
    fn what_people_write() {
        assert_eq!(parsed("80"), "80");
        assert_eq!(parsed("443,80"), "80,443");
        assert_eq!(parsed("80,80,80-80"), "80");
        assert_eq!(parsed("8000-8005,8003-8010"), "8000-8010");
        assert_eq!(parsed("80,81,82"), "80-82");
        assert_eq!(parsed("http,http-alt"), "80,8080");
        assert_eq!(parsed(" 80 , 443 "), "80,443");
        assert_eq!(parsed("1-65535"), "1-65535");
        assert_eq!(parsed("65535,65534"), "65534-65535");
    }

    #[test]
    fn what_is_cut_at_an_end_leaves_one_range() {
        let of = |text| PortSet::parse(text, services).unwrap();
        assert_eq!(of("80-90").minus(&of("80")), of("81-90"));
        assert_eq!(of("80-90").minus(&of("90")), of("80-89"));
        assert_eq!(of("80-90").minus(&of("1-100")), PortSet::EMPTY);
        assert_eq!(of("80-90").minus(&of("85")).ranges().len(), 2);
    }

    #[test]
    fn messages_stay_short() {
        assert_eq!(
            PortSet::parse("80,443", services).unwrap().brief(),
            "80,443"
        );
        let odd: PortSet = (1..=65_535).step_by(2).collect();
        assert_eq!(odd.brief(), "1,3,5,7,9,11,13,15,… (32768 ports)");
    }

    #[test]
    fn what_is_refused_and_why() {
        for (text, says) in [
            ("", "no port given"),
            (" ", "no port given"),
            ("0", "'0' is not a port"),
            ("65536", "'65536' is not a port"),
            ("99999999999", "'99999999999' is not a port"),
            ("80-70", "write 70-80"),
            (",", "empty item"),
            ("80,,443", "empty item"),
            ("80,", "empty item"),
            ("http s", "'http s' is neither"),
            ("gopherish", "'gopherish' is neither"),
            ("-1", "'-1' is neither"),
            ("80-", "'80-' is neither"),
            ("+80", "'+80' is neither"),
            ("0x50", "'0x50' is neither"),
            ("8o", "'8o' is neither"),
            ("80-http", "'80-http' is neither"),
        ] {
            let error = PortSet::parse(text, services).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{text:?}: {error}");
        }
    }

    /// The same set in a type of the standard library, as an oracle.
    fn plain(set: &PortSet) -> std::collections::BTreeSet<u16> {
        set.iter().collect()
    }

    fn any_set() -> impl Strategy<Value = PortSet> {
        // Few values, at both ends of the range, so that sets overlap and touch often.
        let port = prop_oneof![1u16..40, 65_500u16..=65_535];
        prop::collection::vec((port, 0u16..6), 0..8).prop_map(|items| {
            PortSet::from_ranges(items.into_iter().map(|(p, n)| p..=p.saturating_add(n)))
        })
    }

    proptest! {
        #[test]
        fn ranges_are_disjoint_and_ascending(set in any_set()) {
            for pair in set.ranges().windows(2) {
                prop_assert!(u32::from(*pair[0].end()) + 1 < u32::from(*pair[1].start()));
            }
            prop_assert_eq!(set.len(), plain(&set).len());
        }

        #[test]
        fn set_algebra(a in any_set(), b in any_set()) {
            prop_assert_eq!(plain(&a.union(&b)), &plain(&a) | &plain(&b));
            prop_assert_eq!(plain(&a.minus(&b)), &plain(&a) - &plain(&b));
            prop_assert_eq!(plain(&a.intersection(&b)), &plain(&a) & &plain(&b));
            for port in [1, 2, 20, 39, 45, 65_499, 65_500, 65_535] {
                prop_assert_eq!(a.contains(port), plain(&a).contains(&port));
            }
        }

        #[test]
        fn prints_what_it_parses(set in any_set()) {
            if !set.is_empty() {
                prop_assert_eq!(PortSet::parse(&set.to_string(), |_| None).unwrap(), set);
            }
        }
    }
}
