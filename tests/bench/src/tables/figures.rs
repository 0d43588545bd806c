//! Figures as people read them.

use crate::sample::Sample;

pub fn sum(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> u64 {
    samples.iter().map(value).sum()
}

/// With the digits that say something.
pub fn ms(ms: f64) -> String {
    match ms {
        ms if ms >= 999.5 => format!("{:.2} s", ms / 1e3),
        ms if ms >= 9.95 => format!("{ms:.0} ms"),
        ms if ms >= 0.0995 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

pub fn shown(time: Option<f64>) -> String {
    time.map_or("–".to_owned(), ms)
}

pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!(
            [0.046, 0.5, 9.96, 99.6, 1040.0].map(ms),
            ["0.05 ms", "0.5 ms", "10 ms", "100 ms", "1.04 s"]
        );
        assert_eq!(
            [1, 999, 1_000, 1_234_567].map(thousands),
            ["1", "999", "1,000", "1,234,567"]
        );
    }
}
