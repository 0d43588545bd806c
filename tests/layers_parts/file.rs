//! What a source file imports, and how long it and its functions are. Reads tokens, so that neither
//! comments nor texts are taken for code.

use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The names of the modules from the root of the crate down.
pub(super) type Module = Vec<String>;

/// A path of more than one word: `crate::gate::Gate`, `super::*`.
pub(crate) struct Path {
    pub words: Vec<String>,
    /// The module that it stands in: the file's, or one inside that.
    pub module: Module,
    pub is_for_tests: bool,
}

pub(crate) struct File {
    /// Below the root of the crate: `gate/nft/mod.rs`.
    pub name: String,
    pub module: Module,
    pub paths: Vec<Path>,
    /// Each function of production code, and how many lines it has.
    pub functions: Vec<(String, usize)>,
    /// Of production code.
    pub lines: usize,
}

/// Modules that only tests are made of: in a file of that name, or in a folder.
const FOR_TESTS: [&str; 2] = ["tests", "simulation"];

impl File {
    pub(crate) fn parse(name: &str, text: &str) -> File {
        let words = name.trim_end_matches(".rs").split('/');
        let mut module: Module = words.map(str::to_owned).collect();
        if ["mod", "lib", "main"].contains(&module.last().unwrap().as_str()) {
            module.pop();
        }
        let mut file = File {
            name: name.to_owned(),
            module: module.clone(),
            paths: Vec::new(),
            functions: Vec::new(),
            lines: text.lines().count(),
        };
        let tokens = TokenStream::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let is_for_tests = module.iter().any(|name| FOR_TESTS.contains(&name.as_str()));
        if is_for_tests {
            file.lines = 0;
        }
        file.walk(&Vec::from_iter(tokens), &module, is_for_tests);
        file
    }

    fn walk(&mut self, tokens: &[TokenTree], module: &Module, for_tests: bool) {
        let mut at = 0;
        while at < tokens.len() {
            let item = &tokens[at..];
            let length = item
                .iter()
                .position(ends_item)
                .map_or(item.len(), |end| end + 1);
            at += match item {
                [TokenTree::Punct(_), TokenTree::Group(of), ..]
                    if !for_tests && of.to_string().replace(' ', "") == "[cfg(test)]" =>
                {
                    self.lines -= lines(&item[..length]);
                    self.walk(&item[2..length], module, true);
                    length
                }
                [
                    TokenTree::Ident(word),
                    TokenTree::Ident(name),
                    TokenTree::Group(body),
                    ..,
                ] if word == "mod" => {
                    let inner = [&module[..], &[name.to_string()]].concat();
                    self.walk(&Vec::from_iter(body.stream()), &inner, for_tests);
                    length
                }
                [TokenTree::Ident(word), TokenTree::Ident(name), ..] if word == "fn" => {
                    if !for_tests {
                        self.functions
                            .push((name.to_string(), lines(&item[..length])));
                    }
                    1
                }
                [TokenTree::Ident(_), ..] => {
                    let mut paths = Vec::new();
                    let length = read_path(item, &[], &mut paths);
                    paths.retain(|words| words.len() > 1);
                    self.paths.extend(paths.into_iter().map(|words| Path {
                        words,
                        module: module.clone(),
                        is_for_tests: for_tests,
                    }));
                    length
                }
                [TokenTree::Group(group), ..] => {
                    self.walk(&Vec::from_iter(group.stream()), module, for_tests);
                    1
                }
                _ => 1,
            };
        }
    }
}

fn is(token: &TokenTree, punct: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == punct)
}

fn ends_item(token: &TokenTree) -> bool {
    is(token, ';') || matches!(token, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace)
}

/// How many lines these tokens take, from the first to the last.
fn lines(tokens: &[TokenTree]) -> usize {
    let (first, last) = (tokens[0].span(), tokens[tokens.len() - 1].span());
    last.end().line - first.start().line + 1
}

/// Reads the path that `tokens` begin with; of a tree, as `use` has them, all paths. Gives how many
/// tokens belong to it.
fn read_path(tokens: &[TokenTree], before: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut words = before.to_vec();
    let mut at = 0;
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(word)) => words.push(word.to_string()),
            Some(star) if is(star, '*') => words.push("*".to_owned()),
            Some(TokenTree::Group(tree)) if at > 0 && tree.delimiter() == Delimiter::Brace => {
                let tree = Vec::from_iter(tree.stream());
                let mut inner = 0;
                while inner < tree.len() {
                    inner += read_path(&tree[inner..], &words, paths);
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        match tokens.get(at..at + 2) {
            Some([a, b]) if is(a, ':') && is(b, ':') => at += 2,
            _ => break,
        }
    }
    if words.len() > before.len() {
        paths.push(words);
    }
    at.max(1)
}
