//! What tells that a service can serve: `--ready-check` and `--ready-url`.

use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};

use ureq::http::Uri;

/// How the run asks whether the service can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ready {
    /// By this command line.
    Check(OsString),
    Url(ReadyUrl),
}

impl Ready {
    /// The option that it comes from.
    pub(crate) fn option(&self) -> &'static str {
        match self {
            Ready::Check(_) => "--ready-check",
            Ready::Url(_) => "--ready-url",
        }
    }

    /// The option with its value, unless that is a long script.
    pub(crate) fn shown(&self) -> String {
        const SHORT: usize = 60;
        let option = self.option();
        match self {
            Ready::Check(line) if line.len() > SHORT => option.to_owned(),
            Ready::Check(line) => format!("{option} '{}'", line.to_string_lossy()),
            Ready::Url(url) => format!("{option} {url}"),
        }
    }
}

/// A value of `--ready-url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadyUrl {
    pub(crate) to: To,
    /// `https:` without a look at the certificate.
    pub(crate) insecure: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    /// A request, which is to be answered by a status from 200 to 299.
    Http(Uri),
    /// `HOST:PORT`, which is to take a connection.
    Tcp(String),
}

const EXPECTED: &str = "expected http://HOST/PATH, https://HOST/PATH, tcp:PORT or tcp:HOST:PORT";
/// The address for `tcp:PORT`.
const THIS_HOST: &str = "localhost";

impl ReadyUrl {
    /// # Errors
    /// What was expected.
    pub(crate) fn parse(text: &str) -> Result<ReadyUrl, String> {
        let to = match text.strip_prefix("tcp:") {
            Some(rest) => tcp(rest).map(To::Tcp),
            None => http(text).map(To::Http),
        };
        Ok(ReadyUrl {
            to: to.ok_or(EXPECTED)?,
            insecure: false,
        })
    }

    pub(crate) fn is_https(&self) -> bool {
        matches!(&self.to, To::Http(uri) if uri.scheme_str() == Some("https"))
    }
}

impl Display for ReadyUrl {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match &self.to {
            To::Http(uri) => write!(f, "{uri}"),
            To::Tcp(to) => write!(f, "tcp:{to}"),
        }
    }
}

fn http(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority()?.as_str();
    // Behind the brackets of an IPv6 address.
    let behind = authority.rsplit(']').next().unwrap_or(authority);
    let has_port = behind.contains(':');
    let port = uri.port_u16().is_some_and(|port| port > 0);
    let is_plain = !authority.contains('@') && (port || !has_port);
    (known && is_plain && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

fn tcp(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((THIS_HOST, text));
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    // An IPv6 address has brackets, or the port would be a part of it.
    let is_host =
        !host.is_empty() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
    (is_port && is_host).then(|| format!("{host}:{port}"))
}

/// What holds for any text as `--ready-url`.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(url) = ReadyUrl::parse(&text) {
        assert_eq!(ReadyUrl::parse(&url.to_string()), Ok(url));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_shown_with_its_value() {
        let check = |line: &str| Ready::Check(line.into()).shown();
        assert_eq!(check("pg_isready -q"), "--ready-check 'pg_isready -q'");
        assert_eq!(check(&"x".repeat(60)).len(), "--ready-check ''".len() + 60);
        assert_eq!(check(&"x".repeat(61)), "--ready-check");
        let url = Ready::Url(ReadyUrl::parse("tcp:80").unwrap());
        assert_eq!(url.shown(), "--ready-url tcp:localhost:80");
    }

    #[test]
    fn urls_and_ports() {
        for (text, shown) in [
            (
                "http://127.0.0.1:8080/health",
                "http://127.0.0.1:8080/health",
            ),
            ("https://localhost", "https://localhost/"),
            ("http://[::1]/a?b=c", "http://[::1]/a?b=c"),
            ("tcp:80", "tcp:localhost:80"),
            ("tcp:[::1]:80", "tcp:[::1]:80"),
            ("tcp:web:80", "tcp:web:80"),
        ] {
            let url = ReadyUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.is_https(), text.starts_with("https"));
            withstand(text.as_bytes());
        }
        for text in [
            "",
            "80",
            "localhost:80",
            "/health",
            "http://",
            "http://:80/",
            "http://a:0/",
            "ftp://a/",
            "tcp:",
            "tcp:0",
            "tcp:web",
            "tcp::80",
            "tcp:::1:80",
            "tcp:65536",
            "http://a b/",
            "http://a:99999/",
            "http://a:/",
            "http://[::1]:0/",
            "http://a@b/",
        ] {
            assert_eq!(ReadyUrl::parse(text), Err(EXPECTED.to_owned()), "{text}");
        }
    }
}
