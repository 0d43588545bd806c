//! A document whose blocks of code are calls and what they print.

/// A heading and its block.
#[derive(Debug)]
pub(crate) struct Situation {
    pub title: String,
    /// Each command, and what it prints: its lines, and `[STATUS]` if that is not 0.
    pub steps: Vec<(String, Vec<String>)>,
}

const INDENT: &str = "    ";
const PROMPT: &str = "# ";

/// The blocks of a document, each with the heading above it.
pub(crate) fn situations(document: &str) -> Vec<Situation> {
    let mut all: Vec<Situation> = Vec::new();
    let mut title = String::new();
    let mut inside = false;
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            title = heading.to_owned();
        }
        let Some(code) = line.strip_prefix(INDENT) else {
            inside &= false;
            continue;
        };
        if !inside {
            let (title, steps) = (title.clone(), Vec::new());
            all.push(Situation { title, steps });
            inside = true;
        }
        let steps = &mut all.last_mut().unwrap().steps;
        match code.strip_prefix(PROMPT) {
            Some(command) => steps.push((command.to_owned(), Vec::new())),
            None => steps.last_mut().expect(line).1.push(code.to_owned()),
        }
    }
    all
}

impl Situation {
    /// As it stands in the document.
    pub(crate) fn shown(&self) -> String {
        let step = |(command, printed): &(String, Vec<String>)| {
            let lines = printed.iter().map(|line| format!("{INDENT}{line}\n"));
            format!("{INDENT}{PROMPT}{command}\n") + &lines.collect::<String>()
        };
        self.steps.iter().map(step).collect()
    }
}

/// Whether two lines are the same but for times and process ids.
pub(crate) fn alike(one: &str, other: &str) -> bool {
    without_measures(one) == without_measures(other)
}

/// `98 ms`, `1.2 s`, `pid 4711`, `pid=4711` differ from run to run; `10s` is an option's value.
fn without_measures(line: &str) -> String {
    let is_number =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let words: Vec<&str> = line.split(' ').collect();
    let unit = |word: Option<&&str>| {
        let word = word.map(|word| word.trim_end_matches([',', ';', ')', ':', '.']));
        word == Some("ms") || word == Some("s")
    };
    let mut shown = Vec::new();
    for (n, word) in words.iter().enumerate() {
        let measured = is_number(word) && unit(words.get(n + 1));
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
        let is_pid = n > 0 && words[n - 1].ends_with("pid") && is_number(digits);
        shown.push(match (measured, is_pid) {
            (true, _) => "TIME".to_owned(),
            (_, true) => word.replace(digits, "PID"),
            _ if n > 0 && shown.last().is_some_and(|last| last == "TIME") => {
                word.replacen("ms", "s", 1)
            }
            _ => (*word).to_owned(),
        });
    }
    shown.join(" ")
}
