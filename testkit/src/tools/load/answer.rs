/// As much of an HTTP answer as has come.
#[derive(Default)]
pub struct Answer {
    bytes: Vec<u8>,
}

/// What an answer is, judged when nothing more will come.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Status 200, and as long as it said.
    Good,
    /// It ends too early.
    Short,
    /// Whole, but not what was asked for.
    Bad(String),
}

impl Answer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// `closed`: the server has closed in good order, so that an answer which
    /// doesn't tell its length is whole.
    pub fn verdict(&self, closed: bool) -> Verdict {
        let Some((head, body)) = self.split() else {
            return Verdict::Short;
        };
        let head = String::from_utf8_lossy(head);
        let whole = content_length(&head).map_or(closed, |length| body.len() >= length);
        match head.split_whitespace().nth(1) {
            _ if !whole => Verdict::Short,
            Some("200") => Verdict::Good,
            status => Verdict::Bad(format!("status {}", status.unwrap_or("missing"))),
        }
    }

    fn split(&self) -> Option<(&[u8], &[u8])> {
        const BLANK: &[u8] = b"\r\n\r\n";
        let at = self.bytes.windows(BLANK.len()).position(|w| w == BLANK)?;
        Some((&self.bytes[..at], &self.bytes[at + BLANK.len()..]))
    }
}

fn content_length(head: &str) -> Option<usize> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{Answer, Verdict};

    fn verdict(text: &str, closed: bool) -> Verdict {
        let mut answer = Answer::default();
        answer.push(text.as_bytes());
        answer.verdict(closed)
    }

    #[test]
    fn told_length_decides() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(verdict(&format!("{head}ok\n"), false), Verdict::Good);
        assert_eq!(verdict(&format!("{head}ok"), true), Verdict::Short);
    }

    #[test]
    fn without_length_the_close_decides() {
        let text = "HTTP/1.0 200 OK\r\n\r\nany";
        assert_eq!(verdict(text, true), Verdict::Good);
        assert_eq!(verdict(text, false), Verdict::Short);
    }

    #[test]
    fn a_head_is_needed() {
        assert_eq!(verdict("", true), Verdict::Short);
        assert_eq!(verdict("HTTP/1.0 200 OK\r\n", true), Verdict::Short);
    }

    #[test]
    fn other_statuses_are_no_answer() {
        let text = "HTTP/1.0 503 Service Unavailable\r\n\r\n";
        assert_eq!(verdict(text, true), Verdict::Bad("status 503".into()));
    }
}
