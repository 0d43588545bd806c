//! What syngate says. Each message is in a list that people read when one changes, the documents quote
//! none that is gone, and docs/messages.md shows what calls print.

mod messages_parts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use messages_parts::{Situation, alike, messages, situations};
use testkit::Host;

/// `write`: what is printed takes the place of what is documented.
const VARIABLE: &str = "SYNGATE_MESSAGES";
const LIST: &str = "tests/messages_parts/list.txt";
const SITUATIONS: &str = "docs/messages.md";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn writes() -> bool {
    std::env::var(VARIABLE).is_ok_and(|value| value == "write")
}

// The list ---------------------------------------------------------------------------------------

const HEAD: &str = "\
Every message of syngate, as the sources have it, folder by folder. Read each new line as somebody would at
3 a.m., in a second language: who did what, what follows, what to do? It must be clear at the first reading.
";

fn shown(messages: &BTreeMap<String, BTreeSet<String>>) -> String {
    let folder = |(name, texts): (&String, &BTreeSet<String>)| {
        let lines: String = texts.iter().map(|text| format!("{text}\n")).collect();
        format!("\n[src/{name}]\n{lines}")
    };
    HEAD.to_owned() + &messages.iter().map(folder).collect::<String>()
}

#[test]
fn each_message_is_in_the_list() {
    let list = shown(&messages(&path("src")));
    if writes() {
        fs::write(path(LIST), &list).unwrap();
    }
    let known = fs::read_to_string(path(LIST)).unwrap_or_default();
    if list == known {
        return;
    }
    let lines = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
    let (now, known) = (lines(&list), lines(&known));
    let signed = |sign: &str, texts: Vec<&String>| -> String {
        texts
            .iter()
            .map(|text| format!("{sign} {text}\n"))
            .collect()
    };
    panic!(
        "{LIST} is not what src says:\n{}{}\nRead each new message: is it clear at the first reading, at 3 a.m., in \
         a second language? Who did what, what follows, what to do? Then\n    {VARIABLE}=write cargo test --test \
         messages each_message_is_in_the_list",
        signed("-", known.difference(&now).collect()),
        signed("+", now.difference(&known).collect())
    );
}

#[test]
fn messages_are_told_from_other_texts() {
    use messages_parts::texts_of;
    let source = r###"
        #![allow(missing_docs)]
        /// A comment of several words.
        #[arg(help = "some words of help")]
        fn f(x: u8) -> String {
            y.expect("never seen by people");
            assert!(x > 0, "never seen either");
            unreachable!("nor this one");
            let raw = r#"raw "quoted" words"#;
            format!("one line \
                     and {x} more\n", b"bytes of words")
        }
        #[cfg(test)]
        mod tests { const T: &str = "words of a test"; }
    "###;
    assert_eq!(
        texts_of(source),
        [r#"raw "quoted" words"#, r"one line and {x} more\n"]
    );
}

// The documents ----------------------------------------------------------------------------------

/// What the first columns of tables quote of syngate. Others are quoted behind their names.
fn quoted(document: &str) -> Vec<String> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let first = rows.filter_map(|row| row.split(" | ").next());
    let spans = first.flat_map(|cell| cell.split('`').step_by(2));
    spans
        .map(|quote| quote.trim_start_matches("warning: ").to_owned())
        .collect()
}

/// The share of words that stand in a message as they are quoted, three at least in a row.
fn known_share(quote: &[String], messages: &[Vec<String>]) -> f64 {
    let is_there = |some: &[String]| messages.iter().any(|m| m.windows(3).any(|w| w == some));
    let mut known = vec![false; quote.len()];
    for (n, some) in quote.windows(3).enumerate() {
        if is_there(some) {
            known[n..n + 3].fill(true);
        }
    }
    known.iter().filter(|known| **known).count() as f64 / quote.len() as f64
}

/// Numbers are examples, and placeholders stand for them.
fn words_of(text: &str) -> Vec<String> {
    let is_example = |word: &&str| word.contains(|c: char| c.is_ascii_digit() || c == '{');
    let words = text.split_whitespace().filter(|word| !is_example(word));
    let words = words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '-'));
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_documents_quote_what_syngate_says() {
    let messages = messages(&path("src"));
    let all: Vec<Vec<String>> = messages.values().flatten().map(|m| words_of(m)).collect();
    // Names are examples as well.
    let is_gone = |words: &[String]| words.len() > 4 && known_share(words, &all) < 0.4;
    let mut gone = Vec::new();
    for (file, section) in [
        ("docs/troubleshooting.md", "# Troubleshooting"),
        ("README.md", "## Troubleshooting"),
    ] {
        let text = read(file);
        let (_, text) = text.split_once(section).expect(section);
        let quotes = quoted(text.split("\n## Contributing").next().unwrap());
        assert!(quotes.len() >= 8, "{file}: {quotes:?}");
        let quotes = quotes.iter().filter(|quote| is_gone(&words_of(quote)));
        gone.extend(quotes.map(|quote| format!("{file}: {quote}")));
    }
    assert!(gone.is_empty(), "not said any more:\n{}", gone.join("\n"));
    let invented = "the gate has been shut by the moon in the night";
    assert!(is_gone(&words_of(invented)));
}

// The situations ---------------------------------------------------------------------------------

/// The service of docs/messages.md.
const WEB: &str = include_str!("messages_parts/web.py");

/// A host with the programs that the document calls.
fn host() -> Host {
    let host = Host::new().unwrap();
    let bin = host.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["service", "client"] {
        let file = bin.join(name);
        fs::write(&file, WEB).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_syngate"), bin.join("syngate")).unwrap();
    host
}

/// Runs the commands of a situation, one after the other. The service runs before.
fn carried_out(situation: &Situation) -> Situation {
    let host = host();
    let path = format!(
        "{}:{}",
        host.dir().join("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let run = |line: &str| {
        let mut shell = host.command("sh");
        shell.args(["-c", &format!("exec 2>&1; {line}")]);
        let shell = shell.env("PATH", &path).stdin(Stdio::null());
        let ran = testkit::Ran::from(shell.output().unwrap());
        let mut printed: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
        if ran.code() != 0 {
            printed.push(format!("[{}]", ran.code()));
        }
        printed
    };
    assert_eq!(run("service web start"), [""; 0]);
    let step = |(command, _): &(String, Vec<String>)| (command.clone(), run(command));
    Situation {
        title: situation.title.clone(),
        steps: situation.steps.iter().map(step).collect(),
    }
}

fn is_as_told(told: &Situation, seen: &Situation) -> bool {
    let lines = |of: &Situation| -> Vec<String> { of.shown().lines().map(str::to_owned).collect() };
    let (told, seen) = (lines(told), lines(seen));
    told.len() == seen.len() && told.iter().zip(&seen).all(|(one, other)| alike(one, other))
}

#[test]
fn situations_print_what_is_documented() {
    let document = read(SITUATIONS);
    let told = situations(&document);
    assert!(told.len() >= 30, "{}", told.len());
    let seen: Vec<Situation> = thread::scope(|threads| {
        let mut seen = Vec::new();
        // A few at a time: each has a host of its own.
        for some in told.chunks(4) {
            let running: Vec<_> = some
                .iter()
                .map(|one| threads.spawn(move || carried_out(one)))
                .collect();
            seen.extend(running.into_iter().map(|one| one.join().unwrap()));
        }
        seen
    });
    let mut corrected = document.clone();
    let mut wrong = String::new();
    for (told, seen) in told.iter().zip(&seen) {
        if !is_as_told(told, seen) {
            corrected = corrected.replacen(&told.shown(), &seen.shown(), 1);
            let (title, told, seen) = (&told.title, told.shown(), seen.shown());
            wrong.push_str(&format!(
                "{title}: documented is\n{told}and this is printed:\n{seen}\n"
            ));
        }
    }
    if writes() {
        fs::write(path(SITUATIONS), corrected).unwrap();
    } else {
        assert!(
            wrong.is_empty(),
            "{wrong}If each line is right, and clear at the first reading:\n    {VARIABLE}=write cargo test --test \
             messages situations"
        );
    }
}

#[test]
fn lines_are_alike_but_for_times_and_processes() {
    assert!(alike(
        "80 was closed for 98 ms, 0 SYNs dropped",
        "80 was closed for 1.2 s, 0 SYNs dropped"
    ));
    assert!(alike("web (pid 12) listened", "web (pid 345) listened"));
    for (one, other) in [
        ("0 SYNs dropped", "1 SYNs dropped"),
        ("--drain 1s was over", "--drain 2s was over"),
        ("closed for 98 ms, 0", "closed for 98 ms, 1"),
    ] {
        assert!(!alike(one, other), "{one}");
    }
}
