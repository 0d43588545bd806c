//! A command line in words that a shell would read back.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

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

/// Refuses an empty command line.
///
/// # Errors
/// One line that names the option.
pub(crate) fn not_empty(option: &str, line: Option<&OsString>) -> Result<(), String> {
    match line.is_some_and(|line| line.as_bytes().trim_ascii().is_empty()) {
        true => Err(format!("{option}: '' is empty; expected a command line")),
        false => Ok(()),
    }
}
