//! The line that `systemctl status` shows of a keep, where systemd has started it.

use crate::process::notify;
use crate::words::count::counted;
use crate::words::ports::PortSet;

/// What systemd knows of it.
#[derive(Default)]
pub(super) struct Shown {
    line: Option<String>,
}

impl Shown {
    /// Tells that the rooms stand, at first; then what has changed.
    pub(super) fn show(&mut self, kept: &PortSet, gaps: u64) {
        let line = words(kept, gaps);
        if self.line.as_ref() == Some(&line) {
            return;
        }
        match self.line {
            None => notify::ready(&line),
            Some(_) => notify::status(&line),
        }
        self.line = Some(line);
    }
}

fn words(kept: &PortSet, gaps: u64) -> String {
    let gaps = counted(gaps, "gap");
    match kept.is_empty() {
        true => format!("waiting for the service to listen; {gaps} so far"),
        false => format!("keeping {}; {gaps} so far", kept.brief()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_tells_the_ports_and_the_gaps() {
        let kept: PortSet = [80, 443].into_iter().collect();
        assert_eq!(words(&kept, 3), "keeping 80,443; 3 gaps so far");
        let none = words(&PortSet::EMPTY, 1);
        assert_eq!(none, "waiting for the service to listen; 1 gap so far");
    }
}
