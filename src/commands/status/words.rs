//! What `syngate status` says to people.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Entry, Position, Status};
use crate::action::contract::Standing;
use crate::action::list;
use crate::gate::here::now;
use crate::words::count::{counted, counted_does};

fn waiting_words(waiting: usize) -> String {
    counted_does(waiting, "connection", ["waits", "wait"])
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.gates.is_empty() {
            f.write_str(match self.unseen.is_empty() {
                true => "no gate is closed\n",
                false => "whether a gate is closed is not known\n",
            })?;
        }
        for gate in &self.gates {
            f.write_str(&gate.paragraph())?;
        }
        for left in &self.left {
            if let Some(group) = &left.control_group {
                let group = group.display();
                writeln!(
                    f,
                    "a dead run has left a control group, which stops nothing: {group} (syngate clear removes it)"
                )?;
            }
            if let Some(note) = &left.note {
                let note = note.display();
                writeln!(
                    f,
                    "a dead run has left SO_REUSEPORT or a program with listeners, which stops nothing: {note} \
                     tells which (syngate clear takes it back)"
                )?;
            }
        }
        Ok(())
    }
}

impl Entry {
    pub(super) fn paragraph(&self) -> String {
        let mut text = format!("{}\n", self.headline());
        let mut line = |name: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                let _ = writeln!(text, "  {name:<8} {value}");
            }
        };
        line("by", Some(self.by()));
        line(
            "since",
            self.since.as_ref().map(|since| self.since_words(since)),
        );
        line("how", self.how());
        line("so far", self.kept.as_ref().map(|kept| kept.counts.words()));
        line("narrowed", Some(self.narrowed.clone()));
        line("opens", self.opens());
        text
    }

    /// Of a run that is dead only its COMMAND is known, which is another process.
    fn by(&self) -> String {
        let is_keep = self.kept.is_some();
        let dead = match self.stale == Some(true) && !is_keep {
            true => ", which is dead; its COMMAND",
            false => "",
        };
        let pid = self.pid.map(|pid| format!("pid {pid}{dead}"));
        let by = [pid, self.command.clone()].into_iter().flatten();
        by.collect::<Vec<_>>().join(": ")
    }

    pub(super) fn headline(&self) -> String {
        let ports = if self.ports.is_empty() {
            "a gate".to_owned()
        } else {
            self.ports.brief()
        };
        let (standing, to) = self.action_words();
        match (self.state, self.stale) {
            (Position::Kept, Some(true)) => format!(
                "{ports} is kept by a keep that is dead: its guard goes on in its place, for --max-wait at most; start keep \
                 again ({})",
                match self.stranded {
                    0 => "syngate clear ends that now".to_owned(),
                    _ => self.clear_words(),
                }
            ),
            (Position::Kept, _) if self.waiting.is_none() => {
                format!("{ports} is not kept yet: nobody listens, or a run works there")
            }
            (Position::Kept, _) => {
                format!("{ports} is kept: new connections wait only while nobody listens")
            }
            (Position::Shut, Some(true)) if self.waiting.is_some() => {
                format!(
                    "{ports} {} by a run that is dead: its guard hands the waiting connections over once the service \
                     listens ({})",
                    standing.shut,
                    self.clear_words()
                )
            }
            (Position::Shut, Some(true)) => {
                format!("{ports} is closed by a run that is dead: stale (syngate clear removes it)")
            }
            (Position::Shut, _) => {
                let shut = format!("{ports} {} {to}", standing.shut);
                shut.trim_end().to_owned() + standing.clients
            }
            (Position::Leaving, _) => self.leaving(&ports),
            (Position::Open, None) => {
                format!(
                    "{ports} is open; there are rules, and syngate can't see whether their run is alive"
                )
            }
            (Position::Open, Some(true)) => {
                format!(
                    "{ports} is open; a dead run has left rules: stale (syngate clear removes them)"
                )
            }
            (Position::Open, _) => {
                let goes_on = standing.open.map(|what| format!("{what}, and "));
                let goes_on = goes_on.unwrap_or_default();
                format!("{ports} is open; {goes_on}a run still works on it")
            }
            (Position::Unknown, _) => {
                format!("{ports} belongs to a run that has closed the gate or is about to")
            }
        }
    }

    fn leaving(&self, ports: &str) -> String {
        if self.stale == Some(true) {
            return format!(
                "{ports} is refused by a run that is dead: stale (syngate clear removes it)"
            );
        }
        let gated = match self.locked.is_empty() {
            true => String::new(),
            false => format!(", for a run on {}", self.locked.brief()),
        };
        format!("{ports} is refused, so that a load balancer takes this host out{gated}")
    }

    /// What `syngate clear` would do. The guard of a dead run holds the connections.
    fn clear_words(&self) -> String {
        match self.stranded {
            0 => "syngate clear does it now".to_owned(),
            n => format!(
                "start the service; syngate clear ends the wait now, and resets the {n} that wait if nobody \
                 listens"
            ),
        }
    }

    fn since_words(&self, since: &str) -> String {
        let ago = now().saturating_sub(self.since_unix.unwrap_or(0));
        let ago = humantime::format_duration(Duration::from_secs(ago));
        format!("{since} ({ago} ago)")
    }

    fn how(&self) -> Option<String> {
        let backend = self.backend?;
        if self.state == Position::Kept {
            let waits = waiting_words(self.waiting?);
            let in_gap = self.stranded > 0 && self.stale != Some(true);
            let until = self.max_wait.filter(|_| in_gap).map(|max_wait| {
                let max_wait = humantime::format_duration(max_wait);
                format!("; nobody listens now: they are reset when that has lasted {max_wait} (--max-wait)")
            });
            return Some(waits + &until.unwrap_or_default());
        }
        let action = self.action.as_deref().unwrap_or("drop");
        let done = match self.state {
            Position::Leaving => "refused",
            _ => self.action_words().0.done,
        };
        if let Some(waiting) = self.waiting {
            let waits = waiting_words(waiting);
            let stranded = match self.stranded {
                n @ 1.. if self.state == Position::Shut => {
                    format!("; nobody listens now, so syngate clear would reset {n}")
                }
                _ => String::new(),
            };
            return Some(format!("{backend}, {action}: {waits}{stranded}"));
        }
        Some(match self.syns_stopped {
            Some(n) => format!("{backend}, {action}: {} {done}", counted(n, "SYN")),
            None => format!("{backend}, {action}"),
        })
    }

    /// What to say of the action, and where it steers to.
    fn action_words(&self) -> (&'static Standing, &str) {
        list::standing(self.action.as_deref().unwrap_or("drop"))
    }

    fn opens(&self) -> Option<String> {
        let seconds = self.opens_in_ms? as f64 / 1e3;
        let opener = match self.waiting {
            Some(_) => "the guard of its waiting rooms",
            None => "the kernel",
        };
        Some(format!("in {seconds:.1} s at the latest, by {opener}"))
    }
}
