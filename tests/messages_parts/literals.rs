//! The texts in src that reach people: string literals with words in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::str::FromStr;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// What they have are lines for programs: rules, scripts, the names of limits.
const FOR_PROGRAMS: [&str; 9] = [
    "commands/restart/precheck.rs",
    "gate/iptables/compile.rs",
    "gate/iptables/present.rs",
    "gate/nft/script.rs",
    "limits.rs",
    "process/beside.rs",
    "process/child.rs",
    "process/cmdline.rs",
    "process/systemctl.rs",
];
/// Modules of tests.
const FOR_TESTS: [&str; 3] = ["bad_input", "simulation", "tests"];
/// What they are given tells of a bug, and nobody should ever see it.
const BUGS: [&str; 8] = [
    "assert",
    "assert_eq",
    "debug_assert",
    "expect",
    "expect_err",
    "panic",
    "todo",
    "unreachable",
];

/// The messages of each folder of src, as they are written there.
pub(crate) fn messages(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(src).unwrap();
            let parts: Vec<&str> = name.iter().map(|part| part.to_str().unwrap()).collect();
            let of_tests = |part: &&str| FOR_TESTS.contains(&part.trim_end_matches(".rs"));
            if parts.iter().any(of_tests) || FOR_PROGRAMS.contains(&&*parts.join("/")) {
                continue;
            }
            let texts = texts_of(&fs::read_to_string(&path).unwrap());
            let of_folder: &mut BTreeSet<String> =
                found.entry(parts[..parts.len() - 1].join("/")).or_default();
            of_folder.extend(texts.into_iter().filter(|text| is_message(text)));
        }
    }
    found.retain(|_, texts| !texts.is_empty());
    found
}

/// It has two words at least that are no names, options or numbers.
fn is_message(text: &str) -> bool {
    let is_word = |word: &&str| {
        let word = word.trim_matches(|c: char| "'\",.:;()?".contains(c));
        word.len() > 1 && word.chars().all(|c| c.is_ascii_lowercase() || c == '\'')
    };
    text.split_whitespace().filter(is_word).count() > 1
}

/// The literals of production code. Attributes have none: what clap prints is in the manual.
pub(crate) fn texts_of(source: &str) -> Vec<String> {
    let mut texts = Vec::new();
    walk(TokenStream::from_str(source).unwrap(), &mut texts);
    texts
}

fn walk(tokens: TokenStream, texts: &mut Vec<String>) {
    let tokens = Vec::from_iter(tokens);
    let mut at = 0;
    while at < tokens.len() {
        at += match &tokens[at..] {
            [hash, TokenTree::Group(attribute), ..] if is(hash, '#') => {
                let for_tests = attribute.to_string().replace(' ', "") == "[cfg(test)]";
                2 + if for_tests {
                    item(&tokens[at + 2..])
                } else {
                    0
                }
            }
            [hash, bang, TokenTree::Group(_), ..] if is(hash, '#') && is(bang, '!') => 3,
            [TokenTree::Ident(name), TokenTree::Group(_), ..] if is_bug(&name.to_string()) => 2,
            [TokenTree::Ident(name), bang, TokenTree::Group(_), ..]
                if is(bang, '!') && is_bug(&name.to_string()) =>
            {
                3
            }
            [TokenTree::Group(group), ..] => {
                walk(Group::stream(group), texts);
                1
            }
            [TokenTree::Literal(literal), ..] => {
                texts.extend(text(&literal.to_string()));
                1
            }
            _ => 1,
        };
    }
}

fn is(token: &TokenTree, punct: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == punct)
}

fn is_bug(name: &str) -> bool {
    BUGS.contains(&name)
}

/// How many tokens an item has.
fn item(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| {
        is(token, ';') || matches!(token, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace)
    };
    let end = tokens.iter().position(ends);
    end.map_or(tokens.len(), |end| end + 1)
}

/// What a literal has between its quotes, in one line; escapes stay. `None`: it is no text.
fn text(literal: &str) -> Option<String> {
    let inner = match literal.strip_prefix('r') {
        Some(raw) => raw.trim_matches('#'),
        None => literal,
    };
    let inner = inner.strip_prefix('"')?.strip_suffix('"')?;
    let mut lines = inner.split("\\\n");
    let first = lines.next()?.to_owned();
    Some(lines.fold(first, |text, line| text + line.trim_start()))
}
