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
