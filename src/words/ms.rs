//! Milliseconds, in JSON and as text.

use std::time::Duration;

use serde::Serialize;

/// Milliseconds in JSON, to the microsecond.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ms(f64);

impl From<Duration> for Ms {
    fn from(duration: Duration) -> Ms {
        Ms(duration.as_micros() as f64 / 1e3)
    }
}

/// `83 ms`, `1.2 ms`, `12.0 s`.
pub(crate) fn ms_words(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_what_matters() {
        for (micros, words) in [
            (1_249, "1.2 ms"),
            (9_999, "10.0 ms"),
            (10_000, "10 ms"),
            (83_400, "83 ms"),
            (9_999_999, "10000 ms"),
            (10_000_000, "10.0 s"),
            (12_340_000, "12.3 s"),
        ] {
            assert_eq!(ms_words(Duration::from_micros(micros)), words);
        }
        assert_eq!(Ms::from(Duration::from_nanos(1_234_999)), Ms(1.234));
    }
}
