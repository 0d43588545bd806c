//! What was not as it should be, for people at once and for the report in the end.

use crate::tell::say::Say;
use crate::words::plain::plain;

/// Each warning once: what goes wrong again and again is not told again and again.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    noted: Vec<String>,
}

impl Warnings {
    pub(crate) fn warn(&mut self, say: &Say, text: String) {
        let text = plain(&text);
        if !self.noted.contains(&text) {
            say.warning(&text);
            self.noted.push(text);
        }
    }

    /// Told also with `-q`.
    pub(crate) fn warn_urgently(&mut self, say: &Say, text: &str) {
        say.urgent_warning(text);
        self.note(text.to_owned());
    }

    /// For the report alone.
    pub(crate) fn note(&mut self, text: String) {
        self.noted.push(text);
    }

    pub(crate) fn noted(&self) -> &[String] {
        &self.noted
    }
}
