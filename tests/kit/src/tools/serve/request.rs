const BLANK: &[u8] = b"\r\n\r\n";

/// As much as has come of an HTTP request without a body, and of those behind it.
#[derive(Default)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn is_whole(&self) -> bool {
        self.end().is_some()
    }

    /// Whether its client wants the connection to stay.
    pub fn keeps_alive(&self) -> bool {
        let head = &self.bytes[..self.end().unwrap_or_default()];
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let mut lines = head.lines();
        let is_new = lines.next().is_some_and(|line| line.ends_with("http/1.1"));
        is_new && lines.all(|line| line.replace(' ', "") != "connection:close")
    }

    /// It is over; the next counts.
    pub fn answered(&mut self) {
        self.bytes.drain(..self.end().unwrap_or_default());
    }

    fn end(&self) -> Option<usize> {
        let mut windows = self.bytes.windows(BLANK.len());
        Some(windows.position(|window| window == BLANK)? + BLANK.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Request;

    fn request(text: &str) -> Request {
        let mut request = Request::default();
        request.push(text.as_bytes());
        request
    }

    #[test]
    fn one_after_the_other() {
        let mut two = request("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r");
        assert!(two.is_whole() && two.keeps_alive());
        two.answered();
        assert!(!two.is_whole());
        two.push(b"\n");
        assert!(two.is_whole() && !two.keeps_alive());
        two.answered();
        assert!(!two.is_whole());
    }

    #[test]
    fn some_want_to_close() {
        let keeps_alive = |head: &str| request(&format!("{head}\r\n\r\n")).keeps_alive();
        assert!(keeps_alive("GET / HTTP/1.1\r\nHost: x"));
        assert!(!keeps_alive(
            "GET / HTTP/1.1\r\nconnection: Close\r\nHost: x"
        ));
        assert!(!keeps_alive("GET / HTTP/1.0\r\nHost: x"));
    }
}
