//! The shape of the code: a folder of src imports only folders below it, files do not import each other
//! in circles, and files and functions stay short.

mod layers_parts;

use std::collections::BTreeSet;

use layers_parts::Sources;
use layers_parts::pure::{impure, named, not_named, not_there, pure};

/// The folders of src, from the top to the bottom. The files beside them are on top.
const LAYERS: [&str; 10] = [
    "commands", "run", "cli", "action", "gate", "decide", "process", "kernel", "tell", "words",
];

/// The files of `action` that anybody may know. `drop` is among them: it is what remains where another
/// action is not possible.
const SHARED_BY_ACTIONS: [&str; 8] = [
    "contract.rs",
    "drop.rs",
    "elsewhere.rs",
    "linger.rs",
    "list.rs",
    "mod.rs",
    "rooms",
    "tests.rs",
];

/// A file of production code has no more lines.
const LONGEST_FILE: usize = 500;
/// A function has no more lines.
const LONGEST_FUNCTION: usize = 59;

fn rank(file: &str) -> Option<usize> {
    let Some((folder, _)) = file.split_once('/') else {
        return Some(0);
    };
    let layer = LAYERS.iter().position(|layer| *layer == folder)?;
    Some(layer + 1)
}

fn climbs(sources: &Sources) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, targets) in sources.imports(true) {
        if rank(file).is_none() {
            wrong.push(format!("{file} is in no layer"));
        }
        let above = targets.iter().filter(|target| rank(target) < rank(file));
        wrong.extend(above.map(|target| format!("{file} climbs to {target}")));
    }
    wrong
}

/// The action that a file belongs to.
fn action(file: &str) -> Option<&str> {
    let file = file.strip_prefix("action/")?;
    let name = file.split_once('/').map_or(file, |(folder, _)| folder);
    (!SHARED_BY_ACTIONS.contains(&name)).then(|| name.trim_end_matches(".rs"))
}

fn actions_in_actions(sources: &Sources) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, targets) in sources.imports(true) {
        let Some(own) = action(file) else { continue };
        let others = targets
            .iter()
            .filter(|target| action(target).is_some_and(|other| other != own));
        wrong.extend(others.map(|target| format!("{file} knows {target}")));
    }
    wrong
}

/// Outside of its folder nobody knows an action, except the list, what is public, and the fuzzers.
fn known_actions(sources: &Sources) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, targets) in sources.imports(false) {
        if action(file).is_some() || ["action/list.rs", "lib.rs", "fuzz.rs"].contains(&file) {
            continue;
        }
        let actions = targets.iter().filter(|target| action(target).is_some());
        wrong.extend(actions.map(|target| format!("{file} knows {target}")));
    }
    wrong
}

fn circles(sources: &Sources) -> Vec<String> {
    let imports = sources.imports(false);
    let reached_from = |file: &str| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![file.to_owned()]);
        while let Some(file) = next.pop() {
            let targets = imports[file.as_str()].iter();
            let new = targets.filter(|target| reached.insert(target.to_string()));
            next.extend(new.map(|target| target.to_string()));
        }
        reached
    };
    let (mut told, mut wrong) = (BTreeSet::new(), Vec::new());
    for file in imports.keys() {
        let reached = reached_from(file).into_iter();
        let circle: BTreeSet<String> = reached
            .filter(|f| reached_from(f).contains(*file))
            .collect();
        for file in circle.iter().filter(|file| told.insert(file.to_string())) {
            let targets = imports[file.as_str()].iter().copied();
            let targets: Vec<&str> = targets.filter(|t| circle.contains(*t)).collect();
            wrong.push(format!("in a circle: {file} -> {}", targets.join(", ")));
        }
    }
    wrong
}

fn too_long(sources: &Sources) -> Vec<String> {
    let mut wrong = Vec::new();
    for file in &sources.files {
        if file.lines > LONGEST_FILE {
            wrong.push(format!("{}: {} lines without tests", file.name, file.lines));
        }
        let functions = file.functions.iter();
        let long = functions.filter(|(_, lines)| *lines > LONGEST_FUNCTION);
        wrong.extend(long.map(|(name, lines)| format!("{}: fn {name}: {lines} lines", file.name)));
    }
    wrong
}

#[track_caller]
fn nothing(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_folder_of_src_imports_one_above_it() {
    nothing(&climbs(&Sources::read("syngate", ".")));
}

#[test]
fn actions_are_known_to_their_list_alone() {
    let sources = Sources::read("syngate", ".");
    nothing(&actions_in_actions(&sources));
    nothing(&known_actions(&sources));
}

#[test]
fn no_files_of_src_import_each_other_in_a_circle() {
    nothing(&circles(&Sources::read("syngate", ".")));
}

#[test]
fn files_and_functions_of_src_are_short() {
    nothing(&too_long(&Sources::read("syngate", ".")));
}

/// Its files are many: the map at the top of the folder says what each is for.
#[test]
fn the_map_of_the_waiting_rooms_names_each_file() {
    let text = std::fs::read_to_string("src/action/rooms/mod.rs").unwrap();
    let (map, rest): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("//!"));
    let map = map.concat();
    let modules = rest.iter().filter_map(|line| {
        let module = line
            .trim_start_matches("pub(crate) ")
            .strip_prefix("mod ")?;
        module.strip_suffix(';')
    });
    let missing: Vec<&str> = modules
        .filter(|module| !map.contains(&format!("`{module}`")))
        .collect();
    assert_eq!(missing, [""; 0]);
}

/// Each has its reasons beside each block; elsewhere the compiler refuses such code.
const UNSAFE: [&str; 3] = [
    "src/gate/nft/raw.rs",
    "src/kernel/bpf.rs",
    "src/kernel/sys.rs",
];

#[test]
fn unsafe_code_stays_in_its_files() {
    let mut allowed = Vec::new();
    let mut folders = vec![std::path::PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path)
                .unwrap()
                .contains("allow(unsafe_code)")
            {
                allowed.push(path.display().to_string());
            }
        }
    }
    allowed.sort();
    assert_eq!(allowed, UNSAFE);
}

#[test]
fn each_file_that_only_decides_is_tried_by_mutants() {
    let sources = Sources::read("syngate", ".");
    let named = named(include_str!("ci/pure.rs"));
    assert_eq!(
        not_named(&pure(&sources), &named),
        [""; 0],
        "not in tests/ci/pure.rs"
    );
    assert_eq!(impure(&sources, &named), [""; 0], "in tests/ci/pure.rs");
    assert_eq!(
        not_there(&sources, &named),
        [""; 0],
        "not in tests/ci/pure.rs"
    );
}

#[test]
fn no_files_of_the_tests_tools_import_each_other_in_a_circle() {
    for (name, folder) in [
        ("testkit", "tests/kit"),
        ("faults", "tests/faults"),
        ("bench", "tests/bench"),
    ] {
        nothing(&circles(&Sources::read(name, folder)));
    }
}

#[test]
fn climbing_imports_are_found() {
    let of = |text| {
        climbs(&Sources::made_up(&[
            ("lib.rs", "mod kernel; mod run; mod words;"),
            ("run/mod.rs", "mod plan;"),
            ("run/plan.rs", ""),
            ("kernel/mod.rs", ""),
            ("kernel/netlink.rs", text),
            ("words/mod.rs", ""),
        ]))
    };
    const CLIMB: &str = "kernel/netlink.rs climbs to run/plan.rs";
    for text in [
        "use crate::run::plan::Plan;",
        "use crate::{words, run::{self as story, plan::{Plan}}};",
        "fn f() -> u8 { g(&[crate::run::plan::ANSWER]) }",
        "use super::super::run::plan::*;",
        "mod inner { use super::super::super::run::plan; }",
        "#[cfg(test)] mod tests { use crate::run::plan::Plan; }",
        "targets! { plan: crate::run::plan::withstand; }",
    ] {
        assert!(of(text).contains(&CLIMB.to_owned()), "{text}");
    }
    assert_eq!(
        of("use crate::main;"),
        ["kernel/netlink.rs climbs to lib.rs"]
    );
    for text in [
        "use crate::words::Word; use super::conntrack; mod inner { use super::*; }",
        "/// [`crate::run::plan`]\nconst TEXT: &str = \"crate::run::plan\"; // crate::run::plan",
        "use std::{run::plan, words::run}; use run::plan; fn f() { x.run::<u8>(); std::run::plan() }",
    ] {
        assert_eq!(of(text), [""; 0], "{text}");
    }
    let unknown = climbs(&Sources::made_up(&[("attic/mod.rs", "")]));
    assert_eq!(unknown, ["attic/mod.rs is in no layer"]);
}

#[test]
fn actions_that_others_know_are_found() {
    let of = |contract: &str, hold: &str, run: &str| {
        let sources = Sources::made_up(&[
            ("action/contract.rs", contract),
            ("action/drop.rs", ""),
            ("action/hold/mod.rs", hold),
            ("action/list.rs", "use super::{drop, hold, room};"),
            ("action/room/mod.rs", ""),
            ("run/mod.rs", run),
        ]);
        [actions_in_actions(&sources), known_actions(&sources)].concat()
    };
    let fine = "use crate::action::contract::X; use crate::action::drop;";
    assert_eq!(of("", fine, "use crate::action::list;"), [""; 0]);
    assert_eq!(
        of("", "use crate::action::room::X;", ""),
        ["action/hold/mod.rs knows action/room/mod.rs"]
    );
    assert_eq!(
        of("use super::hold::X;", "", "use crate::action::{room};"),
        [
            "action/contract.rs knows action/hold/mod.rs",
            "run/mod.rs knows action/room/mod.rs"
        ]
    );
}

#[test]
fn circles_are_found() {
    let of = |root: &str, one: &str, two: &str| {
        circles(&Sources::made_up(&[
            ("gate/mod.rs", root),
            ("gate/one.rs", one),
            ("gate/two.rs", two),
        ]))
    };
    for (root, one, two, files) in [
        ("", "use super::two::X;", "use super::one::Y;", 2),
        (
            "",
            "use crate::gate::two;",
            "fn f() { crate::gate::one::y() }",
            2,
        ),
        ("pub use one::Y;", "use super::X;", "", 2),
        ("use self::one::Y;", "use super::*;", "", 2),
        (
            "fn f() { one::y() }",
            "use super::two::X;",
            "use crate::gate::X;",
            3,
        ),
    ] {
        assert_eq!(of(root, one, two).len(), files, "{root} {one} {two}");
    }
    for (root, one, two) in [
        (
            "mod one; mod two; pub use two::X;",
            "use super::two::X;",
            "",
        ),
        (
            "pub use one::Y;",
            "",
            "#[cfg(test)] mod tests { use super::super::Y; use super::*; }",
        ),
        (
            "",
            "use super::two::X;",
            "#[cfg(test)] mod tests { use super::super::one::Y; }",
        ),
    ] {
        assert_eq!(of(root, one, two), [""; 0], "{root} {one} {two}");
    }
}

#[test]
fn files_that_only_decide_are_found() {
    let of = |text: &str| {
        let sources = Sources::made_up(&[
            ("decide/one.rs", text),
            ("decide/two.rs", "use super::one::X; fn f() {}"),
            ("kernel/sys.rs", "use std::fs; fn f() {}"),
        ]);
        let list = "mod decide { mod two; } mod words;";
        let wrong = [
            not_named(&pure(&sources), &named(list)),
            impure(&sources, &named(list)),
        ];
        wrong.concat().join(" ")
    };
    for pure in [
        "fn f() {}",
        "use nix::libc; use crate::kernel::Sample; fn f() {}",
        "fn f() {} #[cfg(test)] mod tests { use std::fs; }",
    ] {
        assert_eq!(of(pure), "decide/one.rs", "{pure}");
    }
    for other in [
        "const X: u8 = 1;",
        "use std::fs; fn f() {}",
        "use crate::kernel::sys::open; fn f() {}",
        "fn f() { Instant::now(); }",
    ] {
        assert_eq!(of(other), "", "{other}");
    }
    let of_two = |text: &str| {
        let sources = Sources::made_up(&[("decide/two.rs", text)]);
        impure(&sources, &named("mod decide { mod two; }")).concat()
    };
    assert_eq!(of_two("use std::{env, fs::File};"), "decide/two.rs");
    assert_eq!(of_two("use std::time::Duration;"), "");
    let lacks = |list: &str| {
        let sources = Sources::made_up(&[
            ("decide/two.rs", "use crate::tell::say;"),
            ("tell/say.rs", ""),
        ]);
        not_there(&sources, &named(list)).concat()
    };
    let imports = "decide/two.rs imports tell/say.rs";
    assert_eq!(lacks("mod decide { mod two; }"), imports);
    assert_eq!(lacks("mod decide { mod two; } mod tell { mod say; }"), "");
}

#[test]
fn long_files_and_functions_are_found() {
    let of = |text: &str| too_long(&Sources::made_up(&[("words/long.rs", text)]));
    let lines = |n: usize| "x();\n".repeat(n);
    let function = |n: usize| format!("fn long() {{\n{}}}\n", lines(n - 2));
    assert_eq!(of(&function(60)), ["words/long.rs: fn long: 60 lines"]);
    assert_eq!(of(&function(59)), [""; 0]);
    assert_eq!(of(&format!("impl X {{ {} }}", function(60))).len(), 1);
    assert_eq!(
        of(&format!("#[cfg(test)]\nmod tests {{\n{}}}", function(70))),
        [""; 0]
    );
    let file = |n: usize, tests: usize| {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(tests));
        of(&(lines(n) + &tests))
    };
    assert_eq!(file(501, 1), ["words/long.rs: 501 lines without tests"]);
    assert_eq!(file(500, 300), [""; 0]);
}
