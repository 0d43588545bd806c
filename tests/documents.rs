//! The documents say what the program does, no less and no more: every option with its default and
//! its values, every variable, every exit status, in --help, the man page, the README, and the
//! completions.

mod documents_parts;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::{CommandFactory, Parser, error::ErrorKind};
use documents_parts::{Block, Man, calls, code_blocks, code_spans, option_table, words};
use serde_json::Value;
use syngate::{
    Args, ENV_PREFIX, JOURNAL_VARIABLE, LOCK_DIR_VARIABLE, NOT_EXECUTABLE, NOT_FOUND, NOT_KEPT,
    NOT_RUN, RUN_VARIABLE, limits,
};

// The program ------------------------------------------------------------------------------------

/// An option, as clap has it.
struct Opt {
    /// `-p`, `--port`.
    names: Vec<String>,
    /// What it is without the option.
    default: Option<String>,
    /// The words that it takes, if it takes no others.
    values: Vec<String>,
    /// The variable that it is also read from.
    variable: Option<String>,
    /// `--help` and `--version` belong to every program: a README need not tell them.
    usual: bool,
}

impl Opt {
    fn long(&self) -> &str {
        self.names.last().expect("each option has a long name")
    }
}

fn options() -> Vec<Opt> {
    options_of(&program())
}

fn program() -> clap::Command {
    let mut command = Args::command();
    command.build();
    command
}

/// What else it does: `status` and its kin, each with its options.
fn other_commands() -> Vec<(String, Vec<Opt>)> {
    let program = program();
    let commands = program.get_subcommands();
    commands
        .map(|c| (c.get_name().to_owned(), options_of(c)))
        .collect()
}

/// The options of all of them.
fn all_names() -> BTreeSet<String> {
    let others = other_commands();
    let others = others.iter().flat_map(|(_, options)| names(options));
    names(&options()).into_iter().chain(others).collect()
}

fn options_of(command: &clap::Command) -> Vec<Opt> {
    // Of a run by name, the options of runs are hidden: they are told once.
    let own = |arg: &&clap::Arg| !arg.is_positional() && !arg.is_hide_set();
    let options = command.get_arguments().filter(own);
    options
        .map(|arg| {
            let takes_value = arg.get_action().takes_values();
            let short = arg.get_short().map(|s| format!("-{s}"));
            let long = arg.get_long().map(|l| format!("--{l}"));
            let shown = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
            Opt {
                names: short.into_iter().chain(long).collect(),
                default: takes_value
                    .then(|| arg.get_default_values().first().map(|d| shown(d)))
                    .flatten(),
                values: if takes_value {
                    let values = arg.get_possible_values();
                    values.iter().map(|v| v.get_name().to_owned()).collect()
                } else {
                    Vec::new()
                },
                variable: arg.get_env().map(shown),
                usual: matches!(arg.get_id().as_str(), "help" | "version"),
            }
        })
        .collect()
}

fn names(options: &[Opt]) -> BTreeSet<String> {
    options.iter().flat_map(|o| o.names.clone()).collect()
}

fn syngate(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_syngate"))
        .args(args)
        .env_clear()
        .output()
        .expect("syngate starts");
    assert!(output.status.success(), "syngate {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

// The documents ----------------------------------------------------------------------------------

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Both say the same, or the test says what is missing where.
fn assert_same<T: Ord + Debug>(
    document: &str,
    documented: &BTreeSet<T>,
    program: &str,
    real: &BTreeSet<T>,
) {
    let lacks: Vec<_> = real.difference(documented).collect();
    let invents: Vec<_> = documented.difference(real).collect();
    assert!(
        lacks.is_empty() && invents.is_empty(),
        "{document} lacks {lacks:?}, and has {invents:?}, which {program} does not have"
    );
}

/// Whether `phrase` is in `text`, word for word.
fn says(text: &[String], phrase: &str) -> bool {
    let phrase = words(phrase);
    text.windows(phrase.len()).any(|w| w == phrase)
}

/// `redirect` of `redirect=PORT`.
fn kind(value: &str) -> &str {
    value.split('=').next().unwrap_or(value)
}

/// What the option's block must say about it.
fn assert_block_tells(block: &Block, option: &Opt) {
    let name = option.long();
    if let Some(default) = &option.default {
        let phrase = format!("default is {default}");
        assert!(
            says(&block.words(), &phrase),
            "man, {name}: not '{phrase}': {}",
            block.words().join(" ")
        );
    }
    if !option.values.is_empty() {
        let values = option.values.iter().map(|value| kind(value).to_owned());
        let values: BTreeSet<String> = values.collect();
        assert_same(
            &format!("man, {name}:"),
            &block.items_of("Cm"),
            "syngate",
            &values,
        );
    }
}

/// Each call of syngate in `text` is one that it takes.
fn assert_calls_parse(document: &str, text: &str, at_least: usize) {
    let calls = calls(text);
    assert!(
        calls.len() >= at_least,
        "{document}: only {} calls of syngate are seen: {calls:?}",
        calls.len()
    );
    for call in calls {
        match Args::try_parse_from(&call) {
            Ok(_) => (),
            Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => (),
            Err(e) => panic!("{document}: {call:?}: {e}"),
        }
    }
}

// --help -----------------------------------------------------------------------------------------

#[test]
fn help_has_every_option() {
    let text = words(&syngate(&["--help"]));
    for option in options() {
        for name in &option.names {
            assert!(text.contains(name), "syngate --help lacks {name}");
        }
    }
}

/// An emergency's screen may be a small one; each line is for something that is often used.
#[test]
fn short_help_is_one_screen() {
    let text = syngate(&["-h"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() <= 48, "{} lines:\n{text}", lines.len());
    let wide = lines.iter().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None);
    let last = lines.last().unwrap();
    assert!(last.contains("--help") && last.contains("man syngate"));

    let told = words(&text);
    let program = program();
    let shown = program
        .get_arguments()
        .filter(|a| !a.is_hide_short_help_set());
    let shown: BTreeSet<String> = shown
        .filter_map(|a| a.get_long())
        .map(|l| format!("--{l}"))
        .collect();
    let named = told.iter().filter(|w| w.starts_with("--") && *w != "--");
    assert_same(
        "syngate -h",
        &named.cloned().collect(),
        "src/cli/args.rs",
        &shown,
    );
    for often in [
        "--port",
        "--syn",
        "--drain",
        "--precheck",
        "--dry-run",
        "--help",
    ] {
        assert!(shown.contains(often), "{often}");
    }
    for variable in options().into_iter().filter_map(|o| o.variable) {
        assert!(!text.contains(&variable), "-h is no place for {variable}");
    }
}

/// The same groups, in the same order; and no option is in none.
#[test]
fn help_is_grouped() {
    let program = program();
    let mut groups: Vec<&str> = Vec::new();
    for arg in program.get_arguments().filter(|a| !a.is_positional()) {
        let group = arg.get_help_heading();
        let group = group.unwrap_or_else(|| panic!("{} is in no group", arg.get_id()));
        if groups.last() != Some(&group) {
            groups.push(group);
        }
    }
    let once: BTreeSet<&str> = groups.iter().copied().collect();
    assert_eq!(
        once.len(),
        groups.len(),
        "a group is in one place: {groups:?}"
    );
    let long = syngate(&["--help"]);
    let places: Vec<usize> = groups
        .iter()
        .map(|group| long.find(&format!("\n{group}:\n")).expect(group))
        .collect();
    assert!(places.is_sorted(), "{groups:?}");
    let short = syngate(&["-h"]);
    let headings: Vec<&str> = short.lines().filter_map(|l| l.strip_suffix(':')).collect();
    let known = headings.iter().filter(|h| groups.contains(h));
    let in_order: Vec<&&str> = groups.iter().filter(|g| headings.contains(g)).collect();
    assert_eq!(known.collect::<Vec<_>>(), in_order);
    assert!(in_order.len() >= 5, "{short}");
}

/// What else sets it, what it is without, and what it takes.
#[test]
fn long_help_tells_all() {
    let text = words(&syngate(&["--help"]));
    for option in options() {
        if let Some(variable) = &option.variable {
            let phrase = format!("[env: {variable}=]");
            assert!(says(&text, &phrase), "--help lacks {phrase}");
        }
        let values = option.values.iter().map(|value| format!("- {value}:"));
        for value in values.filter(|_| option.long() != "--syn") {
            assert!(
                says(&text, &value),
                "--help lacks '{value}', of {}",
                option.long()
            );
        }
        if let Some(default) = &option.default {
            let phrase = format!("[default: {default}]");
            assert!(says(&text, &phrase), "--help lacks {phrase}");
        }
    }
}

#[test]
fn version_is_the_package_s() {
    let expected = format!("syngate {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(syngate(&["--version"]), expected);
    assert_eq!(syngate(&["-V"]), expected);
}

// The manual -------------------------------------------------------------------------------------

/// What has a page of its own, and how many lines it may have as `man` prints it, 80 columns wide.
const LONGEST: [(&str, usize); 9] = [
    ("syngate.8", 600),
    ("syngate-check.8", 100),
    ("syngate-clear.8", 100),
    ("syngate-keep.8", 300),
    ("syngate-restart.8", 305),
    ("syngate-status.8", 100),
    ("syngate-report.5", 450),
    ("syngate-actions.7", 850),
    ("syngate-gate.7", 900),
];

/// More names for a page: files that lead to it.
const ALSO: [(&str, &str); 2] = [
    ("syngate-reload.8", "syngate-restart.8"),
    ("syngate-run.8", "syngate-restart.8"),
];

/// The options of a run that few need are the last ones in the manual, and `-h` has none of them.
const RARE: &str = "OPTIONS FOR RARE NEEDS";

fn man(page: &str) -> Man {
    Man::parse(&read(&format!("man/{page}")))
}

fn manual() -> impl Iterator<Item = (&'static str, Man)> {
    LONGEST.iter().map(|(page, _)| (*page, man(page)))
}

/// `syngate-check.8` of `syngate-check` and `8`.
fn file_of(name: &str, section: &str) -> String {
    format!("{name}.{section}")
}

/// The options in a page's items, in all sections.
fn items_of_options(page: &Man) -> BTreeSet<String> {
    let items = page.items("Fl");
    items.iter().flat_map(Block::head_flags).collect()
}

#[test]
fn the_manual_has_these_pages() {
    let folder = fs::read_dir(path("man")).unwrap();
    let there = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
    let pages = LONGEST.iter().map(|(page, _)| page);
    let known = pages.chain(ALSO.iter().map(|(name, _)| name));
    assert_same(
        "man/",
        &there.collect(),
        "this test",
        &known.map(|page| (*page).to_owned()).collect(),
    );
    for (name, page) in ALSO {
        assert_eq!(read(&format!("man/{name}")), format!(".so man8/{page}\n"));
    }
    for (command, _) in other_commands() {
        assert!(
            path(&format!("man/syngate-{command}.8")).exists(),
            "{command}"
        );
    }
}

#[test]
fn man_is_clean_mdoc() {
    for (page, _) in LONGEST {
        let output: Output = Command::new("mandoc")
            .args(["-Tlint", "-W", "warning"])
            .arg(path(&format!("man/{page}")))
            .output()
            .expect("mandoc is needed (Debian: apt-get install mandoc)");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // Examples come first here: that is where readers look for them.
        let wrong = said
            .lines()
            .filter(|line| !line.contains("sections out of conventional order"));
        assert_eq!(wrong.collect::<Vec<_>>(), [""; 0], "{page}");

        let groff: Output = Command::new("groff")
            .args(["-ww", "-mdoc", "-Tutf8"])
            .arg(path(&format!("man/{page}")))
            .output()
            .expect("groff is needed (Debian: apt-get install groff-base)");
        let said = String::from_utf8_lossy(&groff.stderr);
        assert!(groff.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn no_page_is_too_long() {
    for (page, longest) in LONGEST {
        let shown = Command::new("man")
            .args(["-P", "cat"])
            .arg(path(&format!("man/{page}")))
            .env("MANWIDTH", "80")
            .output()
            .expect("man is needed (Debian: apt-get install man-db)");
        let lines = String::from_utf8_lossy(&shown.stdout).lines().count();
        assert!(lines > 40, "{page}: {shown:?}");
        assert!(lines <= longest, "{page}: {lines} lines");
    }
}

/// Each option of a run in syngate(8), and each of another command in that one's page.
#[test]
fn man_documents_each_option_on_one_page_and_no_other() {
    let options = options();
    let main = man("syngate.8");
    let blocks = main.items("Fl");
    for option in &options {
        let of_option = |b: &&Block| b.head_flags().contains(option.long());
        let found: Vec<&Block> = blocks.iter().filter(of_option).collect();
        let [block] = found[..] else {
            panic!("syngate.8: {} items for {}", found.len(), option.long());
        };
        let expected = option.names.iter().cloned().collect();
        assert_same("man, item", &block.head_flags(), "syngate", &expected);
        assert_block_tells(block, option);
    }
    assert_eq!(blocks.len(), options.len());
    assert_eq!(
        main.section("OPTIONS").items("Fl").len() + main.section(RARE).items("Fl").len(),
        options.len()
    );

    for (name, mut options) in other_commands() {
        options.retain(|option| !option.usual);
        let file = format!("syngate-{name}.8");
        let file = ALSO
            .iter()
            .find(|(also, _)| *also == file)
            .map_or(&*file, |(_, page)| page);
        let page = man(file);
        let program = format!("syngate {name}");
        assert_same(file, &items_of_options(&page), &program, &names(&options));
        let synopsis = page.section("SYNOPSIS").flags();
        assert_same(file, &synopsis, &program, &names(&options));
        for option in options {
            let blocks = page.items("Fl");
            let block = blocks
                .iter()
                .find(|b| b.head_flags().contains(option.long()));
            assert_block_tells(block.expect("it is there, see above"), &option);
        }
    }

    for page in ["syngate-report.5", "syngate-actions.7", "syngate-gate.7"] {
        assert_eq!(items_of_options(&man(page)), BTreeSet::new(), "{page}");
    }
}

#[test]
fn short_help_has_no_option_for_rare_needs() {
    let section = man("syngate.8").section(RARE);
    let rare = items_of_options(&section);
    let program = program();
    let hidden = program
        .get_arguments()
        .filter(|a| a.is_hide_short_help_set());
    let hidden: BTreeSet<String> = hidden
        .filter_map(|a| a.get_long())
        .map(|l| format!("--{l}"))
        .collect();
    let shown: Vec<_> = rare.difference(&hidden).collect();
    assert!(rare.len() > 10 && shown.is_empty(), "{shown:?}");
}

/// Options, and calls, that are only mentioned.
#[test]
fn man_names_no_option_and_no_call_that_syngate_does_not_take() {
    let real = all_names();
    for (page, text) in manual() {
        let invented: Vec<_> = text.flags().difference(&real).cloned().collect();
        assert!(invented.is_empty(), "{page}: {invented:?}");
        let quoted = text.quoted();
        let mentioned = quoted.iter().filter(|text| text.starts_with("--"));
        for word in mentioned.flat_map(|text| text.split(' ')) {
            let name = word.split('=').next().unwrap();
            assert!(
                !name.starts_with("--") || real.contains(name),
                "{page}: there is no {name}"
            );
        }
        let calls = quoted.iter().filter(|text| text.starts_with("syngate "));
        for call in calls.flat_map(|text| documents_parts::calls(text)) {
            let wrong = Args::try_parse_from(&call).err();
            // A call that is only mentioned may lack what it needs.
            let unknown = [ErrorKind::UnknownArgument, ErrorKind::InvalidSubcommand];
            let wrong = wrong.filter(|e| unknown.contains(&e.kind()));
            assert!(wrong.is_none(), "{page}: {call:?}: {wrong:?}");
        }
    }
}

#[test]
fn man_has_examples_that_syngate_takes() {
    for (page, text) in manual() {
        if text.headings().contains("EXAMPLES") {
            let at_least = if page == "syngate.8" { 10 } else { 1 };
            assert_calls_parse(page, &text.section("EXAMPLES").literal(), at_least);
        }
    }
}

/// Sections of the page itself, other pages of ours, and sections of those.
#[test]
fn references_in_the_manual_lead_somewhere() {
    for (page, text) in manual() {
        let headings = text.headings();
        for section in text.arguments_in_full("Sx") {
            assert!(headings.contains(&section), "{page}: no {section}");
        }
        let see_also = text.section("SEE ALSO").references();
        assert!(
            page == "syngate.8" || see_also.contains(&file_of("syngate", "8")),
            "{page}"
        );
        for there in text.references() {
            assert!(
                !there.starts_with("syngate") || path(&format!("man/{there}")).exists(),
                "{page}: {there}"
            );
        }
        for (section, there) in text.sections_elsewhere() {
            let headings = man(&there).headings();
            assert!(
                headings.contains(&section),
                "{page}: {there} has no {section}"
            );
        }
    }
}

/// `man syngate-check`, and `man syngate-run`, find their pages where `make install` has put them.
#[test]
fn man_finds_each_page_that_make_installs() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
    let _ = fs::remove_dir_all(&root);
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.args(["--silent", target, "PREFIX=", "BUILT=/bin/true"]);
        make.arg(format!("DESTDIR={}", root.display()));
        let made = make.current_dir(path("")).output().unwrap();
        assert!(made.status.success(), "make {target}: {made:?}");
    };
    make("install");
    let folder = root.join("share/man");
    let pages = LONGEST.iter().map(|(page, _)| (*page, *page));
    for (name, page) in pages.chain(ALSO) {
        let (name, section) = name.split_once('.').unwrap();
        let shown = Command::new("man")
            .args(["-P", "cat", "-M"])
            .arg(&folder)
            .args([section, name])
            .output()
            .expect("man is needed (Debian: apt-get install man-db)");
        let text = String::from_utf8_lossy(&shown.stdout).to_lowercase();
        let (title, section) = page.split_once('.').unwrap();
        assert!(
            text.starts_with(&format!("{title}({section})")),
            "{name}: {shown:?}"
        );
    }
    make("uninstall");
    let sections = fs::read_dir(folder).unwrap();
    for section in sections.map(|section| section.unwrap().path()) {
        assert_eq!(fs::read_dir(&section).unwrap().count(), 0, "{section:?}");
    }
    fs::remove_dir_all(root).unwrap();
}

/// `man syngate-check`, and the unit's `man:syngate-keep(8)`.
#[test]
fn pages_of_the_manual_that_others_name_exist() {
    let units = fs::read_dir(path("contrib/systemd")).unwrap();
    let units = units.map(|file| file.unwrap().file_name().into_string().unwrap());
    let units = units
        .filter(|name| name.ends_with(".service"))
        .map(|name| format!("contrib/systemd/{name}"));
    let mut seen = 0;
    for file in pages().into_iter().chain(units) {
        let text = read(&file);
        for call in text.split("man syngate").skip(1) {
            let rest = call.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let name = format!("syngate{}", rest.map(str::to_owned).next().unwrap());
            let there =
                (1..=8).any(|n| path(&format!("man/{}", file_of(&name, &n.to_string()))).exists());
            assert!(there, "{file}: man {name}");
            seen += 1;
        }
        for page in text.split("man:syngate").skip(1) {
            let (name, section) = page.split_once('(').unwrap();
            let page = file_of(&format!("syngate{name}"), &section[..1]);
            assert!(path(&format!("man/{page}")).exists(), "{file}: {page}");
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn help_names_the_page_of_each_word() {
    let mut words: Vec<String> = other_commands().into_iter().map(|(name, _)| name).collect();
    words.extend(["actions", "gate", "report"].map(str::to_owned));
    for word in words {
        let page = [5, 7, 8].map(|section| format!("syngate-{word}.{section}"));
        let page = page
            .into_iter()
            .find(|page| path(&format!("man/{page}")).exists());
        let page = page.unwrap_or_else(|| panic!("no page of {word}"));
        let page = ALSO
            .iter()
            .find(|(also, _)| *also == page)
            .map_or(&*page, |(_, page)| page);
        let name = page.split_once('.').unwrap().0;
        let said = syngate(&["help", &word]);
        assert!(
            said.ends_with(&format!("The manual: man {name}\n")),
            "{said}"
        );
    }
}

#[test]
fn help_of_the_actions_has_each_action() {
    let said = syngate(&["help", "actions"]);
    for option in options().iter().filter(|o| o.long() == "--syn") {
        for value in &option.values {
            assert!(said.contains(&format!("- {value}:")), "{value}: {said}");
        }
    }
    assert!(
        said.contains("--linger") && !said.contains("--drain"),
        "{said}"
    );
}

/// The rule that the manual gives, and what it says of options that have no variable.
#[test]
fn man_tells_which_options_have_a_variable() {
    let program = program();
    for arg in program.get_arguments().filter(|a| !a.is_positional()) {
        let long = arg.get_long().unwrap();
        let code = arg
            .get_value_names()
            .is_some_and(|names| names.iter().any(|name| name == "CMD"));
        let none = code || ["container", "help", "version"].contains(&long);
        let by_rule = format!("{ENV_PREFIX}{}", long.to_uppercase().replace('-', "_"));
        let variable = arg
            .get_env()
            .map(|name| name.to_string_lossy().into_owned());
        assert_eq!(variable, (!none).then_some(by_rule));
    }
    let told = man("syngate.8").section("ENVIRONMENT").flags();
    let expected = ["--max-closed", "--container", "--help", "--version", "-q"];
    assert_same(
        "man, ENVIRONMENT,",
        &told,
        "this test",
        &expected.map(str::to_owned).into(),
    );
}

#[test]
fn man_documents_each_other_variable() {
    let besides = [
        LOCK_DIR_VARIABLE,
        RUN_VARIABLE,
        JOURNAL_VARIABLE,
        "PATH",
        "NO_COLOR",
        "TERM",
    ];
    let items = |page: &str| man(page).section("ENVIRONMENT").items_of("Ev");
    let all = besides.map(str::to_owned).into();
    assert_same(
        "syngate.8, ENVIRONMENT,",
        &items("syngate.8"),
        "syngate",
        &all,
    );
    assert_eq!(items("syngate-keep.8"), ["NOTIFY_SOCKET".to_owned()].into());
}

/// The man page's example of such a one.
const MISSPELT: &str = "SYNGATE_PROT";

#[test]
fn man_and_readme_name_no_variable_that_does_not_exist() {
    let real: BTreeSet<String> = options()
        .into_iter()
        .filter_map(|o| o.variable)
        .chain([LOCK_DIR_VARIABLE, RUN_VARIABLE].map(str::to_owned))
        .collect();
    let manual = LONGEST.iter().map(|(page, _)| format!("man/{page}"));
    for file in manual.chain(pages()) {
        let text = read(&file);
        let named = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in named.filter(|n| n.len() > ENV_PREFIX.len() && n.starts_with(ENV_PREFIX)) {
            assert!(
                real.contains(name) || name == MISSPELT,
                "{file} names {name}: syngate does not read it"
            );
        }
    }
}

/// Each on the page that it belongs to, and nowhere else.
#[test]
fn man_has_the_limits_of_the_program() {
    let manual = manual().filter(|(_, text)| text.headings().contains("TIMES AND LIMITS"));
    let items = manual.flat_map(|(_, text)| text.section("TIMES AND LIMITS").items(""));
    let items: Vec<Block> = items.collect();
    let heads: BTreeSet<&str> = items.iter().map(Block::head).collect();
    assert_eq!(heads.len(), items.len(), "a limit is told twice");
    for (item, value) in limits() {
        let block = items.iter().find(|b| b.head() == item);
        let block = block.unwrap_or_else(|| panic!("man, TIMES AND LIMITS: no '{item}'"));
        assert!(
            says(&block.words(), &value),
            "man, {item}: not '{value}': {}",
            block.words().join(" ")
        );
    }
}

// The report -------------------------------------------------------------------------------------

/// The objects in the schema: their properties and what they require.
fn objects(schema: &Value, found: &mut Vec<(BTreeSet<String>, BTreeSet<String>)>) {
    if let Value::Object(map) = schema {
        if let (Some(Value::Object(properties)), Some(Value::Array(required))) =
            (map.get("properties"), map.get("required"))
        {
            let required = required.iter().filter_map(Value::as_str);
            found.push((
                properties.keys().cloned().collect(),
                required.map(str::to_owned).collect(),
            ));
        }
        map.values().for_each(|v| objects(v, found));
    }
}

/// A schema, and the fields of all objects in it.
fn fields_of(schema: &str, objects_in_it: usize) -> (Value, BTreeSet<String>) {
    let file = format!("contrib/schema/{schema}.schema.json");
    let schema: Value = serde_json::from_str(&read(&file)).unwrap();
    let mut found = Vec::new();
    objects(&schema, &mut found);
    assert_eq!(found.len(), objects_in_it, "objects in {file}");
    let fields = found.into_iter().flat_map(|(properties, _)| properties);
    (schema, fields.collect())
}

fn told_of(section: &str) -> BTreeSet<String> {
    man("syngate-report.5").section(section).arguments_of("Li")
}

#[test]
fn man_and_schema_have_the_same_fields() {
    let schema: Value = serde_json::from_str(&read("contrib/schema/report.schema.json")).unwrap();
    let mut found = Vec::new();
    objects(&schema, &mut found);
    for (properties, required) in found {
        assert_same("required", &required, "the schema", &properties);
    }
    // The report, its phases, the leave, what was held, redirected, diverted, parked, handed over, not taken, the
    // standby, what is left, a listener.
    let (schema, mut fields) = fields_of("report", 12);
    let outcomes = schema["properties"]["outcome"]["enum"].as_array().unwrap();
    fields.extend(outcomes.iter().map(|o| o.as_str().unwrap().to_owned()));
    let file = "contrib/schema/report.schema.json";
    assert_same("man, THE REPORT,", &told_of("THE REPORT"), file, &fields);
}

#[test]
fn man_and_schemas_of_status_and_keep_have_the_same_fields() {
    // All, what is left, a gate, its scope, what is kept.
    let (_, fields) = fields_of("status", 5);
    let told = told_of("THE JSON OF STATUS");
    assert_same("man, status,", &told, "the schema", &fields);

    let (schema, _) = fields_of("keep", 2);
    let fields = schema["properties"].as_object().unwrap().keys().cloned();
    let outcomes = schema["properties"]["outcome"]["examples"]
        .as_array()
        .unwrap();
    let outcomes = outcomes.iter().map(|o| o.as_str().unwrap().to_owned());
    let told = told_of("THE LINES OF KEEP");
    assert_same(
        "man, keep,",
        &told,
        "the schema",
        &fields.chain(outcomes).collect(),
    );
}

// Exit statuses ----------------------------------------------------------------------------------

#[test]
fn exit_statuses_are_named_everywhere() {
    let items = man("syngate.8").section("EXIT STATUS").items("");
    let readme = words(&read("README.md"));
    let help = words(&syngate(&["--help"]));
    for status in [NOT_KEPT, NOT_RUN, NOT_EXECUTABLE, NOT_FOUND] {
        let status = status.to_string();
        assert!(
            items.iter().any(|i| i.head() == status),
            "man lacks {status}"
        );
        assert!(readme.contains(&status), "README.md lacks {status}");
        assert!(help.contains(&status), "syngate --help lacks {status}");
    }
}

// The README -------------------------------------------------------------------------------------

/// README and the pages that it leads to.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(path("docs")).unwrap();
    let names = docs.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = names.map(|name| format!("docs/{name}")).collect();
    pages.sort();
    pages.insert(0, "README.md".to_owned());
    pages
}

/// It has the options that most people need; --help and the man page have all.
#[test]
fn readme_s_option_table_has_the_names_and_defaults_of_options() {
    let readme = read("README.md");
    let (_, section) = readme.split_once("\n## Options\n").unwrap();
    let rows = option_table(section.split("\n## ").next().unwrap());
    assert!((7..=10).contains(&rows.len()), "{} rows", rows.len());
    let options = options();
    for row in rows {
        let option = options
            .iter()
            .find(|o| row.names.contains(o.long()))
            .unwrap_or_else(|| panic!("README.md: there is no {:?}", row.names));
        let names = option.names.iter().cloned().collect();
        assert_same("README.md, option table,", &row.names, "syngate", &names);
        if let Some(default) = &option.default {
            assert!(
                row.code.contains(default),
                "README.md, {}: `{default}`, its default, is not in its row",
                option.long()
            );
        }
    }
}

#[test]
fn the_pages_have_no_option_and_no_call_that_syngate_does_not_take() {
    // tests/messages.rs carries out the calls of that page. Some are wrong on purpose.
    let pages = pages()
        .into_iter()
        .filter(|page| page != "docs/messages.md");
    for page in &pages.collect::<Vec<_>>() {
        let text = read(page);
        let spans = code_spans(&text);
        spans
            .iter()
            .filter(|span| span.starts_with('-'))
            .for_each(|span| assert_takes(page, span));
        let calls = format!("{}\n{}", code_blocks(&text), spans.join("\n"));
        assert_calls_parse(page, &calls, if page == "README.md" { 3 } else { 0 });
    }
}

/// That syngate takes the options of this piece of code, and their values.
fn assert_takes(page: &str, span: &str) {
    let real = all_names();
    let flags = span.split([' ', ',', '=', '|', '/']);
    for flag in flags.filter(|word| word.starts_with('-') && *word != "--") {
        assert!(real.contains(flag), "{page}: `{span}`: there is no {flag}");
    }
    let [name, value, ..] = span.split([' ', '=']).collect::<Vec<_>>()[..] else {
        return;
    };
    let Some(option) = options()
        .into_iter()
        .find(|o| o.names.iter().any(|n| n == name))
    else {
        return;
    };
    if !option.values.is_empty() && value.chars().all(|c| c.is_ascii_lowercase()) {
        let exists = option.values.iter().any(|v| kind(v) == value);
        assert!(exists, "{page}: `{span}`: {name} does not take that");
    }
}

/// Links to files of ours lead somewhere, and so do those to a heading of the same page.
#[test]
fn the_pages_have_no_dead_links() {
    for page in &pages() {
        let text = read(page);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = folder.parent().unwrap().join(file);
            assert!(file.exists(), "{page}: {link} is not there");
            let of = |line: &str| {
                line.trim_start_matches('#')
                    .trim()
                    .to_lowercase()
                    .replace(' ', "-")
            };
            let there = text.lines().any(|l| l.starts_with('#') && of(l) == heading);
            assert!(heading.is_empty() || there, "{page}: there is no {link}");
        }
    }
}

// The completions --------------------------------------------------------------------------------

#[test]
fn completions_have_each_option_and_no_other() {
    let real = all_names();
    let bash = read("contrib/completions/syngate.bash");
    let opts = bash
        .lines()
        .filter_map(|l| l.trim().strip_prefix("opts=\"-"));
    let offered = opts
        .flat_map(|opts| words(&format!("-{}", opts.trim_end_matches('"'))))
        .filter(|word| word.starts_with('-'));
    assert_same("syngate.bash", &offered.collect(), "syngate", &real);
    for (name, _) in other_commands() {
        assert!(
            bash.contains(&format!("syngate,{name})")),
            "syngate.bash: {name}"
        );
    }

    let zsh = read("contrib/completions/_syngate");
    let specs = zsh.lines().filter_map(|l| l.strip_prefix('\''));
    let offered = specs
        .map(|spec| {
            spec.rsplit_once(")-")
                .map_or(spec.to_owned(), |(_, s)| format!("-{s}"))
        })
        .map(|spec| spec.trim_start_matches('*').to_owned())
        .filter(|spec| spec.starts_with('-'))
        .map(|spec| {
            spec.split(['[', '=', '+'])
                .next()
                .unwrap_or_default()
                .to_owned()
        });
    assert_same("_syngate", &offered.collect(), "syngate", &real);

    let fish = read("contrib/completions/syngate.fish");
    let mut offered = BTreeSet::new();
    for line in fish
        .lines()
        .filter(|l| l.starts_with("complete -c syngate -"))
    {
        let words = words(line.split(" -d ").next().unwrap_or_default());
        for pair in words.windows(2) {
            match pair[0].as_str() {
                "-s" => offered.insert(format!("-{}", pair[1])),
                "-l" => offered.insert(format!("--{}", pair[1])),
                _ => false,
            };
        }
    }
    assert_same("syngate.fish", &offered, "syngate", &real);
}

#[test]
fn completions_work_in_their_shells() {
    let run = |shell: &str, args: &[&str]| {
        let output = Command::new(shell)
            .args(args)
            .current_dir(path("contrib/completions"))
            .output()
            .unwrap_or_else(|e| panic!("{shell} is needed (Debian: apt-get install {shell}): {e}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{shell}: {said}"
        );
        words(&String::from_utf8_lossy(&output.stdout))
    };
    let drains = ["--drain", "--drain-cmd", "--drain-until"];

    let bash = |line: &str| {
        let script = format!(
            "set -eu; source syngate.bash; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
             _syngate_or_command syngate \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        run("bash", &["--norc", "--noprofile", "-c", &script])
    };
    assert_eq!(bash("syngate --dra"), drains);
    let actions = [
        "auto",
        "divert=ADDR",
        "drop",
        "handover",
        "hold",
        "park",
        "redirect=PORT",
    ];
    let mut offered = bash("syngate --syn ''");
    offered.sort();
    assert_eq!(offered, actions);
    assert!(bash("syngate --port 80 -- mkfif").contains(&"mkfifo".to_owned()));

    let fish = |line: &str| {
        let script = format!(
            "source syngate.fish; complete -C '{line}' | string replace -r \\t.\\* ''; true"
        );
        run("fish", &["--no-config", "-c", &script])
    };
    assert_eq!(fish("syngate --dra"), drains);
    assert_eq!(fish("syngate --syn "), actions);
    assert!(fish("syngate --port 80 -- mkfif").contains(&"mkfifo".to_owned()));
    assert!(fish("syngate status ").is_empty(), "no file fits there");
    assert!(fish("syngate --report-file syngate.").contains(&"syngate.fish".to_owned()));

    // zsh completes in its line editor only: here it finds, reads and runs the file.
    let script = "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; print $_comps[syngate]
                  autoload +X _syngate; (( $+functions[_syngate] )) && print loaded";
    assert_eq!(run("zsh", &["-f", "-c", script]), ["_syngate", "loaded"]);
}

// The changelog ----------------------------------------------------------------------------------

#[test]
fn changelog_begins_with_this_version() {
    let changelog = read("CHANGELOG.md");
    let heads = changelog.lines().filter_map(|l| l.strip_prefix("## "));
    let mut releases = heads.filter(|h| !h.contains("Unreleased"));
    let newest = releases.next().expect("a release");
    let (version, date) = newest.split_once(" - ").expect("## [version] - date");
    assert_eq!(version.trim_matches(['[', ']']), env!("CARGO_PKG_VERSION"));
    let shape: String = date
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    assert_eq!(shape, "9999-99-99", "{date}");
}

/// dpkg reads it without a complaint, and no word of ours is missing.
#[test]
fn the_package_s_changelog_is_this_one() {
    let convert = "awk -f contrib/debian/changelog -v version=9.9 -v date=\"$(date -R)\" \
                   -v maintainer='Some Body <some@body.org>' CHANGELOG.md |
                   dpkg-parsechangelog --all --format rfc822 -l -";
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", convert])
        .current_dir(path("."))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");

    let debian = String::from_utf8(output.stdout).unwrap();
    let newest = debian.lines().find_map(|l| l.strip_prefix("Version: "));
    assert_eq!(newest, Some("9.9"));
    let items = debian
        .lines()
        .filter(|l| l.starts_with("   ") && !l.starts_with("   [ "))
        .collect::<Vec<_>>()
        .join("\n");
    let told = words(&items).into_iter().filter(|w| w != "*");

    let changelog = read("CHANGELOG.md");
    let (_, entries) = changelog.split_once("\n## ").expect("an entry");
    let ours = entries
        .lines()
        .skip(1)
        .filter(|l| !l.starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    let ours = words(&ours).into_iter().filter(|w| w != "-");
    assert_eq!(told.collect::<Vec<_>>(), ours.collect::<Vec<_>>());
}

// What was done to break it ------------------------------------------------------------------------

/// The tests that docs/faults.md names: `file: name`, or of the campaign, `faults: name`.
#[test]
fn what_was_found_has_its_test() {
    let page = read("docs/faults.md");
    let named: Vec<(&str, &str)> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once(": "))
        .collect();
    assert!(named.len() > 5, "{named:?}");
    for (place, test) in named {
        let file = match place {
            "faults" => "tests/faults/tests/campaign.rs".to_owned(),
            "status" => "src/commands/status/mod.rs".to_owned(),
            "action" => "src/action/tests.rs".to_owned(),
            module if module.contains("::") => format!("src/{}.rs", module.replace("::", "/")),
            file => format!("tests/{file}.rs"),
        };
        assert!(
            read(&file).contains(&format!("fn {test}()")),
            "{file}: {test}"
        );
    }
}
