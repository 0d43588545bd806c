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

    /// From `.Sh NAME` to the next section.
    pub(crate) fn section(&self, name: &str) -> Man {
        self.between(&format!(".Sh {name}"), ".Sh ")
    }

    /// The names of its sections and subsections.
    pub(crate) fn headings(&self) -> BTreeSet<String> {
        let heads = self.lines.iter().filter_map(|line| {
            let head = line.strip_prefix(".Sh ").or(line.strip_prefix(".Ss "))?;
            Some(head.trim_matches('"').to_owned())
        });
        heads.collect()
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

    /// What stands behind a macro up to the end of its line, as one text.
    pub(crate) fn arguments_in_full(&self, macro_name: &str) -> Vec<String> {
        let lines = self.lines.iter().filter_map(|line| {
            let (_, rest) = line.split_once(&format!("{macro_name} "))?;
            let call = line.starts_with('.') && !rest.is_empty();
            let punctuation = [" .", " ,", " ;", " )", " ) ,"];
            let end = punctuation.iter().find_map(|mark| rest.strip_suffix(mark));
            call.then(|| end.unwrap_or(rest).trim_matches('"').to_owned())
        });
        lines.collect()
    }

    /// `syngate-check.8` for each `.Xr syngate-check 8`.
    pub(crate) fn references(&self) -> BTreeSet<String> {
        let found = self.lines.iter().filter_map(|line| reference(line));
        found.collect()
    }

    /// Sections of other pages: `.Dq SIGNALS`, `in`, and the page.
    pub(crate) fn sections_elsewhere(&self) -> Vec<(String, String)> {
        let found = self.lines.windows(3).filter_map(|lines| {
            let [section, word, page] = lines else {
                return None;
            };
            let section = section.strip_prefix(".Dq ")?;
            let page = reference(page).filter(|_| word == "in")?;
            Some((section.to_owned(), page))
        });
        found.collect()
    }

    /// What stands in single quotes in the text, unescaped.
    pub(crate) fn quoted(&self) -> Vec<String> {
        let quoted = self.lines.iter().filter_map(|line| {
            let text = line.strip_prefix(".Ql ")?.trim_matches('"');
            let end = [" .", " ,", " ;", " :"];
            let end = end.iter().find_map(|mark| text.strip_suffix(mark));
            Some(end.unwrap_or(text).replace("\\-", "-"))
        });
        quoted.collect()
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

    pub(crate) fn head_flags(&self) -> BTreeSet<String> {
        flags_in(&format!(".{}", self.head)).into_iter().collect()
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

/// `syngate-check.8` for `.Xr syngate-check 8 ,`.
fn reference(line: &str) -> Option<String> {
    let (_, rest) = line.strip_prefix('.')?.split_once("Xr ")?;
    let mut words = rest.split(' ');
    Some(format!("{}.{}", words.next()?, words.next()?))
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
