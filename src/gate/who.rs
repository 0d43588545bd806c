//! The run that made a gate, as written in the comment of its rules. Admins see it in the rules,
//! and `syngate status` reads it.

use std::fmt;
use std::path::PathBuf;

use crate::words::file_id::FileId;

/// What stands in the place of the action for `syngate keep`.
pub(crate) const KEEP: &str = "keep";

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Who {
    /// In the run's own pid namespace.
    pub pid: u32,
    /// When the gate was closed, in seconds since 1970.
    pub since: u64,
    /// The same in seconds of CLOCK_MONOTONIC, which nobody can set.
    pub up: u64,
    /// The boot of the host, as [`boot`](crate::process::living::boot) names it: rules may be saved and restored.
    pub boot: Option<String>,
    pub action: String,
    /// The run whose rules these are, if they are not called after it.
    pub of: Option<String>,
    /// The run's lock file.
    pub lock: Option<FileId>,
    /// The lock file's directory, if it is not the default.
    pub locks: Option<PathBuf>,
    /// COMMAND. A backend with little room for comments cuts it.
    pub command: String,
}

impl Who {
    pub(crate) fn is_keep(&self) -> bool {
        self.action == KEEP
    }

    /// `None`: syngate did not write the comment.
    pub(crate) fn parse(comment: &str) -> Option<Who> {
        let rest = comment.strip_prefix("syngate ")?;
        let (facts, command) = rest.split_once(" command=")?;
        let fact = |name: &str| {
            facts
                .split(' ')
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        Some(Who {
            pid: fact("pid")?.parse().ok()?,
            since: fact("since")?.parse().ok()?,
            up: fact("up").and_then(|up| up.parse().ok()).unwrap_or(0),
            boot: fact("boot").map(str::to_owned),
            action: fact("syn").unwrap_or("drop").to_owned(),
            of: fact("of").map(str::to_owned),
            lock: fact("lock").and_then(FileId::parse),
            locks: fact("locks").map(PathBuf::from),
            // The name is shown on terminals, and any user may give COMMAND such a name.
            command: command.replace(char::is_control, " "),
        })
    }
}

impl fmt::Display for Who {
    /// The command comes last, because backends cut the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Who {
            pid,
            since,
            up,
            boot,
            action,
            of,
            lock,
            locks,
            command,
        } = self;
        write!(f, "syngate pid={pid} since={since} up={up} ")?;
        if let Some(boot) = boot {
            write!(f, "boot={boot} ")?;
        }
        write!(f, "syn={action} ")?;
        if let Some(of) = of {
            write!(f, "of={of} ")?;
        }
        if let Some(lock) = lock {
            write!(f, "lock={lock} ")?;
        }
        if let Some(locks) = locks {
            // A blank would end the word. A directory with a blank can't be found from the comment.
            let locks = locks.to_string_lossy().replace(char::is_whitespace, "?");
            write!(f, "locks={locks} ")?;
        }
        write!(f, "command={command}")
    }
}

/// Checks the properties of the parser for any text, as a comment, and as a directory's line
/// followed by a command.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let printed = Who::parse(&text).map(|who| who.to_string());
    if let Some(printed) = printed {
        let again = Who::parse(&printed).map(|who| who.to_string());
        assert_eq!(again, Some(printed));
    }
    let (locks, command) = text.split_once('\n').unwrap_or(("", &text));
    let plain = !locks.is_empty() && !locks.contains(char::is_whitespace);
    let who = Who {
        pid: bytes.len() as u32,
        since: 1,
        up: 2,
        boot: plain.then(|| "0123abcd".to_owned()),
        action: "divert=fe80::1%eth0".to_owned(),
        of: plain.then(|| "0123456789abcdef".to_owned()),
        lock: FileId::parse("1:2"),
        locks: plain.then(|| locks.into()),
        command: command.to_owned(),
    };
    let read = Who::parse(&who.to_string());
    let command = who.command.replace(char::is_control, " ");
    assert_eq!(read, Some(Who { command, ..who }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let who = Who {
            pid: 4711,
            since: 1_700_000_000,
            up: 4_000,
            boot: Some("0123abcd".to_owned()),
            action: "drop".to_owned(),
            of: None,
            lock: FileId::parse("26:4711"),
            locks: Some("/tmp/locks".into()),
            command: "sh -c 'command=x; exit'".to_owned(),
        };
        let elsewhere = Who {
            boot: None,
            of: Some("0123456789abcdef".to_owned()),
            locks: Some("/tmp/command=x/locks".into()),
            ..who.clone()
        };
        for who in [who, elsewhere] {
            assert_eq!(Who::parse(&who.to_string()), Some(who));
        }
        assert_eq!(Who::parse("something else"), None);
        assert_eq!(Who::parse("syngate pid=x since=1 command="), None);
    }
}
