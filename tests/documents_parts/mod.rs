//! Just enough of mdoc(7), Markdown and the shell's syntax to see what a document says.

mod call;
mod man;
mod markdown;

pub(crate) use call::calls;
pub(crate) use man::{Block, Man};
pub(crate) use markdown::{code_blocks, code_spans, option_table};

/// The words of a text, without the punctuation around them.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace()
        .map(|w| {
            w.trim_matches([
                '.', ',', ';', ':', '(', ')', '[', ']', '|', '`', '*', '\'', '"',
            ])
        })
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}
