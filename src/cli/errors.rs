//! One line for each mistake on the command line, which says what would be right. clap's own
//! explanations take several lines.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Subcommand};

use super::args::{Args, Named, Word};
use super::help::SUBJECTS;
use crate::action::list::value_of_syn;
use crate::kernel::service_files;
use crate::process::own_unit::booted;
use crate::words::command_line::command_line;
use crate::words::env::{ENV_PREFIX, LOCK_DIR_VARIABLE, RUN_VARIABLE};
use crate::words::meant::{meant, question};
use crate::words::unit_name::stem;

/// What is wrong, and what would be right. `words`: the call, from the program's name on.
pub(crate) fn one_line(error: &clap::Error, words: &[OsString]) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    if let Some(word) = one_dash(words) {
        return format!("'{word}': a long option has two dashes: -{word}");
    }
    if error.kind() == ErrorKind::UnknownArgument {
        let told = behind_name(&arg, words).or_else(|| unquoted(&arg, words));
        if let Some(why) = told.or_else(|| verb_as_option(&arg, words)) {
            return why;
        }
    }
    match error.kind() {
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map_or_else(String::new, |e| e.to_string());
            let why = why.replace("value was not a boolean", "expected yes or no");
            match why.starts_with(&format!("'{value}'")) {
                true => format!("{}: {why}", origin(&arg, words)),
                false => format!("{}: '{value}': {why}", origin(&arg, words)),
            }
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{} needs a value{}", origin(&arg, words), choices(error))
        }
        ErrorKind::InvalidValue => {
            format!(
                "{}: '{value}' is not one of its values{}{}",
                origin(&arg, words),
                choices(error),
                question(meant(&value, valid_values(error)))
            )
        }
        ErrorKind::TooManyValues => {
            format!("{arg} takes no value; leave out '={value}'")
        }
        ErrorKind::MissingRequiredArgument => missing(error, words),
        ErrorKind::UnknownArgument if !arg.starts_with('-') || arg == "-" => misplaced(&arg, words),
        ErrorKind::UnknownArgument => unknown_option(&arg, words),
        ErrorKind::InvalidUtf8 => not_utf8(words),
        ErrorKind::ArgumentConflict => {
            format!("{} is given twice; leave one of them out", long_name(&arg))
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    }
}

/// The words before COMMAND.
fn own_words(words: &[OsString]) -> impl Iterator<Item = String> {
    let own = words.iter().skip(1).take_while(|word| *word != "--");
    own.map(|word| word.to_string_lossy().into_owned())
}

/// The command that the first word names, and clap's description of it; else that of a run.
fn called(words: &[OsString]) -> (Option<String>, clap::Command) {
    let mut program = Args::command();
    program.build();
    let first = own_words(words).next();
    match first.and_then(|word| program.find_subcommand(word).cloned()) {
        Some(other) => (Some(other.get_name().to_owned()), other),
        None => (None, program),
    }
}

/// `--port`, `--syn`, ...
fn long_options(command: &clap::Command) -> Vec<String> {
    let long = command.get_arguments().filter_map(|arg| arg.get_long());
    long.map(|name| format!("--{name}")).collect()
}

/// `-port` is `-p ort` to clap.
fn one_dash(words: &[OsString]) -> Option<String> {
    let (_, command) = called(words);
    let options = long_options(&command);
    own_words(words).find(|word| options.contains(&format!("-{}", long_name(word))))
}

fn unknown_option(word: &str, words: &[OsString]) -> String {
    let (other, command) = called(words);
    let short = |letter: char| format!("-{}", letter.to_ascii_lowercase());
    let suggested = match word
        .strip_prefix('-')
        .map(|w| w.chars().collect::<Vec<_>>())
    {
        Some(letter) if letter.len() == 1 => command
            .get_arguments()
            .filter_map(|arg| arg.get_short().map(short))
            .find(|name| *name == short(letter[0])),
        // `'--drain 2s'` in quotes is an option and its value.
        _ => meant(long_name(word), long_options(&command)),
    };
    let suggested = suggested.or_else(|| other.is_none().then(|| as_syn(word))?);
    let suggested = suggested.or_else(|| ending_so(word, &command));
    let help = other.map_or_else(String::new, |name| format!(" {name}"));
    format!(
        "unknown option '{word}'{} (see syngate{help} --help)",
        question(suggested)
    )
}

/// `--syn hold` for `--hold`.
fn as_syn(word: &str) -> Option<String> {
    value_of_syn(long_name(word).strip_prefix("--")?).map(|value| format!("--syn {value}"))
}

/// `--ready-timeout or --release-timeout` for `--timeout`: of many, two.
fn ending_so(word: &str, command: &clap::Command) -> Option<String> {
    const MOST: usize = 2;
    let end = long_name(word).strip_prefix('-')?;
    let mut arguments: Vec<&clap::Arg> = command.get_arguments().collect();
    arguments.sort_by_key(|arg| arg.is_hide_short_help_set());
    let long = arguments.iter().filter_map(|arg| arg.get_long());
    let mut options: Vec<String> = long.map(|name| format!("--{name}")).collect();
    options.retain(|option| option.ends_with(end));
    options.truncate(MOST);
    (!options.is_empty()).then(|| options.join(" or "))
}

/// A run by name takes no COMMAND.
fn behind_name(arg: &str, words: &[OsString]) -> Option<String> {
    let verb = called(words).0.filter(|name| Named::has_subcommand(name))?;
    let is_own = own_words(words).any(|word| long_name(&word) == arg);
    let is_behind = words.iter().any(|word| word == "--") && !is_own;
    is_behind.then(|| {
        format!("'{arg}': nothing may come behind --: syngate {verb} runs its own COMMAND")
    })
}

/// The options whose value is a command line.
const COMMAND_LINES: [&str; 4] = [
    "--precheck",
    "--drain-cmd",
    "--ready-check",
    "--listen-netns-from",
];

/// `--precheck haproxy -c`: the shell has made several words of what is one value.
fn unquoted(arg: &str, words: &[OsString]) -> Option<String> {
    let own: Vec<String> = own_words(words).collect();
    let before = own.iter().position(|word| word.starts_with(arg))?;
    let option = own[..before]
        .iter()
        .rposition(|word| COMMAND_LINES.contains(&word.as_str()))?;
    let [value, rest @ ..] = &own[option + 1..before] else {
        return None;
    };
    let is_one_word = !value.contains(char::is_whitespace);
    let is_rest = is_one_word && rest.iter().all(|word| !word.starts_with("--"));
    let (option, word) = (&own[option], &own[before]);
    let unknown = if word.starts_with('-') {
        "unknown option"
    } else {
        "unexpected argument"
    };
    let line = command_line(&[format!("{value} {} …", own.get(before - rest.len())?).into()]);
    is_rest.then(|| {
        format!("{unknown} '{word}'; a CMD of several words needs quotes: {option} {line}")
    })
}

/// `syngate reload haproxy`, for `syngate --reload haproxy`.
fn verb_as_option(arg: &str, words: &[OsString]) -> Option<String> {
    let own: Vec<String> = own_words(words).collect();
    let [option, name] = &own[..] else {
        return None;
    };
    let verb = option.strip_prefix("--")?;
    let is_call = Named::has_subcommand(verb) && !name.starts_with('-');
    let unknown = if arg == name {
        "unexpected argument"
    } else {
        "unknown option"
    };
    is_call.then(|| format!("{unknown} '{arg}'; did you mean syngate {verb} {name}?"))
}

/// `--drain` of `--drain <DUR>`.
fn long_name(arg: &str) -> &str {
    arg.split([' ', '=']).next().unwrap_or(arg)
}

/// The name to blame for a value: the option's, or the variable's if the option was not given.
fn origin(arg: &str, words: &[OsString]) -> String {
    let long = long_name(arg);
    let command = Args::command();
    let option = command
        .get_arguments()
        .find(|a| a.get_long().is_some_and(|name| long == format!("--{name}")));
    let variable = option.and_then(|option| option.get_env());
    let given = words.iter().take_while(|word| *word != "--").any(|word| {
        is_option(
            &word.to_string_lossy(),
            long,
            option.and_then(|o| o.get_short()),
        )
    });
    match variable {
        Some(name) if !given => format!("{} (for {long})", name.to_string_lossy()),
        _ => long.to_owned(),
    }
}

/// `--port`, `--port=80`, `-p`, `-p80`.
fn is_option(word: &str, long: &str, short: Option<char>) -> bool {
    let short = short.is_some_and(|s| word.strip_prefix('-').is_some_and(|w| w.starts_with(s)));
    short
        || word
            .strip_prefix(long)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

const AS_IN: &str = ", as in syngate --port 80 --syn auto -- service haproxy restart";
/// Unicode's dashes, from HYPHEN to HORIZONTAL BAR, and MINUS SIGN: web pages and books print them in
/// place of `-` and `--`, and people copy them.
const NO_HYPHENS: [char; 7] = [
    '\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2015}', '\u{2212}',
];

/// A word stands where an option was expected: there is no `--`, or an option took it for its value.
fn misplaced(word: &str, words: &[OsString]) -> String {
    let before = words
        .iter()
        .position(|word| word == "--")
        .and_then(|at| Some(words[..at].last()?.to_string_lossy()));
    let unexpected = format!("unexpected argument '{word}'");
    if let Some(value) = of_syn(word, words) {
        return format!("{unexpected}: write --syn {value}");
    }
    if let Some(call) = by_name(word, words) {
        return format!("{unexpected}; did you mean {call}?");
    }
    match (before, called(words).0) {
        _ if word.starts_with(NO_HYPHENS) => {
            format!("{unexpected}: it begins with a long dash (– or —); write - or --")
        }
        (Some(option), _) if option.starts_with('-') => format!("{option} needs a value"),
        _ if word
            .bytes()
            .all(|b| b.is_ascii_digit() || b",-".contains(&b))
            && word != "-" =>
        {
            format!("{unexpected}: ports come behind --port, with commas between: --port 80,443")
        }
        (_, Some(other)) if Named::has_subcommand(&other) => {
            format!("{unexpected}{}", second_name(words))
        }
        (_, Some(other)) => match takes_ports(&other, word) {
            Some(takes) => format!("{unexpected}{takes}"),
            None => format!("{unexpected} (see syngate {other} --help)"),
        },
        (_, None) if Word::is_one(word.as_ref()) => {
            format!("put {word} first: syngate {}", with_first(word, words))
        }
        (Some(_), None) => format!("{unexpected}: only options come before --{AS_IN}"),
        _ if words.get(1).is_some_and(|first| first == "help") => {
            let subjects = SUBJECTS.iter().map(|subject| subject.name.to_owned());
            let taken: Vec<String> = Word::names().into_iter().chain(subjects).collect();
            format!("syngate help takes one of {}", taken.join(", "))
        }
        (None, None) => {
            let first = own_words(words).next().is_some_and(|first| first == word);
            if let Some(why) = no_command(word).filter(|_| first) {
                return why;
            }
            match meant(word, Word::names()).filter(|_| first) {
                Some(name) => {
                    format!("{unexpected}; did you mean {name}? (COMMAND comes behind --)")
                }
                None if first && is_service(word) => {
                    format!("{unexpected}; did you mean syngate restart {word}?")
                }
                None => format!("{unexpected}: put -- before COMMAND{AS_IN}"),
            }
        }
    }
}

/// `syngate restart` and the like take one NAME, and clap takes the first word for it.
fn second_name(words: &[OsString]) -> &'static str {
    let is_port = |word: String| word.bytes().all(|byte| byte.is_ascii_digit());
    match own_words(words)
        .zip(own_words(words).skip(1))
        .any(|(one, next)| is_port(one) && is_port(next))
    {
        true => ": ports come behind --port, with commas between: --port 80,443",
        false => ": one NAME at a time; call syngate once for each service",
    }
}

/// Whether there is an init script or a unit of that name.
fn is_service(word: &str) -> bool {
    let units = service_files::units().filter(|_| booted());
    service_files::scripts()
        .chain(units)
        .any(|name| stem(&name) == word)
}

/// What the commands take that have no NAME.
fn takes_ports(command: &str, word: &str) -> Option<String> {
    match command {
        "keep" if booted() => Some(format!("; did you mean syngate keep --unit {word}?")),
        "keep" | "status" | "clear" => Some(format!(
            ": syngate {command} takes ports, as in syngate {command} --port 80"
        )),
        _ => None,
    }
}

/// The call with that word before the others.
fn with_first(word: &str, words: &[OsString]) -> String {
    let mut own: Vec<OsString> = own_words(words).map(OsString::from).collect();
    let at = own.iter().position(|other| other == word);
    at.into_iter().for_each(|at| own[..=at].rotate_right(1));
    command_line(&own)
}

/// What other programs have, and syngate has not or by another name.
const OF_OTHERS: [(&str, Option<&str>); 8] = [
    ("stop", None),
    ("start", None),
    ("close", None),
    ("lock", None),
    ("list", Some("status")),
    ("show", Some("status")),
    ("open", Some("clear")),
    ("unlock", Some("clear")),
];

fn no_command(word: &str) -> Option<String> {
    let (_, meant) = OF_OTHERS.iter().find(|(other, _)| *other == word)?;
    let all = Word::names().join(", ");
    Some(format!(
        "{word}: no such command ({all}){}",
        question(*meant)
    ))
}

/// `syngate restart haproxy`, for `syngate haproxy restart`: service(8) has them in that order.
fn by_name(word: &str, words: &[OsString]) -> Option<String> {
    let own: Vec<String> = own_words(words).collect();
    let [name, verb] = &own[..] else {
        return None;
    };
    let is_call = name == word && Named::has_subcommand(verb) && !name.starts_with('-');
    is_call.then(|| format!("syngate {verb} {name}"))
}

/// `redirect=8080`, where `8080` stands behind `--syn redirect`.
fn of_syn(word: &str, words: &[OsString]) -> Option<String> {
    let own: Vec<String> = own_words(words).collect();
    let before = own.windows(2).find(|pair| pair[1] == word)?;
    let (name, _) = value_of_syn(&before[0])?.split_once('=')?;
    Some(format!("{name}={word}"))
}

/// clap does not say which word is not UTF-8.
fn not_utf8(words: &[OsString]) -> String {
    let shown = |word: &OsString| word.to_string_lossy().into_owned();
    let mut previous = String::new();
    for word in words.iter().take_while(|word| *word != "--") {
        if word.to_str().is_none() {
            return format!("{previous} '{}': not UTF-8", shown(word))
                .trim_start()
                .to_owned();
        }
        previous = shown(word);
    }
    let wrong = std::env::vars_os().find(|(name, value)| {
        name.to_string_lossy().starts_with(ENV_PREFIX) && value.to_str().is_none()
    });
    match wrong {
        Some((name, value)) => format!("{}: '{}': not UTF-8", shown(&name), shown(&value)),
        None => "an option is not UTF-8".to_owned(),
    }
}

fn choices(error: &clap::Error) -> String {
    match valid_values(error) {
        values if values.is_empty() => String::new(),
        values => format!("; expected {}", values.join(", ")),
    }
}

fn valid_values(error: &clap::Error) -> Vec<String> {
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => values.clone(),
        _ => Vec::new(),
    }
}

const PORT_VARIABLE: &str = "SYNGATE_PORT";

fn missing(error: &clap::Error, words: &[OsString]) -> String {
    if let Some(other) = called(words).0 {
        if Named::has_subcommand(&other) {
            return format!(
                "NAME is missing: which service to {other}, as in syngate {other} haproxy"
            );
        }
        let such = if booted() {
            "--unit haproxy"
        } else {
            "--port 80"
        };
        return format!(
            "--port or --unit is missing: which service to {other}, as in syngate {other} {such}"
        );
    }
    let missing = error
        .get(ContextKind::InvalidArg)
        .map(ToString::to_string)
        .unwrap_or_default();
    if missing.contains("--port") {
        let empty = std::env::var_os(PORT_VARIABLE).is_some_and(|value| value.is_empty());
        let empty = empty.then(|| format!("{PORT_VARIABLE} is empty"));
        let mistaken = mistaken_variables().into_iter().chain(empty);
        let mistaken: String = mistaken.map(|what| format!("; {what}")).collect();
        format!(
            "--port is missing: which ports to gate, as in \
             syngate --port 80,443 -- service haproxy restart{mistaken}"
        )
    } else {
        "COMMAND is missing: put it behind --, as in \
         syngate --port 80 --syn auto -- service haproxy restart"
            .to_owned()
    }
}

/// A line for each variable with our prefix that syngate does not read: misspelt ones, and those named
/// after an option whose value is code.
pub(crate) fn mistaken_variables() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter_map(|name| mistaken(&name)).collect()
}

fn mistaken(name: &str) -> Option<String> {
    let rest = name.strip_prefix(ENV_PREFIX)?;
    let program = Args::command();
    let read = program.get_arguments().filter_map(|arg| arg.get_env());
    let mut read: Vec<&str> = read.filter_map(OsStr::to_str).collect();
    read.extend([LOCK_DIR_VARIABLE, RUN_VARIABLE]);
    if read.contains(&name) {
        return None;
    }
    let long = rest.to_ascii_lowercase().replace('_', "-");
    let options = program
        .get_arguments()
        .filter(|arg| arg.get_action().takes_values());
    let code = options
        .filter_map(|arg| arg.get_long())
        .any(|option| option == long);
    if code {
        return Some(format!(
            "{name} has no effect: --{long} runs a command, and syngate takes such options from the command line only"
        ));
    }
    let read = read.iter().filter_map(|name| name.strip_prefix(ENV_PREFIX));
    meant(rest, read)
        .map(|meant| format!("{name} has no effect; did you mean {ENV_PREFIX}{meant}?"))
}
