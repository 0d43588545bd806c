//! What people see on stderr: whole lines that begin with the program's name. On a terminal, a live line
//! shows what a run waits for; it disappears with the wait. stdout belongs to COMMAND. A stderr that
//! can't be written is not an error.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write, stderr};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use clap::builder::StyledStr;
use nix::libc::{O_NOCTTY, O_NONBLOCK, PIPE_BUF};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::tell::colour::{self, PLAIN, RED, YELLOW};
use crate::tell::{journal, remote};
use crate::words::exit::Exit;
use crate::words::plain::plain;

/// Shorter waits show no live line.
const LIVE_AFTER: Duration = Duration::from_millis(300);
const LIVE_EVERY: Duration = Duration::from_millis(100);

/// In characters. Longer lines are cut: they may contain a command line of any length.
const LONGEST_LINE: usize = 1_000;

/// How much a run tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// `-q`.
    Errors,
    /// The result, and warnings.
    Normal,
    /// `-v`.
    Phases,
}

#[derive(Debug, Clone, Copy)]
enum Severity {
    Error,
    Warning,
    Result,
    Phase,
}

pub(crate) struct Say {
    level: Level,
    started: Instant,
    live: bool,
    colours: bool,
    to_journal: bool,
    /// When the live line is to be written again.
    live_due: Cell<Option<Instant>>,
    /// The live line is on the screen, and must be wiped before another line.
    shown: Cell<bool>,
    in_haste: Cell<bool>,
    /// The terminal once more, for writes that must not block.
    terminal: Option<File>,
    /// poll(2) does not tell whether a write to stderr would block.
    may_hang: bool,
    /// Lines that stderr has not taken yet.
    kept: RefCell<Vec<u8>>,
}

impl Say {
    /// The times of phases count from `started`.
    pub(crate) fn new(level: Level, started: Instant) -> Say {
        Say {
            level,
            started,
            live: level > Level::Errors && stderr().is_terminal(),
            colours: colour::may_have(&stderr()),
            to_journal: journal::is(&stderr()),
            live_due: Cell::new(None),
            shown: Cell::new(false),
            in_haste: Cell::new(false),
            terminal: opened_again(),
            may_hang: remote::is_file(&stderr()),
            kept: RefCell::default(),
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.level == Level::Errors
    }

    pub(crate) fn error(&self, text: &str) {
        self.line(Severity::Error, text);
    }

    pub(crate) fn warning(&self, text: &str) {
        if self.level > Level::Errors {
            self.line(Severity::Warning, text);
        }
    }

    /// A warning that somebody has to look at: it is shown with `-q`, too.
    pub(crate) fn urgent_warning(&self, text: &str) {
        self.line(Severity::Warning, text);
    }

    pub(crate) fn result(&self, text: &str) {
        if self.level > Level::Errors {
            self.line(Severity::Result, text);
        }
    }

    pub(crate) fn phase(&self, text: &str) {
        if self.level == Level::Phases {
            let at = self.started.elapsed().as_secs_f64();
            self.line(Severity::Phase, &format!("+{at:.4}s {text}"));
        }
    }

    /// What another program has printed.
    pub(crate) fn printed(&self, text: &str) {
        if !text.is_empty() {
            self.wipe();
            let end = if text.ends_with('\n') { "" } else { "\n" };
            self.write(&format!("{text}{end}"));
        }
    }

    /// When [`Say::waiting`] has to be called again during a wait, if at all.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.live_due.get()
    }

    /// Shows the live line, or writes it again, once the wait is long enough.
    pub(crate) fn waiting(&self, for_what: &str) {
        if !self.live {
            return;
        }
        let now = Instant::now();
        match self.live_due.get() {
            None => self.live_due.set(Some(now + LIVE_AFTER)),
            Some(due) if now >= due => {
                let at = self.started.elapsed().as_secs_f64();
                self.write(&format!("\r\x1b[Ksyngate: {for_what} ({at:.1} s)"));
                self.shown.set(true);
                self.live_due.set(Some(now + LIVE_EVERY));
            }
            Some(_) => (),
        }
    }

    pub(crate) fn done_waiting(&self) {
        self.live_due.set(None);
        self.wipe();
    }

    fn wipe(&self) {
        if self.shown.replace(false) {
            self.write("\r\x1b[K");
        }
    }

    /// For the time in which the gate is closed. A full pipe, a terminal that was stopped with Ctrl-S, or a file
    /// server that is gone must not delay the run. Lines that stderr does not take at once are kept.
    pub(crate) fn must_not_block(&self) {
        self.in_haste.set(true);
    }

    /// Writes the lines that were kept. From now on it waits for a reader, unless a signal has asked the process to end:
    /// then what stderr does not take at once is lost.
    pub(crate) fn may_block(&self, asked_to_end: bool) {
        self.in_haste.set(asked_to_end && !self.may_hang);
        self.write("");
    }

    fn line(&self, severity: Severity, text: &str) {
        self.wipe();
        let priority = if self.to_journal {
            priority(severity)
        } else {
            ""
        };
        let head = head(severity, self.colours);
        self.write(&format!("{priority}{head} {}\n", one_line(&plain(text))));
    }

    /// Uses one write(2) for each line, so that lines of several processes do not mix.
    fn write(&self, text: &str) {
        let mut kept = self.kept.borrow_mut();
        kept.extend_from_slice(text.as_bytes());
        if self.in_haste.get() {
            self.write_what_fits(&mut kept);
        } else {
            let _ = stderr().write_all(&kept);
            kept.clear();
        }
    }

    fn write_what_fits(&self, kept: &mut Vec<u8>) {
        while !kept.is_empty() && !self.may_hang && takes_a_piece() {
            let piece = &kept[..whole_lines(kept)];
            let written = match self.terminal.as_ref() {
                Some(mut terminal) => terminal.write(piece),
                None => stderr().write(piece),
            };
            match written {
                Ok(written) => drop(kept.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => kept.clear(),
            }
        }
    }
}

/// poll(2) says that a terminal takes something when it takes a single byte. So writes go to a file
/// description of its own, which does not block: others share that of stderr, and it stays as it is.
/// `None`: stderr is no terminal, or is that of another user.
fn opened_again() -> Option<File> {
    let mut options = File::options();
    options.write(true).custom_flags(O_NONBLOCK | O_NOCTTY);
    let is_terminal = stderr().is_terminal();
    is_terminal.then(|| options.open("/proc/self/fd/2").ok())?
}

/// How many bytes of `kept` may be written at once: as many lines as fit into PIPE_BUF bytes. No line is
/// longer.
fn whole_lines(kept: &[u8]) -> usize {
    let fits = &kept[..kept.len().min(PIPE_BUF)];
    let end = fits.iter().rposition(|byte| *byte == b'\n');
    end.map_or(fits.len(), |at| at + 1)
}

fn priority(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => journal::ERROR,
        Severity::Warning => journal::WARNING,
        Severity::Result => journal::NOTICE,
        Severity::Phase => journal::INFO,
    }
}

fn head(severity: Severity, colours: bool) -> String {
    match (severity, colours) {
        (Severity::Error, true) => format!("{RED}syngate:{PLAIN}"),
        (Severity::Warning, true) => format!("syngate: {YELLOW}warning:{PLAIN}"),
        (Severity::Warning, false) => "syngate: warning:".to_owned(),
        _ => "syngate:".to_owned(),
    }
}

/// Whether stderr takes PIPE_BUF bytes without blocking: poll(2) says that of a pipe (pipe(7)).
fn takes_a_piece() -> bool {
    let stderr = stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Control characters become `?`, since they could steer a terminal.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(LONGEST_LINE)
        .collect();
    if line.len() < text.len() && text.chars().count() > LONGEST_LINE {
        line.push('…');
    }
    line
}

/// Help and version, with colours where stdout may have them.
pub(crate) fn styled(text: &StyledStr) -> String {
    match colour::may_have(&std::io::stdout()) {
        true => text.ansi().to_string(),
        false => text.to_string(),
    }
}

impl Say {
    /// Writes what the user has asked for (help, a status, a dry run's plan) to stdout, and returns
    /// `exit`. If stdout does not take it, as on a full disk, says so and returns `unwritten`.
    pub(crate) fn print(&self, text: &str, exit: Exit, unwritten: u8) -> Exit {
        let mut stdout = std::io::stdout();
        let written = stdout.write_all(text.as_bytes());
        match written.and_then(|()| stdout.flush()) {
            Ok(()) => exit,
            Err(error) => {
                self.error(&format!("stdout can't be written: {error}"));
                Exit::Status(unwritten)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_is_longer_than_a_pipe_takes_at_once() {
        let line = one_line(&"😀".repeat(2 * LONGEST_LINE)) + "\n";
        assert!(head(Severity::Warning, true).len() + line.len() < PIPE_BUF);
        assert_eq!(whole_lines(line.repeat(3).as_bytes()), line.len());
        assert_eq!(whole_lines(b"one\ntwo\nthree"), "one\ntwo\n".len());
        assert_eq!(whole_lines(b"\r\x1b[K"), 4);
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line("--port: '80\n81\x1b[2J'"), "--port: '80?81?[2J'");
        let endless = one_line(&"ä".repeat(2 * LONGEST_LINE));
        assert_eq!(endless.chars().count(), LONGEST_LINE + 1);
        assert!(endless.ends_with('…'));
    }
}
