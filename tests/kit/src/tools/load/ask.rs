//! What a client says to servers that do not all speak HTTP, and which answer it wants.

use super::answer::{Answer, Verdict};

/// A protocol. Each request asks the server to close after its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ask {
    /// GET /
    #[default]
    Http,
    /// PING and QUIT
    Redis,
    /// SELECT 1 by the user postgres
    Postgres,
    /// What is no version of the protocol, after which sshd names its own and closes
    Ssh,
    /// QUIT
    Smtp,
    /// LOGOUT
    Imap,
    /// GET /-/healthy, as of prometheus, which has nothing at /
    Healthy,
}

/// A length of 41 with itself, the version 3.0 of the protocol, names and values; a query; the end
/// (PostgreSQL's documentation, "Message Formats").
const SELECT_1: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0\
    Q\0\0\0\x0dSELECT 1\0X\0\0\0\x04";

impl Ask {
    /// The bytes that a client sends when it has connected.
    pub fn request(self) -> &'static [u8] {
        match self {
            Ask::Http => b"GET / HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n",
            Ask::Redis => b"PING\r\nQUIT\r\n",
            Ask::Postgres => SELECT_1,
            Ask::Ssh => b"quit\r\n",
            Ask::Smtp => b"QUIT\r\n",
            Ask::Imap => b"a LOGOUT\r\n",
            Ask::Healthy => b"GET /-/healthy HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n",
        }
    }

    /// See [`Answer::verdict`].
    pub fn verdict(self, answer: &Answer, closed: bool) -> Verdict {
        let bytes = answer.bytes();
        let (wanted, refusal) = match self {
            Ask::Http | Ask::Healthy => return answer.verdict(closed),
            Ask::Redis => (&b"+PONG\r\n+OK\r\n"[..], b'-'),
            Ask::Postgres => (&b"C\0\0\0\rSELECT 1\0"[..], b'E'),
            // "Exceeded MaxStartups"
            Ask::Ssh => (&b"SSH-2.0-"[..], b'E'),
            // "421 Service not available"
            Ask::Smtp => (&b"221 2.0.0 "[..], b'4'),
            // It may greet with "* BYE".
            Ask::Imap => (&b"a OK "[..], b'*'),
        };
        if contains(bytes, wanted) {
            return Verdict::Good;
        }
        match bytes.first() {
            Some(first) if *first == refusal => {
                Verdict::Bad(String::from_utf8_lossy(bytes).replace('\0', " "))
            }
            _ => Verdict::Short,
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(ask: Ask, bytes: &[u8]) -> Verdict {
        let mut answer = Answer::default();
        answer.push(bytes);
        ask.verdict(&answer, true)
    }

    #[test]
    fn a_startup_message_is_as_long_as_it_says() {
        let query = SELECT_1.iter().position(|byte| *byte == b'Q').unwrap();
        assert_eq!(usize::from(SELECT_1[3]), query);
    }

    #[test]
    fn only_a_whole_answer_is_good() {
        assert_eq!(verdict(Ask::Redis, b"+PONG\r\n+OK\r\n"), Verdict::Good);
        assert_eq!(verdict(Ask::Redis, b"+PONG\r\n"), Verdict::Short);
        assert_eq!(verdict(Ask::Ssh, b"SSH-2.0-OpenSSH_9.2\r\n"), Verdict::Good);
        assert_eq!(
            verdict(Ask::Smtp, b"220 x\r\n221 2.0.0 Bye\r\n"),
            Verdict::Good
        );
        assert_eq!(verdict(Ask::Smtp, b"220 x\r\n"), Verdict::Short);
        assert_eq!(
            verdict(Ask::Imap, b"* OK x\r\n* BYE\r\na OK bye\r\n"),
            Verdict::Good
        );
        let row = b"R\0\0\0\x08\0\0\0\0C\0\0\0\rSELECT 1\0Z\0\0\0\x05I";
        assert_eq!(verdict(Ask::Postgres, row), Verdict::Good);
        assert_eq!(verdict(Ask::Postgres, &row[..9]), Verdict::Short);
    }

    #[test]
    fn a_refusal_is_told() {
        let refused = verdict(Ask::Postgres, b"E\0\0\0\x2aSFATAL\0Mthe database");
        assert!(matches!(refused, Verdict::Bad(why) if why.contains("FATAL")));
        let too_many = verdict(Ask::Ssh, b"Exceeded MaxStartups\r\n");
        assert!(matches!(too_many, Verdict::Bad(_)));
        let loading = verdict(Ask::Redis, b"-LOADING x\r\n");
        assert!(matches!(loading, Verdict::Bad(_)));
    }
}
