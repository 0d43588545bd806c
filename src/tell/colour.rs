//! Colours: only on a terminal, and only if the user wants them.

use std::env::var_os;
use std::ffi::OsStr;
use std::io::IsTerminal;

pub(crate) const RED: &str = "\x1b[1;31m";
pub(crate) const YELLOW: &str = "\x1b[1;33m";
/// Ends a colour.
pub(crate) const PLAIN: &str = "\x1b[0m";

/// Whether text for this stream may have colours.
pub(crate) fn may_have(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && wanted(var_os("NO_COLOR").as_deref(), var_os("TERM").as_deref())
}

/// As <https://no-color.org> defines it: any value of NO_COLOR but an empty one forbids colours.
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
