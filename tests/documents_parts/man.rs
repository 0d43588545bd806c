//! A page in mdoc(7), read line by line.

use std::collections::BTreeSet;

use super::words;

/// A page, or a section of it.
pub(crate) struct Man {
    lines: Vec<String>,
}

/// An item of a list: its head and what follows, up to the next item of that list.
pub(crate) struct Block {
    head: String,
    body: Man,
}

impl Man {
    pub(crate) fn parse(source: &str) -> Man {
        let lines = source.lines().filter(|l| !l.starts_with(".\\\""));
        Man {
            lines: lines.map(str::to_owned).collect(),
        }
    }

    pub(crate) fn whole(&self) -> Man {
        Man {
            lines: self.lines.clone(),
        }
    }

    /// From `.Sh NAME` to the next section.
    pub(crate) fn section(&self, name: &str) -> Man {
        self.between(&format!(".Sh {name}"), ".Sh ")
    }

    /// From `.Ss NAME` to the next one.
    pub(crate) fn subsection(&self, name: &str) -> Man {
        self.between(&format!(".Ss {name}"), ".Ss ")
    }

    fn between(&self, head: &str, next: &str) -> Man {
        let from = self.lines.iter().position(|l| l == head);
        let from = from.unwrap_or_else(|| panic!("man: no line '{head}'")) + 1;
        let rest = &self.lines[from..];
        let to = rest.iter().position(|l| l.starts_with(next));
        Man {
            lines: rest[..to.unwrap_or(rest.len())].to_vec(),
        }
    }

    /// The items whose head begins with `macro_name`, `Fl` say, at any depth; the empty name
    /// stands for heads of plain text.
    pub(crate) fn items(&self, macro_name: &str) -> Vec<Block> {
        let starts = self.lines.iter().enumerate().filter_map(|(n, line)| {
            let head = line.strip_prefix(".It ")?;
            let first = head.split(' ').next().unwrap_or_default();
            let wanted = if macro_name.is_empty() {
                !is_macro(first)
            } else {
                first == macro_name
            };
            wanted.then_some((n + 1, head))
        });
        starts
            .map(|(from, head)| Block {
                head: head.to_owned(),
                body: Man {
                    lines: item_body(&self.lines[from..]).to_vec(),
                },
            })
            .collect()
    }

    /// `-p` and `--port` for each `Fl p` and `Fl -port`.
    pub(crate) fn flags(&self) -> BTreeSet<String> {
        let flags = self.lines.iter().flat_map(|l| flags_in(l));
        flags.collect()
    }

    /// The words that stand behind a macro, in heads and in the text.
    pub(crate) fn arguments_of(&self, macro_name: &str) -> BTreeSet<String> {
        let lines = self.lines.iter().flat_map(|l| arguments_in(l, macro_name));
        lines.collect()
    }

    /// What is in literal displays, unescaped.
    pub(crate) fn literal(&self) -> String {
        let mut text = String::new();
        let mut inside = false;
        for line in &self.lines {
            match line.as_str() {
                ".Ed" => inside = false,
                _ if line.starts_with(".Bd -literal") => inside = true,
                _ if inside => {
                    text += &line
                        .replace("\\-", "-")
                        .replace("\\(aq", "'")
                        .replace("\\e", "\\");
                    text.push('\n');
                }
                _ => (),
            }
        }
        text
    }

    fn words(&self) -> Vec<String> {
        let plain = |line: &String| match line.strip_prefix('.') {
            None => line.clone(),
            Some(call) => {
                let arguments = call.split(' ').filter(|w| !is_macro(w));
                arguments.collect::<Vec<_>>().join(" ")
            }
        };
        words(&self.lines.iter().map(plain).collect::<Vec<_>>().join("\n"))
    }
}

impl Block {
    pub(crate) fn head(&self) -> &str {
        &self.head
    }

    pub(crate) fn head_has(&self, word: &str) -> bool {
        self.head.split(' ').any(|w| w == word)
    }

    pub(crate) fn head_flags(&self) -> BTreeSet<String> {
        flags_in(&format!(".{}", self.head)).into_iter().collect()
    }

    pub(crate) fn flags(&self) -> BTreeSet<String> {
        self.body.flags()
    }

    pub(crate) fn words(&self) -> Vec<String> {
        self.body.words()
    }

    /// What the items in it are called.
    pub(crate) fn items_of(&self, macro_name: &str) -> BTreeSet<String> {
        self.body.items_of(macro_name)
    }
}

impl Man {
    /// What the items of a kind are called: `drop` for `.It Cm drop`.
    pub(crate) fn items_of(&self, macro_name: &str) -> BTreeSet<String> {
        let items = self.items(macro_name);
        let names = items
            .iter()
            .flat_map(|i| arguments_in(&format!(".{}", i.head), macro_name));
        names.collect()
    }
}

/// The lines up to the next item of the same list, or to its end.
fn item_body(lines: &[String]) -> &[String] {
    let mut depth = 0;
    for (n, line) in lines.iter().enumerate() {
        match line.get(..3) {
            Some(".Bl") => depth += 1,
            Some(".El") if depth > 0 => depth -= 1,
            Some(".El" | ".It") if depth == 0 => return &lines[..n],
            _ => (),
        }
    }
    lines
}

/// mdoc's macros have two letters, the first of them a capital.
fn is_macro(word: &str) -> bool {
    matches!(word.as_bytes(), [a, b] if a.is_ascii_uppercase() && b.is_ascii_lowercase())
}

/// The arguments of a macro in a line that is one: all words up to the next macro.
fn arguments_in(line: &str, macro_name: &str) -> Vec<String> {
    let Some(call) = line.strip_prefix('.') else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut inside = false;
    for word in call.split(' ') {
        if is_macro(word) {
            inside = word == macro_name;
        } else if inside && word.chars().any(char::is_alphanumeric) {
            found.push(word.to_owned());
        }
    }
    found
}

fn flags_in(line: &str) -> Vec<String> {
    arguments_in(line, "Fl")
        .into_iter()
        .map(|flag| format!("-{flag}"))
        .collect()
}
