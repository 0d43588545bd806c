//! Asks the URL of `--ready-url` once. A process of its own asks, so that the run never waits for an answer. It is
//! syngate, called with a hidden command.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rustls::crypto::ring::default_provider;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport,
};

use crate::kernel::sys;
use crate::words::ready::{ReadyUrl, To};

/// How long one answer may take. Then it is asked again.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// The name in ps(1).
const NAME: &str = "gate-ready-url";
/// The hidden command.
const COMMAND: &str = "ask";
const INSECURE: &str = "insecure";
const SECURE: &str = "secure";
const NO_ENTRANCE: i32 = -1;

/// `gate-ready-url ask MARK ENTRANCE secure|insecure URL`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) url: ReadyUrl,
    /// SO_MARK of its sockets, which the gate's rules let pass.
    pub(crate) mark: u32,
    /// The descriptor of the `cgroup.procs` of the control group that it joins first.
    pub(crate) entrance: Option<i32>,
}

impl Ask {
    pub(crate) fn words(&self) -> [OsString; 6] {
        let secure = if self.url.insecure { INSECURE } else { SECURE };
        let entrance = self.entrance.unwrap_or(NO_ENTRANCE);
        [
            NAME,
            COMMAND,
            &self.mark.to_string(),
            &entrance.to_string(),
            secure,
            &self.url.to_string(),
        ]
        .map(OsString::from)
    }

    pub(crate) fn parse(words: &[OsString]) -> Option<Ask> {
        let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
        let [_, COMMAND, mark, entrance, secure, url] = words?[..] else {
            return None;
        };
        let entrance = entrance.parse().ok()?;
        Some(Ask {
            url: ReadyUrl {
                insecure: secure == INSECURE,
                ..ReadyUrl::parse(url).ok()?
            },
            mark: mark.parse().ok()?,
            entrance: (entrance != NO_ENTRANCE).then_some(entrance),
        })
    }

    /// Prints what became of it, and returns the exit status: 0 if the service can serve.
    pub(crate) fn carry_out(&self) -> u8 {
        if let Some(procs) = self.entrance.and_then(sys::inherited) {
            // If it may not, it waits as others do.
            let _ = File::from(procs).write_all(b"0");
        }
        let marked = Marked(self.mark);
        let answer = match &self.url.to {
            To::Tcp(to) => marked.connect_to(to),
            To::Http(_) => self.request(marked),
        };
        let (said, status) = match answer {
            Ok(said) => (said, 0),
            Err(why) => (why, 1),
        };
        let _ = writeln!(io::stdout(), "{said}");
        status
    }

    fn request(&self, marked: Marked) -> Result<String, String> {
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
            .root_certs(RootCerts::PlatformVerifier)
            .disable_verification(self.url.insecure);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(ANSWERS_WITHIN))
            .tls_config(tls.build())
            // What is asked is this host, or one beside it.
            .proxy(None)
            .user_agent(concat!("syngate/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = ().chain(marked).chain(RustlsConnector::default());
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        let answer = agent.get(self.url.to_string()).call();
        let status = answer.map_err(|error| words(&error))?.status();
        match status.is_success() {
            true => Ok(format!("it answered {status}")),
            false => Err(format!("it answered {status}")),
        }
    }
}

fn words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => io_words(error),
        ureq::Error::Timeout(_) => no_answer(),
        ureq::Error::Rustls(error) => format!("TLS fails: {error}"),
        other => other.to_string(),
    }
}

fn io_words(error: &io::Error) -> String {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::EINPROGRESS | nix::errno::Errno::EAGAIN) => no_answer(),
        Some(errno) => errno.desc().to_owned(),
        // Of rustls.
        None if error.kind() == io::ErrorKind::InvalidData => format!("TLS fails: {error}"),
        None => error.to_string(),
    }
}

fn no_answer() -> String {
    let within = humantime::format_duration(ANSWERS_WITHIN);
    format!("no answer within {within}")
}

/// Connects by sockets with this mark.
#[derive(Debug, Clone, Copy)]
struct Marked(u32);

impl Marked {
    fn connect(self, to: SocketAddr) -> io::Result<TcpStream> {
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Without CAP_NET_ADMIN it waits as others do.
        let _ = setsockopt(&made, sockopt::Mark, &self.0);
        let within = TimeVal::seconds(ANSWERS_WITHIN.as_secs() as i64);
        setsockopt(&made, sockopt::SendTimeout, &within)?;
        connect(made.as_fd().as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(made.into())
    }

    /// The first of several addresses that takes a connection.
    fn connect_to_any(self, all: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
        let mut last = io::ErrorKind::NotFound.into();
        for to in all {
            match self.connect(to) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn connect_to(self, to: &str) -> Result<String, String> {
        let connected = to
            .to_socket_addrs()
            .and_then(|all| self.connect_to_any(all));
        match connected {
            Ok(_) => Ok("it took a connection".to_owned()),
            Err(error) => Err(io_words(&error)),
        }
    }
}

impl Connector for Marked {
    type Out = Connected;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> Result<Option<Connected>, ureq::Error> {
        let stream = self.connect_to_any(details.addrs.iter().copied())?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Connected { stream, buffers }))
    }
}

/// A connection for ureq, which does not let others mark the sockets of its own.
#[derive(Debug)]
struct Connected {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Connected {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// One answer is all that is asked for.
    fn is_open(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hidden_command_says_what_to_ask() {
        for (entrance, insecure) in [(None, false), (Some(7), true)] {
            let url = ReadyUrl {
                insecure,
                ..ReadyUrl::parse("https://localhost/health").unwrap()
            };
            let ask = Ask {
                url,
                mark: 5,
                entrance,
            };
            assert_eq!(Ask::parse(&ask.words()), Some(ask));
        }
        assert_eq!(Ask::parse(&["syngate", "ask"].map(OsString::from)), None);
    }
}
