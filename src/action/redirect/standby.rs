//! A standby: another instance of the service that is there for the duration of a run, and must
//! never outlive it.
//!
//! Its guard (`guard.rs`) starts it, and stops it when the line to the run ends: however the run
//! has come to its end, the kernel closes the line. The guard is a subreaper (prctl(2)): a daemon
//! whose parent has gone becomes its child, so that all that the command line has started stays
//! below it in the tree of processes, and is waited for. What others start on its behalf
//! (`systemctl start`, a container's daemon) is not in that tree: neither seen nor stopped.
//!
//! Should the guard itself be killed, the run stops what is left of its session; a daemon has left
//! that. Who kills both leaves the standby behind.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, getpid};

use crate::process::child::{Child, ProcessGroup, exit};
use crate::process::environment::as_exec_takes;
use crate::process::guard::{self, GuardProcess};
use crate::words::ended::CommandExit;

/// The hidden command that is the guard of a standby.
pub const COMMAND: &str = "standby-guard";
const NAME: &str = "gate-standby";
const NAME_FOR_KERNEL: &CStr = c"gate-standby";

/// When the run has died, its watchdog takes this long, and mostly less, to open the gate: until then
/// new connections still come to the standby, which is stopped so much later.
pub const DESERTED: Duration = Duration::from_secs(1);
/// What does not end when it is killed (it waits in the kernel, or is not ours to kill) is killed
/// again this often, and for so long; then it is left.
pub const KILL_EVERY: Duration = Duration::from_millis(50);
/// See [`KILL_EVERY`].
pub const KILL_FOR: Duration = Duration::from_secs(5);

/// How a standby has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// SIGKILL was needed.
    pub killed: bool,
    /// Some of it may still be there: it could not be killed, or its guard was.
    pub left: bool,
}

/// The run's side. If it is dropped without [`Standby::keep`], the guard stops the standby, and
/// nobody waits for that.
#[derive(Debug)]
pub struct Standby {
    guard: GuardProcess,
    line: Line,
    pid: i32,
    ended: Option<CommandExit>,
    stop: Option<Stop>,
    unguarded: bool,
    kept: bool,
}

impl Standby {
    /// Starts a command line of the user's by `sh -c` under a guard, in this environment, with the
    /// signal mask that we were started with. It reads nothing and prints to stderr. `grace` is the
    /// time between SIGTERM and SIGKILL, should it have to be stopped; in whole milliseconds.
    ///
    /// # Errors
    /// It, or its guard, can't be started; then nothing is left of it.
    pub fn start(
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
        grace: Duration,
    ) -> Result<Standby> {
        let program = Path::new(guard::OURSELVES);
        Standby::start_by(program, line, environment, mask, grace)
    }

    /// The same, with the guard's program: for tests, which are not syngate.
    ///
    /// # Errors
    /// As for [`Standby::start`].
    pub fn start_by(
        program: &Path,
        line: &OsStr,
        environment: &[CString],
        mask: &SigSet,
        grace: Duration,
    ) -> Result<Standby> {
        let ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let ms = ms.to_string();
        let call = guard::Call {
            program,
            name: NAME,
            words: &[COMMAND.as_ref(), ms.as_ref(), line],
            environment,
            mask,
        };
        let doing = "the guard of the standby can't be started";
        let (guard, stream) = guard::start(&call).context(doing)?;
        let mut standby = Standby {
            guard,
            line: Line::from(stream),
            pid: 0,
            ended: None,
            stop: None,
            unguarded: false,
            kept: false,
        };
        standby.begin().context(doing)?;
        Ok(standby)
    }

    /// A guard that dies before it has told of the standby may have started it.
    fn begin(&mut self) -> Result<()> {
        self.pid = match self.line.news().inspect_err(|_| self.lose_guard())? {
            News::Started(pid) => pid,
            News::NotStarted(error) => bail!("sh can't be started: {}", error.desc()),
            other => bail!("it says {other:?}"),
        };
        Ok(self.line.stream.set_nonblocking(true)?)
    }

    /// The process id of its shell.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What can be read when there is news of it; `None` once there will be none.
    pub fn news(&self) -> Option<BorrowedFd<'_>> {
        self.stop.is_none().then(|| self.line.stream.as_fd())
    }

    /// How its shell has ended, if it has; does not wait. A command line that leaves daemons behind
    /// ends with status 0. Of a guard that was killed it is not known: as if SIGKILL had ended both.
    pub fn ended(&mut self) -> Option<CommandExit> {
        self.listen();
        self.ended
    }

    /// Whether all of it is gone, be it by itself or because it was stopped; does not wait.
    pub fn stopped(&mut self) -> Option<Stop> {
        self.listen();
        self.stop
    }

    /// Begins to stop it: SIGTERM to all of its processes, and after the time of grace SIGKILL. Does
    /// not wait: [`Standby::stopped`] tells.
    pub fn begin_stop(&mut self) {
        self.listen();
        self.order(Order::Stop);
        self.stop_unguarded();
    }

    /// It goes on without us, or whatever is left of it: the guard ends, which takes a moment.
    pub fn keep(mut self) {
        self.kept = true;
        self.order(Order::Keep);
    }

    /// A guard that cannot be told, whatever the reason, finds that we have hung up, and stops what it
    /// guards. If it is dead, `listen` hears of it.
    fn order(&mut self, order: Order) {
        let stream = &mut self.line.stream;
        let told = (0..2).any(|_| stream.write_all(&[order as u8]).is_ok());
        if !told {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn listen(&mut self) {
        while self.stop.is_none() {
            match self.line.news() {
                Ok(News::Ended(exit)) => self.ended = Some(exit),
                Ok(News::Gone(stop)) => self.stop = Some(stop),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.lose_guard(),
            }
        }
    }

    fn lose_guard(&mut self) {
        self.unguarded = true;
        self.ended.get_or_insert(CommandExit::Signal(libc::SIGKILL));
        self.stop = Some(Stop {
            killed: false,
            left: true,
        });
    }

    /// The guard has not been waited for, so the session is still its own.
    fn stop_unguarded(&self) {
        if !self.unguarded {
            return;
        }
        let session = self.guard.pid();
        let mut killed = BTreeSet::new();
        // Whoever was killed may have started another one just before: the next look finds that.
        let until = Instant::now() + KILL_FOR;
        while Instant::now() < until {
            let all = processes().into_iter();
            let its = all.filter(|p| p.session == session).map(|p| p.pid);
            let new: Vec<i32> = its.filter(|pid| killed.insert(*pid)).collect();
            if new.is_empty() {
                return;
            }
            signal_all(&new, Signal::SIGKILL);
        }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if !self.kept {
            self.listen();
            self.stop_unguarded();
        }
        if self.kept || self.stop.is_some() {
            self.guard.see_end();
        }
    }
}

/// What the run tells the guard: a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Stop = b's' as isize,
    Keep = b'k' as isize,
}

impl Order {
    fn decode(byte: u8) -> Option<Order> {
        [Order::Stop, Order::Keep]
            .into_iter()
            .find(|order| *order as u8 == byte)
    }
}

/// What the guard tells the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// The shell's process id.
    Started(i32),
    NotStarted(Errno),
    /// How the shell has ended.
    Ended(CommandExit),
    /// The last word.
    Gone(Stop),
}

/// A letter and a number in this machine's order of bytes.
type Message = [u8; 5];

impl News {
    fn encode(self) -> Message {
        let (letter, number) = match self {
            News::Started(pid) => (b'p', pid),
            News::NotStarted(error) => (b'e', error as i32),
            News::Ended(CommandExit::Code(code)) => (b'c', code.into()),
            News::Ended(CommandExit::Signal(signal)) => (b's', signal),
            News::Gone(stop) => (b'g', i32::from(stop.killed) | i32::from(stop.left) << 1),
        };
        let [a, b, c, d] = number.to_ne_bytes();
        [letter, a, b, c, d]
    }

    fn decode([letter, a, b, c, d]: Message) -> Option<News> {
        let number = i32::from_ne_bytes([a, b, c, d]);
        Some(match (letter, number) {
            (b'p', 1..) => News::Started(number),
            (b'e', 1..) => News::NotStarted(Errno::from_raw(number)),
            (b'c', _) => News::Ended(CommandExit::Code(number.try_into().ok()?)),
            (b's', 1..=127) => News::Ended(CommandExit::Signal(number)),
            (b'g', 0..=3) => News::Gone(Stop {
                killed: number & 1 != 0,
                left: number & 2 != 0,
            }),
            _ => return None,
        })
    }
}

/// The run's end of the line, and what has come of a message so far.
#[derive(Debug)]
struct Line {
    stream: UnixStream,
    came: Vec<u8>,
}

impl From<UnixStream> for Line {
    fn from(stream: UnixStream) -> Line {
        Line {
            stream,
            came: Vec::new(),
        }
    }
}

impl Line {
    /// The next message. Its end, and nonsense, are errors.
    fn news(&mut self) -> io::Result<News> {
        loop {
            if let Ok(message) = Message::try_from(self.came.as_slice()) {
                self.came.clear();
                return News::decode(message).ok_or(io::ErrorKind::InvalidData.into());
            }
            let mut bytes = Message::default();
            let missing = bytes.len() - self.came.len();
            match self.stream.read(&mut bytes[..missing]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.came.extend(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The guard itself, until nothing is left to guard, or it is told to leave it.
pub fn guard(line: &OsStr, grace: Duration) {
    if let Ok((run, mask)) = guard::begin(NAME_FOR_KERNEL) {
        match Guard::start(line, &mask, grace) {
            Ok(guard) => guard.serve(run),
            Err(error) => tell(&run, News::NotStarted(error)),
        }
    }
}

/// If the run is dead, that shows when it is listened to.
fn tell(mut run: &UnixStream, news: News) {
    let _ = run.write_all(&news.encode());
}

struct Guard {
    shell: Child,
    shell_ended: bool,
    /// Readable when a child has ended.
    children: SignalFd,
    grace: Duration,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Guarding,
    /// The run has died: to be stopped then.
    Deserted(Instant),
    /// All were asked to end; to be killed then. `None`: never, in the times that an [`Instant`] has.
    Asked(Option<Instant>),
    /// They are killed; to be left then.
    Killing(Instant),
}

impl Guard {
    fn start(line: &OsStr, mask: &SigSet, grace: Duration) -> Result<Guard, Errno> {
        // An ignored SIGCHLD would take the exit statuses away.
        crate::kernel::sys::set_default(Signal::SIGCHLD);
        set_child_subreaper(true)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags)?;
        // A process group of its own: `kill -9 0` is not meant for us.
        let environment = as_exec_takes(std::env::vars_os());
        let shell = Child::shell_in(ProcessGroup::Own, line, &environment, mask)?;
        guard::stay();
        Ok(Guard {
            shell,
            shell_ended: false,
            children,
            grace,
            stage: Stage::Guarding,
        })
    }

    fn serve(mut self, run: UnixStream) {
        tell(&run, News::Started(self.shell.pid()));
        let mut listening = true;
        loop {
            if !self.reap(&run) {
                return tell(&run, self.gone(false));
            }
            let now = Instant::now();
            self.advance(now);
            if matches!(self.stage, Stage::Killing(until) if now >= until) {
                return tell(&run, self.gone(true));
            }
            if self.wait(now, listening.then_some(&run)) {
                match order(&run) {
                    Some(Order::Keep) => return,
                    Some(Order::Stop) => self.ask(),
                    None => {
                        listening = false;
                        if self.stage == Stage::Guarding {
                            self.stage = Stage::Deserted(Instant::now() + DESERTED);
                        }
                    }
                }
            }
        }
    }

    /// Waits for those that have ended. Whether any is left is what the kernel says: whoever is left
    /// has an ancestor that is our child.
    fn reap(&mut self, run: &UnixStream) -> bool {
        while let Ok(Some(_)) = self.children.read_signal() {}
        loop {
            match crate::kernel::sys::any_ended() {
                Ok(Some((pid, status))) if self.is_shell(pid) => {
                    self.shell_ended = true;
                    tell(run, News::Ended(exit(status)));
                }
                Ok(Some(_)) => (),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Its pid may be another's once it has ended.
    fn is_shell(&self, pid: Pid) -> bool {
        !self.shell_ended && pid.as_raw() == self.shell.pid()
    }

    fn gone(&self, left: bool) -> News {
        let killed = matches!(self.stage, Stage::Killing(_));
        News::Gone(Stop { killed, left })
    }

    /// Kills whoever is there, if it is time; new ones may have come since the last time.
    fn advance(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Deserted(at) if now >= at) {
            self.ask();
        }
        if matches!(self.stage, Stage::Asked(Some(at)) if now >= at) {
            self.stage = Stage::Killing(now + KILL_FOR);
        }
        if let Stage::Killing(_) = self.stage {
            signal_all(&self.all(), Signal::SIGKILL);
        }
    }

    /// Asks all who are there now to end; those who come later may be part of that. One that is
    /// stopped has to go on in order to hear of it.
    fn ask(&mut self) {
        if matches!(self.stage, Stage::Guarding | Stage::Deserted(_)) {
            let all = self.all();
            signal_all(&all, Signal::SIGTERM);
            signal_all(&all, Signal::SIGCONT);
            self.stage = Stage::Asked(Instant::now().checked_add(self.grace));
        }
    }

    /// Waits for a child, the run, or the next time to do something. Whether it is the run.
    fn wait(&self, now: Instant, run: Option<&UnixStream>) -> bool {
        let timeout = match self.stage {
            Stage::Guarding | Stage::Asked(None) => None,
            Stage::Asked(Some(at)) | Stage::Deserted(at) => Some(at.saturating_duration_since(now)),
            Stage::Killing(_) => Some(KILL_EVERY),
        };
        let all = [Some(self.children.as_fd()), run.map(AsFd::as_fd)];
        let all = all.into_iter().flatten();
        let mut fds: Vec<PollFd> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = ppoll(&mut fds, timeout.map(TimeSpec::from), None);
        fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false))
    }

    /// All that the shell has started, itself included, parents first. Where /proc does not tell,
    /// the shell alone.
    fn all(&self) -> Vec<i32> {
        let mut all = below(getpid().as_raw(), &processes());
        if !self.shell_ended && !all.contains(&self.shell.pid()) {
            all.push(self.shell.pid());
        }
        all
    }
}

/// What the run wants. Its end, and nonsense, are `None`.
fn order(mut run: &UnixStream) -> Option<Order> {
    let mut byte = [0];
    run.read_exact(&mut byte).ok()?;
    Order::decode(byte[0])
}

fn signal_all(pids: &[i32], signal: Signal) {
    for pid in pids {
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OfProc {
    pid: i32,
    parent: i32,
    session: i32,
}

/// The processes that /proc shows, if it is that of our pid namespace: else its numbers mean others.
fn processes() -> Vec<OfProc> {
    let own = std::fs::read_link("/proc/self");
    if !own.is_ok_and(|own| own.as_os_str() == OsStr::new(&getpid().to_string())) {
        return Vec::new();
    }
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// `pid (comm) state ppid pgrp session …`, proc(5). comm may contain anything, parentheses too.
fn parse_stat(stat: &[u8]) -> Option<OfProc> {
    let stat = String::from_utf8_lossy(stat);
    let (pid, _) = stat.split_once(" (")?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut rest = rest.split_whitespace().skip(1);
    let parent = rest.next()?.parse().ok()?;
    Some(OfProc {
        pid: pid.parse().ok()?,
        parent,
        session: rest.nth(1)?.parse().ok()?,
    })
}

/// Who is below `root` in the tree, parents first.
fn below(root: i32, all: &[OfProc]) -> Vec<i32> {
    let mut seen = BTreeSet::from([root]);
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        // They were not looked at all at once: what is not a tree must not be gone round for ever.
        let children = all.iter().filter(|p| p.parent == parent);
        found.extend(children.map(|p| p.pid).filter(|pid| seen.insert(*pid)));
        at += 1;
    }
    found.split_off(1)
}

/// What holds for whatever comes over the line, and for any text as a process's stat.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    for message in bytes.chunks_exact(size_of::<Message>()) {
        let message = message.try_into().expect("they are so long");
        if let Some(news) = News::decode(message)
            && !matches!(news, News::NotStarted(_))
        {
            assert_eq!(news.encode(), message);
        }
    }
    for byte in bytes {
        assert!(Order::decode(*byte).is_none_or(|order| order as u8 == *byte));
    }
    let all: Vec<OfProc> = bytes
        .split(|b| *b == b'\n')
        .filter_map(parse_stat)
        .collect();
    assert!(below(1, &all).len() <= all.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STOPS: [Stop; 4] = [
        Stop {
            killed: false,
            left: false,
        },
        Stop {
            killed: true,
            left: false,
        },
        Stop {
            killed: false,
            left: true,
        },
        Stop {
            killed: true,
            left: true,
        },
    ];

    fn line() -> (UnixStream, Line) {
        let (guard, run) = UnixStream::pair().unwrap();
        run.set_nonblocking(true).unwrap();
        (guard, run.into())
    }

    #[test]
    fn news_comes_as_it_was_sent() {
        let mut all = vec![
            News::Started(1),
            News::Started(i32::MAX),
            News::NotStarted(Errno::ENOENT),
            News::Ended(CommandExit::Code(0)),
            News::Ended(CommandExit::Code(255)),
            News::Ended(CommandExit::Signal(9)),
            News::Ended(CommandExit::Signal(64)),
        ];
        all.extend(STOPS.map(News::Gone));
        for news in all {
            assert_eq!(News::decode(news.encode()), Some(news));
        }
    }

    #[test]
    fn nonsense_is_no_news() {
        let message = |letter: u8, number: i32| {
            let [a, b, c, d] = number.to_ne_bytes();
            News::decode([letter, a, b, c, d])
        };
        let wrong = [
            (0, 0),
            (b'p', 0),
            (b'p', -1),
            (b'e', 0),
            (b'e', i32::MIN),
            (b'c', -1),
            (b'c', 256),
            (b's', 0),
            (b's', 128),
            (b'g', 4),
            (b'g', -1),
            (b'x', 1),
        ];
        for (letter, number) in wrong {
            assert_eq!(message(letter, number), None, "{} {number}", letter as char);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_news_is_said_in_one_way(message: Message) {
            withstand(&message);
        }
    }

    #[test]
    fn orders_are_two_bytes_of_256() {
        for order in [Order::Stop, Order::Keep] {
            assert_eq!(Order::decode(order as u8), Some(order));
        }
        let orders = (0..=u8::MAX).filter_map(Order::decode);
        assert_eq!(orders.count(), 2);
    }

    #[test]
    fn news_may_come_in_pieces_and_several_at_once() {
        let (mut guard, mut run) = line();
        let would_block =
            |run: &mut Line| run.news().unwrap_err().kind() == io::ErrorKind::WouldBlock;
        assert!(would_block(&mut run));
        let first = News::Ended(CommandExit::Code(3));
        let last = News::Gone(STOPS[1]);
        guard.write_all(&first.encode()[..2]).unwrap();
        assert!(would_block(&mut run));
        guard.write_all(&first.encode()[2..]).unwrap();
        guard.write_all(&last.encode()).unwrap();
        drop(guard);
        assert_eq!(run.news().unwrap(), first);
        assert_eq!(run.news().unwrap(), last);
        assert_eq!(run.news().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nonsense_and_the_end_amid_a_message_are_errors() {
        let (mut guard, mut run) = line();
        guard.write_all(b"xxxxxp").unwrap();
        drop(guard);
        assert_eq!(run.news().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(run.news().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_end_of_the_run_and_nonsense_are_no_orders() {
        let (guard, mut run) = UnixStream::pair().unwrap();
        run.write_all(b"ks?").unwrap();
        drop(run);
        let all = [(); 4].map(|()| order(&guard));
        assert_eq!(all, [Some(Order::Keep), Some(Order::Stop), None, None]);
    }

    #[test]
    fn a_name_may_look_like_the_fields_after_it() {
        let stat = b"42 (a) R 1 (\xff) S 7 8 9 0 -1 4194560";
        let expected = OfProc {
            pid: 42,
            parent: 7,
            session: 9,
        };
        assert_eq!(parse_stat(stat), Some(expected));
        for short in [
            "",
            "42",
            "42 (a)",
            "42 (a) S",
            "42 (a) S 7",
            "42 (a) S 7 8",
            "x (a) S 7 8 9",
        ] {
            assert_eq!(parse_stat(short.as_bytes()), None, "{short}");
        }
    }

    #[test]
    fn we_are_among_the_processes() {
        let own = getpid().as_raw();
        let parent = nix::unistd::getppid().as_raw();
        assert!(
            processes()
                .iter()
                .any(|p| p.pid == own && p.parent == parent)
        );
    }

    #[test]
    fn who_is_below_is_found_parents_first_and_once() {
        let of = |(pid, parent)| OfProc {
            pid,
            parent,
            session: 1,
        };
        let tree = [
            (9, 3),
            (1, 0),
            (3, 2),
            (2, 1),
            (5, 1),
            (4, 2),
            (7, 6),
            (6, 0),
        ]
        .map(of);
        assert_eq!(below(2, &tree), [3, 4, 9]);
        assert!(below(9, &tree).is_empty());
        assert!(below(8, &tree).is_empty());
        let ring = [(2, 1), (3, 2), (2, 3), (1, 3)].map(of);
        assert_eq!(below(1, &ring), [2, 3]);
    }
}
