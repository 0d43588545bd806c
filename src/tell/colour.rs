//! Colours: on a terminal only, and not for whoever wants none.

use std::env::var_os;
use std::ffi::OsStr;
use std::io::IsTerminal;

/// For errors.
pub const RED: &str = "\x1b[1;31m";
/// For warnings.
pub const YELLOW: &str = "\x1b[1;33m";
/// What ends either.
pub const PLAIN: &str = "\x1b[0m";

/// Whether what is written there may have colours.
pub fn may_have(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && wanted(var_os("NO_COLOR").as_deref(), var_os("TERM").as_deref())
}

/// By NO_COLOR, as <https://no-color.org> has it: any value but an empty one; and by TERM.
fn wanted(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty)
        && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_those_who_want_them() {
        let wanted = |no_color: Option<&'static str>, term: Option<&'static str>| {
            wanted(no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(wanted(None, Some("xterm")));
        assert!(wanted(Some(""), Some("linux")));
        assert!(!wanted(Some("1"), Some("xterm")));
        assert!(!wanted(Some("0"), Some("xterm")));
        assert!(!wanted(None, Some("dumb")));
        assert!(!wanted(None, Some("")) && !wanted(None, None));
    }
}
