//! What a run has told of its gate: when it was shut, how it ended, what it warned of. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The port that clients come to.
const PORT: u16 = 80;
/// What a keep says when its rooms stand, and of each gap.
const STANDS_BY: &str = "syngate: keeping ";
const GAP: &str = "nobody listened for ";
/// What a run says that it has done to ports: `watching` keeps nobody from the service.
const BEGUN: [&str; 2] = ["closed", "watching"];

/// A time in which the port was shut, in ms of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub from_ms: f64,
    pub until_ms: f64,
}

/// What a run has told, and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// When the port was shut, as far as the run has said so.
    pub shut: Vec<Span>,
    /// The end of the run.
    pub ended_ms: f64,
    /// As a shell has it: 128 + n for signal n.
    pub code: i32,
    /// Its warnings.
    pub warnings: Vec<String>,
    /// The line of how it ended.
    pub message: String,
    /// For how long it was shut in all, in ms, by its report: that knows when the kernel opened.
    pub shut_ms: Option<f64>,
    /// Held SYNs that did not wait: there was no room, or the kernel lost them.
    pub not_held: u64,
}

impl Account {
    /// A line that tells of a gap, and of nobody who was reset, is no warning.
    pub fn is_of_keep(&mut self) {
        let blames = |text: &str| text.contains(" reset");
        self.warnings
            .retain(|text| !text.contains(GAP) || blames(text));
        if !blames(&self.message) {
            self.message.clear();
        }
    }
}

/// What there is to learn it from.
pub struct Sources<'a> {
    /// When the run began.
    pub began_ms: f64,
    pub ended_ms: f64,
    pub code: i32,
    /// What it wrote to stderr, with `-v`.
    pub said: &'a str,
    pub report: Option<&'a Value>,
}

impl Account {
    pub fn of(sources: &Sources) -> Account {
        let Sources { said, report, .. } = sources;
        let texts = |line: &str| line.strip_prefix("syngate: ").map(str::to_owned);
        let said_warnings = said.lines().filter_map(|line| {
            let text = line.strip_prefix("syngate: ")?.strip_prefix("warning: ")?;
            Some(text.to_owned())
        });
        let reported = report.and_then(|report| report["warnings"].as_array());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let warnings = match reported {
            Some(all) => all.iter().filter_map(text).collect(),
            None => said_warnings.collect(),
        };
        let message = report.and_then(|report| text(&report["message"]));
        let hold = |field: &str| report.map_or(0, |r| r["hold"][field].as_u64().unwrap_or(0));
        Account {
            shut: sources.spans(),
            ended_ms: sources.ended_ms,
            code: sources.code,
            warnings,
            message: message
                .or_else(|| said.lines().last().and_then(texts))
                .unwrap_or_default(),
            shut_ms: report.and_then(|report| report["closed_ms"].as_f64()),
            not_held: hold("lost") + hold("overflow"),
        }
    }
}

impl Sources<'_> {
    /// From its lines; where these are lost, from the report, which has no more than one.
    fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut shut = None;
        for (at_ms, words) in self.said.lines().filter_map(phase) {
            let at = self.began_ms + at_ms;
            if BEGUN.iter().any(|verb| named(words, verb)) {
                shut.get_or_insert(at);
            } else if named(words, "opened") {
                let from = shut.take();
                spans.extend(from.map(|from_ms| Span {
                    from_ms,
                    until_ms: at,
                }));
            }
        }
        spans.extend(shut.map(|from_ms| Span {
            from_ms,
            until_ms: from_ms.max(self.ended_ms),
        }));
        if spans.is_empty() {
            spans.extend(self.reported_span());
        }
        spans
    }

    fn reported_span(&self) -> Option<Span> {
        let report = self.report?;
        let from_ms = self.began_ms + report["closed_after_ms"].as_f64()?;
        let until_ms = from_ms + report["closed_ms"].as_f64()?;
        Some(Span { from_ms, until_ms })
    }
}

/// Whether a run has said that its gate stood, or a keep that it stands by.
pub fn has_closed(said: &str) -> bool {
    if said.contains(STANDS_BY) {
        return true;
    }
    let mut lines = said.lines().filter_map(phase);
    lines.any(|(_, words)| BEGUN.iter().any(|verb| named(words, verb)))
}

/// The time and the words of a line such as `syngate: +0.0039s closed 80 (nft)`.
pub fn phase(line: &str) -> Option<(f64, &str)> {
    let (at, words) = line.strip_prefix("syngate: +")?.split_once("s ")?;
    Some((at.parse::<f64>().ok()? * 1e3, words))
}

/// Whether the words say that of the port.
fn named(words: &str, verb: &str) -> bool {
    let mut words = words.split(' ');
    words.next() == Some(verb) && words.next().is_some_and(lists)
}

fn lists(ports: &str) -> bool {
    ports.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let bounds = (first.parse(), last.parse());
        matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&PORT))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SAID: &str = "syngate: +0.0015s locked 80\n\
        syngate: +0.0100s closed 80,82 (nft)\n\
        syngate: +0.0200s opened 82\n\
        syngate: +0.0300s opened 80\n\
        syngate: warning: somebody did it\n\
        syngate: +0.0400s closed 1-100 (nft)\n";

    fn sources<'a>(said: &'a str, report: Option<&'a Value>) -> Sources<'a> {
        Sources {
            began_ms: 1000.0,
            ended_ms: 1090.0,
            code: 0,
            said,
            report,
        }
    }

    #[test]
    fn it_is_shut_from_closed_to_opened_or_to_the_end() {
        let account = Account::of(&sources(SAID, None));
        let span = |from_ms, until_ms| Span { from_ms, until_ms };
        assert_eq!(account.shut, [span(1010.0, 1030.0), span(1040.0, 1090.0)]);
        assert_eq!(account.warnings, ["somebody did it"]);
    }

    #[test]
    fn the_report_tells_where_no_line_does() {
        let report = json!({
            "closed_after_ms": 20.0, "closed_ms": 50.0, "warnings": ["one"],
            "hold": { "lost": 1, "overflow": 2 }, "message": "done"
        });
        let account = Account::of(&sources("", Some(&report)));
        assert_eq!(
            (account.shut[0].from_ms, account.shut[0].until_ms),
            (1020.0, 1070.0)
        );
        assert_eq!((account.not_held, account.message.as_str()), (3, "done"));
        assert_eq!(account.warnings, ["one"]);
        assert_eq!(account.shut_ms, Some(50.0));
        assert_eq!(Account::of(&sources("", None)).shut, []);
    }
}
