//! A plain HTTP server whose speed is up to the test. One thread, one epoll.
//! SIGTERM ends it at once. At SIGQUIT it stops listening, answers the clients it has accepted, and ends.
//! From SIGUSR1 on, each answer is the last one of its connection, and says so.

mod daemon;
mod inherit;
mod request;

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
    unix::SourceFd,
};
use nix::{
    libc::{BPF_K, BPF_RET, EADDRINUSE, EMFILE, sock_filter, sock_fprog},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{setsockopt, sockopt::AttachReusePortCbpf},
    },
};
use socket2::{Domain, Socket, Type};

use self::request::Request;
use super::{first_if, interval, raise_file_limit, say};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
const ONE_OF_MANY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
/// As much of it as `--cut` sends.
const CUT: usize = ANSWER.len() - 2;
const GREETING: &[u8] = b"S";
/// Of what waits for SIGQUIT and SIGUSR1.
const SIGNALS: Token = Token(usize::MAX);

#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on, as ADDRESS:PORT; repeatable
    #[arg(long, required_unless_present = "inherit")]
    listen: Vec<SocketAddr>,
    /// Listen on the sockets that LISTEN_FDS tells of, see sd_listen_fds(3)
    #[arg(long, conflicts_with_all = ["listen", "daemon"])]
    inherit: bool,
    /// Length of the accept queue
    #[arg(long, default_value_t = 4096)]
    backlog: i32,
    /// Accept at most so many connections a second
    #[arg(long)]
    accept_rate: Option<u32>,
    /// Add a line for each connection to this file when it is accepted: ADDRESS:PORT of its client
    #[arg(long)]
    log_accepts: Option<PathBuf>,
    /// Answer so long after the request
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s")]
    delay: Duration,
    /// Listen so long after the start
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s")]
    start_delay: Duration,
    /// Send a byte to each connection when it is accepted
    #[arg(long)]
    greeting: bool,
    /// Set SO_REUSEPORT
    #[arg(long)]
    reuseport: bool,
    /// Take clients of IPv4 at [::], too
    #[arg(long)]
    both_versions: bool,
    /// Give the listeners a program that chooses among those with SO_REUSEPORT
    #[arg(long, requires = "reuseport")]
    own_program: bool,
    /// Send back what comes, instead of HTTP
    #[arg(long, conflicts_with = "delay")]
    echo: bool,
    /// Answer more than one request on a connection, for clients of HTTP/1.1 that don't ask to close
    #[arg(long, conflicts_with_all = ["cut", "echo"])]
    keep_alive: bool,
    /// Break off in the middle of each answer
    #[arg(long)]
    cut: bool,
    /// Go to the background once it listens
    #[arg(long)]
    daemon: bool,
    /// Write our pid there
    #[arg(long)]
    pidfile: Option<PathBuf>,
}

/// Serves until a signal ends it; prints `listening`.
pub fn run(args: &Args) -> Result<()> {
    if args.daemon && !daemon::is_background() {
        return daemon::start();
    }
    raise_file_limit()?;
    thread::sleep(args.start_delay);
    let listeners = if args.inherit {
        inherit::listeners()?
    } else {
        listeners(args)?
    };
    let mut server = Server::new(args, listeners)?;
    if let Some(path) = &args.pidfile {
        // A process that waits for the file reads it at once.
        let part = path.with_extension("part");
        let pid = format!("{}\n", std::process::id());
        std::fs::write(&part, pid).with_context(|| part.display().to_string())?;
        std::fs::rename(&part, path).with_context(|| path.display().to_string())?;
    }
    say("listening")?;
    if args.daemon {
        daemon::detach()?;
    }
    server.run()
}

struct Server<'a> {
    args: &'a Args,
    poll: Poll,
    signals: SignalFd,
    listeners: Vec<TcpListener>,
    /// Some listener may have more to accept.
    pending: bool,
    /// There are no more files for that until a client leaves.
    full: bool,
    /// When the next connection may be accepted, if there is a rate.
    pace: Option<(Instant, Duration)>,
    accepts: Option<File>,
    /// It says goodbye to clients.
    leaves: bool,
    open: HashMap<usize, Client>,
    next_id: usize,
    /// When the requests that have come are to be answered; in order.
    answers: VecDeque<(Instant, usize)>,
}

struct Client {
    stream: TcpStream,
    request: Request,
    asked: bool,
}

impl<'a> Server<'a> {
    fn new(args: &'a Args, mut listeners: Vec<TcpListener>) -> Result<Self> {
        let poll = Poll::new()?;
        for (id, listener) in listeners.iter_mut().enumerate() {
            poll.registry()
                .register(listener, Token(id), Interest::READABLE)?;
        }
        let signals = signals()?;
        let source = signals.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&source), SIGNALS, Interest::READABLE)?;
        let rate = args.accept_rate.map(interval).transpose()?;
        Ok(Self {
            args,
            poll,
            signals,
            next_id: listeners.len(),
            listeners,
            pending: false,
            full: false,
            pace: rate.map(|interval| (Instant::now(), interval)),
            accepts: args.log_accepts.as_deref().map(log).transpose()?,
            leaves: false,
            open: HashMap::new(),
            answers: VecDeque::new(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, self.time_left()) {
                Err(error) if error.kind() != ErrorKind::Interrupted => Err(error)?,
                _ => {}
            }
            for event in &events {
                let Token(id) = event.token();
                if event.token() == SIGNALS {
                    self.signalled()?;
                } else if id < self.listeners.len() {
                    self.pending = true;
                } else {
                    self.read(id);
                }
            }
            self.accept()?;
            self.answer_due();
            if self.listeners.is_empty() && self.open.is_empty() {
                return Ok(());
            }
        }
    }

    fn signalled(&mut self) -> Result<()> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGUSR1 as u32 {
                self.leaves = true;
            } else {
                self.listeners.clear();
                self.pending = false;
            }
        }
        Ok(())
    }

    /// How long there is nothing to do unless an event comes.
    fn time_left(&self) -> Option<Duration> {
        let next_accept = || self.pace.map_or_else(Instant::now, |(next, _)| next);
        let accept = (self.pending && !self.full).then(next_accept);
        let answer = self.answers.front().map(|(due, _)| *due);
        let next = accept.into_iter().chain(answer).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Accepts what it may.
    fn accept(&mut self) -> Result<()> {
        let mut next_listener = 0;
        while self.pending && !self.full && self.may_accept() {
            match self.listeners[next_listener].accept() {
                Ok((stream, client)) => {
                    self.spend();
                    self.log(client)?;
                    self.welcome(stream)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    next_listener += 1;
                    self.pending = next_listener < self.listeners.len();
                }
                Err(error) if error.raw_os_error() == Some(EMFILE) => self.full = true,
                // That client has given up already.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => Err(error).context("accept")?,
            }
        }
        Ok(())
    }

    fn may_accept(&self) -> bool {
        self.pace.is_none_or(|(next, _)| next <= Instant::now())
    }

    fn spend(&mut self) {
        if let Some((next, interval)) = &mut self.pace {
            // Time without clients isn't saved up.
            *next = (*next).max(Instant::now() - *interval) + *interval;
        }
    }

    /// One write, so that there are never halves of lines in the file.
    fn log(&mut self, client: SocketAddr) -> Result<()> {
        let Some(file) = &mut self.accepts else {
            return Ok(());
        };
        let line = format!("{client}\n");
        file.write_all(line.as_bytes()).context("log of accepts")
    }

    fn welcome(&mut self, mut stream: TcpStream) -> Result<()> {
        if self.args.greeting && stream.write_all(GREETING).is_err() {
            return Ok(());
        }
        let id = self.next_id;
        self.next_id += 1;
        self.poll
            .registry()
            .register(&mut stream, Token(id), Interest::READABLE)?;
        let client = Client {
            stream,
            request: Request::default(),
            asked: false,
        };
        self.open.insert(id, client);
        // What has come already may be answered right now.
        self.read(id);
        Ok(())
    }

    fn read(&mut self, id: usize) {
        let Some(client) = self.open.get_mut(&id) else {
            return;
        };
        let more = if self.args.echo {
            client.echo()
        } else {
            client.read_request()
        };
        match more {
            Ok(true) if !client.asked => {
                client.asked = true;
                let due = Instant::now() + self.args.delay;
                self.answers.push_back((due, id));
            }
            Ok(_) => {}
            Err(_) => drop(self.take(id)),
        }
    }

    /// The client is about to leave.
    fn take(&mut self, id: usize) -> Option<Client> {
        self.full = false;
        self.open.remove(&id)
    }

    fn answer_due(&mut self) {
        let now = Instant::now();
        while let Some((_, id)) = first_if(&mut self.answers, |(due, _)| *due <= now) {
            let keep_alive = self.args.keep_alive && !self.leaves;
            let stays = |client: &mut Client| keep_alive && client.request.keeps_alive();
            if self.open.get_mut(&id).is_some_and(stays) {
                self.answer_and_stay(id);
            } else if let Some(mut client) = self.take(id) {
                let answer = if self.args.cut {
                    &ANSWER[..CUT]
                } else {
                    ANSWER
                };
                // A client that is gone has nothing to complain about.
                let _ = client.stream.write_all(answer);
            }
        }
    }

    fn answer_and_stay(&mut self, id: usize) {
        let Some(client) = self.open.get_mut(&id) else {
            return;
        };
        if client.stream.write_all(ONE_OF_MANY).is_err() {
            drop(self.take(id));
            return;
        }
        client.asked = false;
        client.request.answered();
        // The next may have come meanwhile.
        self.read(id);
    }
}

impl Client {
    /// Whether the whole request has come; an error when the client is gone.
    fn read_request(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.request.push(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.request.is_whole())
    }

    /// Never asks for an answer; an error when the client is gone.
    fn echo(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.stream.write_all(&buffer[..n])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// They come by this descriptor, and no other way.
fn signals() -> Result<SignalFd> {
    let both = SigSet::from_iter([Signal::SIGQUIT, Signal::SIGUSR1]);
    both.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&both, flags)?)
}

/// A file to which whole lines are added, beside what earlier servers have written.
fn log(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| path.display().to_string())
}

fn listeners(args: &Args) -> Result<Vec<TcpListener>> {
    let all = args.listen.iter();
    all.map(|address| listen(*address, args).with_context(|| address.to_string()))
        .collect()
}

fn listen(address: SocketAddr, args: &Args) -> Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(args.reuseport)?;
    if address.is_ipv6() {
        socket.set_only_v6(!args.both_versions)?;
    }
    bind(&socket, address)?;
    socket.listen(args.backlog)?;
    if args.own_program {
        choose_the_first(&socket)?;
    }
    Ok(TcpListener::from_std(socket.into()))
}

/// `return 0`, in classic BPF: the first listener of the group.
fn choose_the_first(socket: &Socket) -> Result<()> {
    let mut program = [sock_filter {
        code: (BPF_RET | BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    Ok(setsockopt(socket, AttachReusePortCbpf, &program)?)
}

/// Binds, and gives a server that has just been killed a moment to be gone.
fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match socket.bind(&address.into()) {
            Err(error) if error.raw_os_error() == Some(EADDRINUSE) && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}
