//! Numbers in options.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

pub(crate) fn number_in<T>(range: RangeInclusive<T>, text: &str) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = text.trim().parse().ok();
    number
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "expected a number from {} to {}",
                range.start(),
                range.end()
            )
        })
}

/// Checks the properties of the parser for any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for range in [0..=65_535_u32, 1..=65_536, 1..=4_194_304] {
        let taken = number_in(range.clone(), &text);
        assert!(taken.is_err() || taken.is_ok_and(|number| range.contains(&number)));
    }
    assert_eq!(
        number_in(0..=u16::MAX, &text).ok().map(u32::from),
        number_in(0..=65_535, &text).ok()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounds() {
        let numbers = |text| number_in(1..=9, text);
        for (text, number) in [("1", 1), (" 9 ", 9), ("+5", 5), ("007", 7)] {
            assert_eq!(numbers(text), Ok(number), "{text}");
        }
        for text in ["0", "10", "", "-1", "1.0", "one", "99999999999"] {
            let expected = Err("expected a number from 1 to 9".to_owned());
            assert_eq!(numbers(text), expected, "{text}");
        }
        assert_eq!(number_in(0..=u16::MAX, "65535"), Ok(u16::MAX));
        assert!(number_in(0..=u16::MAX, "65536").is_err());
    }
}
