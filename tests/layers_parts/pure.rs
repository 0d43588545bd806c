//! Which files decide without touching the machine, and which tests/ci/pure.rs names.

use std::collections::BTreeSet;
use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};

use super::file::{File, Module};
use super::sources::Sources;

/// The layers that decide. `kernel`, `process` and `tell` are there to touch the machine.
const DECIDING: [&str; 7] = [
    "action/",
    "cli/",
    "commands/",
    "decide/",
    "gate/",
    "run/",
    "words/",
];

/// What the path of something begins with that touches the machine.
const EFFECTS: [&str; 31] = [
    "Instant::now",
    "SystemTime::now",
    "crate::kernel::caps",
    "crate::kernel::conntrack::Conntrack",
    "crate::kernel::netlink::Netlink",
    "crate::kernel::nfqueue::Queue",
    "crate::kernel::nfqueue::others_hold",
    "crate::kernel::release",
    "crate::kernel::room::copy",
    "crate::kernel::route::Routing",
    "crate::kernel::service_files",
    "crate::kernel::services",
    "crate::kernel::sockets::Looks",
    "crate::kernel::sockets::diag",
    "crate::kernel::sockets::netstat",
    "crate::kernel::sys",
    "crate::process",
    "crate::tell",
    "crate::words::fault",
    "iptables",
    "mnl",
    "nftnl",
    "nix",
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpStream",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::SystemTime",
];
/// What does not, all the same: numbers and texts.
const VALUES: [&str; 9] = [
    "crate::kernel::caps::NEEDED",
    "crate::kernel::service_files::SCRIPTS",
    "nftnl::ChainType",
    "nftnl::Hook",
    "nftnl::Priority",
    "nftnl::ProtoFamily",
    "nix::errno",
    "nix::libc",
    "std::os::unix::ffi",
];

/// The files of the deciding layers that have functions, and neither touch the machine nor import a file of
/// these layers that does.
pub(crate) fn pure(sources: &Sources) -> BTreeSet<&str> {
    let imports = sources.imports(false);
    let files = sources.files.iter().filter(|file| !touches(file));
    let files = files.map(|file| file.name.as_str());
    let mut pure: BTreeSet<&str> = files.filter(|file| decides(file)).collect();
    loop {
        let is_pure = |file: &&str| pure.contains(file) || !decides(file);
        let left = pure
            .iter()
            .filter(|file| imports[*file].iter().all(is_pure));
        let left: BTreeSet<&str> = left.copied().collect();
        if left.len() == pure.len() {
            break;
        }
        pure = left;
    }
    let has_functions = sources
        .files
        .iter()
        .filter(|file| !file.functions.is_empty());
    let has_functions: BTreeSet<&str> = has_functions.map(|file| file.name.as_str()).collect();
    &pure & &has_functions
}

fn decides(file: &str) -> bool {
    DECIDING.iter().any(|layer| file.starts_with(layer))
}

fn touches(file: &File) -> bool {
    let mut paths = file.paths.iter().filter(|path| !path.is_for_tests);
    paths.any(|path| {
        let whole = path.words.join("::") + "::";
        let begins = |with: &&str| whole.starts_with(&format!("{with}::"));
        EFFECTS.iter().any(begins) && !VALUES.iter().any(begins)
    })
}

/// The files that should decide and touch the machine, among those that `named` names one by one.
pub(crate) fn impure<'a>(sources: &'a Sources, named: &[Module]) -> Vec<&'a str> {
    let is_named = |file: &&File| named.contains(&file.module) && decides(&file.name);
    let files = sources.files.iter().filter(is_named);
    let files = files.filter(|file| touches(file));
    files.map(|file| file.name.as_str()).collect()
}

/// What the named files import, and is not named.
pub(crate) fn not_there(sources: &Sources, named: &[Module]) -> Vec<String> {
    let module = |file: &str| File::parse(file, "").module;
    let is_named = |file: &str| named.iter().any(|name| module(file).starts_with(name));
    // The list itself has the modules above those that it names.
    let is_above = |file: &str| named.iter().any(|name| name.starts_with(&module(file)));
    let imports = sources.imports(true).into_iter();
    let lacks = imports
        .filter(|(file, _)| is_named(file))
        .flat_map(|(file, targets)| {
            let lacks = targets.into_iter();
            let lacks = lacks.filter(|target| !is_named(target) && !is_above(target));
            lacks.map(move |target| format!("{file} imports {target}"))
        });
    lacks.collect()
}

/// Those of `files` that no module in `named` is, nor has below it.
pub(crate) fn not_named<'a>(files: &BTreeSet<&'a str>, named: &[Module]) -> Vec<&'a str> {
    let is_named = |file: &&str| {
        let module = File::parse(file, "").module;
        named.iter().any(|name| module.starts_with(name))
    };
    let files = files.iter().filter(|file| !is_named(file));
    files.copied().collect()
}

/// The modules with a file of their own that a text names: `mod a { mod b; }` names `a::b`.
pub(crate) fn named(text: &str) -> Vec<Module> {
    let mut modules = Vec::new();
    walk(
        TokenStream::from_str(text).unwrap(),
        &Module::new(),
        &mut modules,
    );
    modules
}

fn walk(tokens: TokenStream, within: &Module, modules: &mut Vec<Module>) {
    let tokens = Vec::from_iter(tokens);
    for item in tokens.windows(3) {
        let [TokenTree::Ident(word), TokenTree::Ident(name), then] = item else {
            continue;
        };
        if word != "mod" {
            continue;
        }
        let module = [&within[..], &[name.to_string()]].concat();
        match then {
            TokenTree::Group(body) => walk(body.stream(), &module, modules),
            _ => modules.push(module),
        }
    }
}
