//! Calls of syngate in shell code.

/// What else syngate is called with.
const OTHERS: [&str; 7] = [
    "restart", "reload", "run", "status", "clear", "check", "keep",
];

/// Each call as its arguments, `syngate` first: by itself, behind a prompt or another command
/// (sudo, cron's columns, nsenter), and within a quoted argument.
pub(crate) fn calls(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in text.replace("\\\n", " ").lines() {
        let prompt = ["# syngate ", "$ syngate "]
            .iter()
            .any(|p| line.starts_with(p));
        let words = split(if prompt { &line[2..] } else { line });
        for (n, word) in words.iter().enumerate() {
            let is_option = |w: &Word| matches!(w, Word::Text(t) if t.starts_with('-') || OTHERS.contains(&t.as_str()));
            match word {
                Word::Text(name)
                    if (name == "syngate" || name.ends_with("/syngate"))
                        && words.get(n + 1).is_some_and(is_option) =>
                {
                    found.push(words[n..].iter().map_while(Word::text).collect());
                }
                Word::Text(quoted) if quoted.starts_with("syngate ") => {
                    found.extend(calls(quoted));
                }
                _ => (),
            }
        }
    }
    found
}

enum Word {
    Text(String),
    /// What ends a command: `|`, `;`, `&`, `>`, `<`.
    End,
}

impl Word {
    fn text(&self) -> Option<String> {
        match self {
            Word::Text(text) => Some(text.clone()),
            Word::End => None,
        }
    }
}

/// The words of a line, as the shell splits them. Nothing is expanded.
fn split(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let quoted: String = chars.by_ref().take_while(|q| *q != c).collect();
                word.get_or_insert_default().push_str(&quoted);
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '#' if word.is_none() => break,
            '|' | ';' | '&' | '>' | '<' => {
                words.extend(word.take().map(Word::Text));
                words.push(Word::End);
            }
            _ if c.is_whitespace() => words.extend(word.take().map(Word::Text)),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word.take().map(Word::Text));
    words
}
