//! Durations as options take them.

use std::time::Duration;

/// The longest duration that an option takes.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Parses a duration as humantime does, up to [`LONGEST`]. Refuses a number without a unit, unless it
/// is 0: seconds and milliseconds are too easily confused.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "expected a duration with its unit, such as 500ms, 2s or 1m30s";
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("a number without a unit; {EXAMPLES}"));
    }
    // humantime reads M as months; people who write it mean minutes.
    if text.contains('M') {
        return Err(format!("M would be months (minutes are m); {EXAMPLES}"));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err(format!(
            "more than 24h, the longest that is allowed; {EXAMPLES}"
        )),
        Ok(duration) if duration.subsec_nanos() % 1_000_000 != 0 => {
            Err(format!("finer than a millisecond; {EXAMPLES}"))
        }
        Ok(duration) => Ok(duration),
        Err(_) => Err(EXAMPLES.to_owned()),
    }
}

/// Checks the properties of the parser for any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(taken) = duration(&text) {
        assert!(taken <= LONGEST && taken.subsec_nanos() % 1_000_000 == 0);
        let shown = humantime::format_duration(taken).to_string();
        assert_eq!(duration(&shown), Ok(taken), "{shown}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("2s", 2_000),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, says) in [
            ("1", "without a unit"),
            ("1.5", "without a unit"),
            ("", "expected a duration"),
            ("-1s", "expected a duration"),
            ("1M", "M would be months"),
            ("25h", "more than 24h"),
            ("18446744073709551615s", "more than 24h"),
            ("99999999999999999999s", "expected a duration"),
            ("1us", "finer than a millisecond"),
            ("soon", "expected a duration"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn durations_are_bounded_and_never_panic(text in "[-0-9a-zA-Z. ]{0,24}") {
            if let Ok(duration) = duration(&text) {
                prop_assert!(duration <= LONGEST);
            }
        }
    }
}
