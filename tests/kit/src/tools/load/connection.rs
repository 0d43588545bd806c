use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{Interest, Poll, Token, event::Event, net::TcpStream};
use nix::{
    libc::EINPROGRESS,
    sys::socket::{setsockopt, sockopt::IpBindAddressNoPort},
};
use socket2::{Domain, Socket, Type};
use testkit::Fate;

use super::{
    answer::{Answer, Verdict},
    ask::Ask,
};
use crate::tools::ms;

const ONE_OF_MANY: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";

/// One client: connects, asks, reads the answer; asks again, if the connection is kept alive.
pub struct Connection {
    stream: TcpStream,
    /// When its request ought to begin. All times count from here.
    pub due: Instant,
    /// When it began to connect.
    begun: Instant,
    /// How long it took to connect, once it has for this request.
    pub connected: Option<Duration>,
    manner: Manner,
    stage: Stage,
    answer: Answer,
}

/// How to talk to the server.
#[derive(Clone, Copy)]
pub struct Manner {
    /// What it asks.
    pub ask: Ask,
    /// It has to say something first.
    pub greeting: bool,
    /// The connection is for more than one request.
    pub keep_alive: bool,
    /// Its requests may not be sent twice.
    pub post: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Connecting,
    Greeting,
    Asked,
    Idle,
}

/// What an event has led to.
pub enum Progress {
    Waiting,
    Answered,
    Failed(Fate, String),
}

impl Connection {
    /// Begins to connect; events will come under the token.
    pub fn open(
        poll: &Poll,
        token: Token,
        to: SocketAddr,
        source: Option<IpAddr>,
        manner: Manner,
        due: Instant,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
        if let Some(source) = source {
            // The port is chosen at connect(), where it may serve other
            // destinations or sources as well.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, token, both)?;
        Ok(Self {
            stream,
            due,
            begun: Instant::now(),
            connected: None,
            manner,
            stage: Stage::Connecting,
            answer: Answer::default(),
        })
    }

    /// How far it has come, in words.
    pub fn came(&self) -> String {
        let bytes = self.answer.len();
        format!("{}, {bytes} bytes; {}", self.stage(), self.course())
    }

    fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Connecting => "connecting",
            Stage::Greeting => "waiting for the greeting",
            Stage::Asked => "waiting for the answer",
            Stage::Idle => "idle",
        }
    }

    /// Whether it can be asked again.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Whether it was asked again, and not a byte of that answer has come: the server may have closed it
    /// while it was idle. A client that keeps connections then sends the request on another one, unless that
    /// could do harm (RFC 9110, 9.2.2).
    pub fn was_stale(&self) -> bool {
        let unanswered = self.stage == Stage::Asked && self.answer.len() == 0;
        unanswered && self.connected.is_none() && !self.manner.post
    }

    /// Asks once more. It can have broken while it was idle: then this fails with [`Fate::Reset`].
    pub fn again(&mut self, due: Instant) -> Progress {
        (self.due, self.connected) = (due, None);
        match self.answer.len() {
            0 => self.ask(),
            n => Progress::Failed(Fate::Other, format!("{n} bytes came unasked")),
        }
    }

    /// Goes on as far as it can. Events are edges: all that can be done now
    /// has to be done now.
    pub fn advance(&mut self, event: &Event) -> Progress {
        if self.stage == Stage::Connecting {
            match self.connect(event) {
                Ok(true) if self.manner.greeting => self.stage = Stage::Greeting,
                Ok(true) => return self.ask(),
                Ok(false) => return Progress::Waiting,
                Err(error) => return self.failure(&error),
            }
        }
        if self.stage == Stage::Greeting {
            return self.be_greeted();
        }
        self.read_answer()
    }

    /// Whether the connection stands.
    fn connect(&mut self, event: &Event) -> io::Result<bool> {
        if event.is_error() || event.is_read_closed() {
            // Refused, or closed already while it waited to be accepted.
            let error = self.stream.take_error()?;
            return Err(error.unwrap_or_else(|| ErrorKind::UnexpectedEof.into()));
        }
        if !event.is_writable() {
            return Ok(false);
        }
        self.connected = Some(self.due.elapsed());
        Ok(true)
    }

    fn be_greeted(&mut self) -> Progress {
        match self.stream.read(&mut [0]) {
            Ok(0) => self.failure(&ErrorKind::UnexpectedEof.into()),
            Ok(_) => self.ask(),
            Err(error) => self.failure(&error),
        }
    }

    fn ask(&mut self) -> Progress {
        // So short a request goes into the empty buffer as a whole.
        let Manner {
            ask,
            keep_alive,
            post,
            ..
        } = self.manner;
        let request = match keep_alive {
            true if post => POST,
            true => ONE_OF_MANY,
            false => ask.request(),
        };
        match self.stream.write_all(request) {
            Ok(()) => {
                self.stage = Stage::Asked;
                Progress::Waiting
            }
            Err(error) => self.failure(&error),
        }
    }

    fn read_answer(&mut self) -> Progress {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return self.judge(true, &ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.answer.push(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.pause(&error),
                Err(error) => return self.judge(false, &error),
            }
        }
    }

    /// Nothing more has come yet. Only who keeps the connection needn't wait for its end.
    fn pause(&mut self, end: &io::Error) -> Progress {
        if !self.manner.keep_alive || self.stage != Stage::Asked {
            return Progress::Waiting;
        }
        let progress = self.judge(false, end);
        if matches!(progress, Progress::Answered) && self.answer.keeps_alive() {
            self.stage = Stage::Idle;
            self.answer = Answer::default();
        }
        progress
    }

    /// Nothing more will come: was that an answer?
    fn judge(&self, closed: bool, end: &io::Error) -> Progress {
        match self.manner.ask.verdict(&self.answer, closed) {
            _ if self.is_idle() => self.failure(end),
            Verdict::Good => Progress::Answered,
            Verdict::Bad(why) => Progress::Failed(Fate::Other, why),
            Verdict::Short => self.failure(end),
        }
    }

    fn failure(&self, error: &io::Error) -> Progress {
        let broken = match (error.kind(), self.stage) {
            (ErrorKind::WouldBlock, _) => return Progress::Waiting,
            (ErrorKind::ConnectionRefused, Stage::Connecting) => Fate::Refused,
            (
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof,
                stage,
            ) => match stage {
                Stage::Asked => Fate::Cut,
                _ => Fate::Reset,
            },
            // The kernel's own verdict after many retransmissions.
            (ErrorKind::TimedOut, _) => Fate::TimedOut,
            _ => Fate::Other,
        };
        Progress::Failed(broken, format!("{error}, {}", self.came()))
    }

    /// From where it came and when: a failure can be looked up in a capture.
    fn course(&self) -> String {
        let from = self.stream.local_addr().map(|from| from.to_string());
        let begun = ms(self.begun.saturating_duration_since(self.due));
        let connected = self.connected.map(ms);
        let connected = connected.map_or("never".to_owned(), |ms| format!("after {ms} ms"));
        format!(
            "from {}, begun after {begun} ms, connected {connected}",
            from.unwrap_or_default()
        )
    }
}
