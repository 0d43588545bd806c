//! Command lines as text.

use std::ffi::OsString;

/// The arguments on one line, quoted where a shell would need it. Control characters become `?`.
pub(crate) fn command_line(command: &[OsString]) -> String {
    let quoted: Vec<String> = command
        .iter()
        .map(|arg| {
            let text: String = arg
                .to_string_lossy()
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            let plain = |c: char| c.is_alphanumeric() || "-_./=:,@%+".contains(c);
            if !text.is_empty() && text.chars().all(plain) {
                text
            } else {
                format!("'{}'", text.replace('\'', "'\\''"))
            }
        })
        .collect();
    quoted.join(" ")
}
