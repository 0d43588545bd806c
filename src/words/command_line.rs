//! Command lines as text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

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

/// The words of a call, as a process gets them.
#[cfg(test)]
pub(crate) fn os_words(call: &[&str]) -> Vec<OsString> {
    call.iter().map(OsString::from).collect()
}

/// # Errors
/// The command line is empty: one line that names the option.
pub(crate) fn not_empty(option: &str, line: Option<&OsString>) -> Result<(), String> {
    match line.is_some_and(|line| line.as_bytes().trim_ascii().is_empty()) {
        true => Err(format!("{option}: '' is empty; expected a command line")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_stand_where_a_shell_needs_them() {
        for (call, line) in [
            (&["service", "web", "restart"][..], "service web restart"),
            (&["sh", "-c", "a; b", ""], "sh -c 'a; b' ''"),
            (&["it's", "two\nlines"], "'it'\\''s' 'two?lines'"),
        ] {
            assert_eq!(command_line(&os_words(call)), line);
        }
    }

    #[test]
    fn an_empty_line_is_refused_by_the_name_of_its_option() {
        let of = |line: &str| not_empty("--ready-check", Some(&OsString::from(line)));
        assert_eq!(of("true"), Ok(()));
        let refused = Err("--ready-check: '' is empty; expected a command line".to_owned());
        assert_eq!(of(" \t"), refused);
        assert_eq!(not_empty("--ready-check", None), Ok(()));
    }
}
