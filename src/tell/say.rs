//! What people see on stderr: whole lines, prefixed with our name; on a terminal, while we wait, a
//! live line that is gone when the wait is over. stdout belongs to COMMAND. That stderr can't be
//! written is never an error.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write, stderr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::builder::StyledStr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::tell::colour::{self, PLAIN, RED, YELLOW};
use crate::tell::journal;

/// A wait shows a live line when it has taken this long.
const LIVE_AFTER: Duration = Duration::from_millis(300);
/// How often the live line is written again.
const LIVE_EVERY: Duration = Duration::from_millis(100);

/// Lines are cut at this many characters: command lines can be endless.
const LONGEST_LINE: usize = 1_000;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `-q`.
    Errors,
    /// One line, and one for each thing that is not as it should be.
    Normal,
    /// `-v`.
    Phases,
}

/// What kind of thing a line tells.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Error,
    Warning,
    Result,
    Phase,
}

/// Tells people.
pub struct Say {
    level: Level,
    started: Instant,
    live: bool,
    colours: bool,
    to_journal: bool,
    /// When the live line is due again; while one is shown it has to be wiped before other lines.
    live_due: Cell<Option<Instant>>,
    shown: Cell<bool>,
    in_haste: Cell<bool>,
    /// What stderr did not take.
    kept: RefCell<String>,
}

impl Say {
    /// `started`: what the phases' times count from.
    pub fn new(level: Level, started: Instant) -> Say {
        Say {
            level,
            started,
            live: level > Level::Errors && stderr().is_terminal(),
            colours: colour::may_have(&stderr()),
            to_journal: journal::is(&stderr()),
            live_due: Cell::new(None),
            shown: Cell::new(false),
            in_haste: Cell::new(false),
            kept: RefCell::default(),
        }
    }

    /// What went wrong.
    pub fn error(&self, text: &str) {
        self.line(Kind::Error, text);
    }

    /// What is not as it should be.
    pub fn warning(&self, text: &str) {
        if self.level > Level::Errors {
            self.line(Kind::Warning, text);
        }
    }

    /// How the run went.
    pub fn result(&self, text: &str) {
        if self.level > Level::Errors {
            self.line(Kind::Result, text);
        }
    }

    /// What is done now.
    pub fn phase(&self, text: &str) {
        if self.level == Level::Phases {
            let at = self.started.elapsed().as_secs_f64();
            self.line(Kind::Phase, &format!("+{at:.4}s {text}"));
        }
    }

    /// When [`Say::waiting`] wants to be called during a wait, if at all.
    pub fn due(&self) -> Option<Instant> {
        self.live_due.get()
    }

    /// Shows, or refreshes, the live line, once the wait is long enough.
    pub fn waiting(&self, for_what: &str) {
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

    /// The wait is over.
    pub fn done_waiting(&self) {
        self.live_due.set(None);
        self.wipe();
    }

    fn wipe(&self) {
        if self.shown.replace(false) {
            self.write("\r\x1b[K");
        }
    }

    /// From now on, while a gate is closed, nothing that is said may hold us up, least of all a full
    /// pipe or a terminal stopped with Ctrl-S: what stderr does not take is kept.
    pub fn must_not_block(&self) {
        self.in_haste.set(true);
    }

    /// There is time again.
    pub fn may_block(&self) {
        self.in_haste.set(false);
    }

    fn line(&self, kind: Kind, text: &str) {
        self.wipe();
        let priority = if self.to_journal { priority(kind) } else { "" };
        let head = head(kind, self.colours);
        self.write(&format!("{priority}{head} {}\n", one_line(text)));
    }

    /// In one write(2), so that lines of several processes do not mix.
    fn write(&self, text: &str) {
        let mut kept = self.kept.borrow_mut();
        kept.push_str(text);
        if !self.in_haste.get() || takes_a_line() {
            let _ = stderr().write_all(kept.as_bytes());
            kept.clear();
        }
    }
}

fn priority(kind: Kind) -> &'static str {
    match kind {
        Kind::Error => journal::ERROR,
        Kind::Warning => journal::WARNING,
        Kind::Result => journal::NOTICE,
        Kind::Phase => journal::INFO,
    }
}

/// What a line begins with.
fn head(kind: Kind, colours: bool) -> String {
    match (kind, colours) {
        (Kind::Error, true) => format!("{RED}syngate:{PLAIN}"),
        (Kind::Warning, true) => format!("syngate: {YELLOW}warning:{PLAIN}"),
        (Kind::Warning, false) => "syngate: warning:".to_owned(),
        _ => "syngate:".to_owned(),
    }
}

/// Whether stderr takes a line without blocking: poll(2) says so of a pipe when there is room for
/// PIPE_BUF bytes (pipe(7)), which is more than any line.
fn takes_a_line() -> bool {
    let stderr = stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// One line, without anything that could steer a terminal, and not endless.
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

/// Writes help to stdout, in colours where it may have them.
pub fn print_styled(text: &StyledStr) {
    match colour::may_have(&std::io::stdout()) {
        true => print(&text.ansi().to_string()),
        false => print(&text.to_string()),
    }
}

/// Writes to stdout what was asked for there (version, a dry run's plan).
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line("--port: '80\n81\x1b[2J'"), "--port: '80?81?[2J'");
        let endless = one_line(&"ä".repeat(2 * LONGEST_LINE));
        assert_eq!(endless.chars().count(), LONGEST_LINE + 1);
        assert!(endless.ends_with('…'));
    }
}
