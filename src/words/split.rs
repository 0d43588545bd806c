//! A line as the words of a command, quoted as in a shell. Nothing is expanded. Pure.

/// Which characters a shell would do something with, where they are not quoted.
const FOR_A_SHELL: &str = "|&;<>()`$*?";

/// The words of a line. Quotes and backslashes are read as in sh(1).
///
/// # Errors
/// A quote that is not closed, or something that only a shell does.
pub(crate) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => quoted(&mut chars, word.get_or_insert_default())?,
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => {
                let next = chars.next().ok_or("nothing comes behind the last \\")?;
                word.get_or_insert_default().push(next);
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c if FOR_A_SHELL.contains(c) => return Err(for_a_shell(c)),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Up to the closing quote.
fn quoted(chars: &mut std::str::Chars, word: &mut String) -> Result<(), String> {
    for c in chars {
        match c {
            '\'' => return Ok(()),
            c => word.push(c),
        }
    }
    Err("a quote (') is not closed".to_owned())
}

/// Up to the closing quote. A backslash takes their meaning from these: `"`, `\`, `$`, `` ` ``.
fn double_quoted(chars: &mut std::str::Chars, word: &mut String) -> Result<(), String> {
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(()),
            '$' | '`' => return Err(for_a_shell(c)),
            '\\' => match chars.next() {
                Some(next @ ('"' | '\\' | '$' | '`')) => word.push(next),
                Some(next) => word.extend(['\\', next]),
                None => break,
            },
            c => word.push(c),
        }
    }
    Err("a quote (\") is not closed".to_owned())
}

fn for_a_shell(c: char) -> String {
    format!(
        "{c} is for a shell, and no shell reads it; quote it, or write sh -c '...' around the line"
    )
}

/// What holds for any line.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(line: &str) {
    use super::command_line::command_line;
    if let Ok(words) = split(line) {
        let shown: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
        let plain = |word: &String| !word.chars().any(char::is_control);
        if words.iter().all(plain) {
            assert_eq!(split(&command_line(&shown)), Ok(words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        for (line, words) in [
            ("service  web restart ", &["service", "web", "restart"][..]),
            ("sh -c 'a; b' ''", &["sh", "-c", "a; b", ""]),
            ("a\\ b 'it'\\''s' \"x y\"z", &["a b", "it's", "x yz"]),
            ("\"a\\\"b\\\\c\\d\\$\\`\"", &["a\"b\\c\\d$`"]),
            ("", &[]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_is_for_a_shell_is_refused() {
        for (line, says) in [
            ("a; b", "; is for a shell"),
            ("a && b", "& is for a shell"),
            ("echo $HOME", "$ is for a shell"),
            ("echo \"$HOME\"", "$ is for a shell"),
            ("echo \"`id`\"", "` is for a shell"),
            ("a 'b", "(') is not closed"),
            ("a \"b", "(\") is not closed"),
            ("a \"b\\", "(\") is not closed"),
            ("a\\", "behind the last"),
        ] {
            let why = split(line).unwrap_err();
            assert!(why.contains(says), "{line}: {why}");
        }
    }

    #[test]
    fn a_line_is_withstood() {
        for line in ["a 'b c' \"d\"", "it\\'s", "'a\nb'", "a | b"] {
            withstand(line);
        }
    }
}
