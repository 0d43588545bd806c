//! A command line in words that a shell would read back.

use std::ffi::OsString;

/// The arguments, quoted where a shell would need it, on one line.
pub fn command_line(command: &[OsString]) -> String {
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
