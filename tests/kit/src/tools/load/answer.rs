/// As much of an answer as has come.
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
    /// Not what was asked for.
    Bad(String),
}

impl Answer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Of HTTP. `closed`: the server has closed in good order, so that an answer which
    /// doesn't tell its length is whole.
    pub fn verdict(&self, closed: bool) -> Verdict {
        let Some((head, body)) = self.split() else {
            return Verdict::Short;
        };
        let head = String::from_utf8_lossy(head);
        if !head.starts_with("HTTP/1.") {
            return Verdict::Bad("no HTTP".to_owned());
        }
        // Without a length, it is as long as what came until the close.
        let length = content_length(&head);
        let length = length.or(closed.then_some(body.len()));
        match head.split_whitespace().nth(1) {
            _ if length.is_none_or(|length| body.len() < length) => Verdict::Short,
            _ if length.is_some_and(|length| body.len() > length) => {
                Verdict::Bad("longer than it said".to_owned())
            }
            Some("200") => Verdict::Good,
            status => Verdict::Bad(format!("status {}", status.unwrap_or("missing"))),
        }
    }

    /// Whether the connection is for more answers, by RFC 9112, 9.3.
    pub fn keeps_alive(&self) -> bool {
        let Some((head, _)) = self.split() else {
            return false;
        };
        let head = String::from_utf8_lossy(head);
        let says = |option| {
            let words = header(&head, "connection").unwrap_or_default().split(',');
            let mut words = words.map(str::trim);
            words.any(|word| word.eq_ignore_ascii_case(option))
        };
        !says("close") && (head.starts_with("HTTP/1.1") || says("keep-alive"))
    }

    fn split(&self) -> Option<(&[u8], &[u8])> {
        const BLANK: &[u8] = b"\r\n\r\n";
        let at = self.bytes.windows(BLANK.len()).position(|w| w == BLANK)?;
        Some((&self.bytes[..at], &self.bytes[at + BLANK.len()..]))
    }
}

fn content_length(head: &str) -> Option<usize> {
    header(head, "content-length")?.parse().ok()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
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
    fn more_than_told_is_bad() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\nH";
        let bad = Verdict::Bad("longer than it said".into());
        assert_eq!(verdict(text, false), bad);
        assert_eq!(verdict(text, true), bad);
    }

    #[test]
    fn whole_at_the_last_byte() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
        let short = (0..text.len()).map(|n| verdict(&text[..n], false));
        assert!(short.into_iter().all(|v| v == Verdict::Short));
        assert_eq!(verdict(text, false), Verdict::Good);
    }

    #[test]
    fn some_connections_stay() {
        let keeps_alive = |head: &str| {
            let mut answer = Answer::default();
            answer.push(format!("{head}\r\n\r\n").as_bytes());
            answer.keeps_alive()
        };
        assert!(keeps_alive("HTTP/1.1 200 OK"));
        assert!(keeps_alive("HTTP/1.1 200 OK\r\nConnection: keep-alive"));
        assert!(keeps_alive("HTTP/1.0 200 OK\r\nconnection: Keep-Alive"));
        assert!(!keeps_alive("HTTP/1.0 200 OK"));
        assert!(!keeps_alive("HTTP/1.1 200 OK\r\nconnection: close"));
        assert!(!keeps_alive("HTTP/1.1 200 OK\r\nConnection: x, Close"));
    }

    #[test]
    fn a_head_is_needed() {
        assert_eq!(verdict("", true), Verdict::Short);
        assert_eq!(verdict("HTTP/1.0 200 OK\r\n", true), Verdict::Short);
    }

    #[test]
    fn nothing_may_be_before_the_head() {
        let text = "SHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(verdict(text, false), Verdict::Bad("no HTTP".into()));
    }

    #[test]
    fn other_statuses_are_no_answer() {
        let text = "HTTP/1.0 503 Service Unavailable\r\n\r\n";
        assert_eq!(verdict(text, true), Verdict::Bad("status 503".into()));
    }
}
