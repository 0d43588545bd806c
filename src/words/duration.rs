//! Durations as options take them.

use std::time::Duration;

/// The longest duration that an option takes.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A duration as humantime reads it, up to [`LONGEST`]. A bare number is refused, unless it is 0:
/// seconds and milliseconds are too easily mistaken for each other.
pub fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str = "expected a duration with its unit, such as 500ms, 2s or 1m30s";
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("a number without a unit; {EXAMPLES}"));
    }
    // humantime reads M as months; whoever writes it means minutes.
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
