//! A document in Markdown.

use std::collections::BTreeSet;

/// A row of a table of options.
pub(crate) struct Row {
    /// What its first cell names: `-p`, `--port`.
    pub names: BTreeSet<String>,
    /// What stands in backticks in it.
    pub code: Vec<String>,
}

/// Its lines of code: between fences, or indented by four spaces.
pub(crate) fn code_blocks(text: &str) -> String {
    let code = lines(text).filter(|(is_code, _)| *is_code);
    code.map(|(_, line)| format!("{line}\n")).collect()
}

/// What stands in backticks in the other lines.
pub(crate) fn code_spans(text: &str) -> Vec<String> {
    let prose = lines(text).filter(|(is_code, _)| !is_code);
    prose
        .flat_map(|(_, line)| line.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// Each line, and whether it is code.
fn lines(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut fenced = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        Some((fenced || line.starts_with("    "), line.trim_start()))
    })
}

/// The rows of tables whose first cell begins with an option in backticks.
pub(crate) fn option_table(text: &str) -> Vec<Row> {
    let rows = text.lines().filter_map(|l| l.trim().strip_prefix('|'));
    let mut found = Vec::new();
    for row in rows.filter(|r| r.trim().starts_with("`-")) {
        // A | within a cell is written \|.
        let row = row.replace("\\|", "/");
        let first = row.split('|').next().unwrap_or_default();
        let spans = code_spans(first).join(" ");
        let names = spans.split([' ', ',', '=']).filter(|w| w.starts_with('-'));
        found.push(Row {
            names: names.map(str::to_owned).collect(),
            code: code_spans(&row),
        });
    }
    found
}
