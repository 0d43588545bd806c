//! Fuzz targets, see tests/fuzz/README.md: one for each source of bytes or text that others write. A
//! target takes any bytes. It panics where a parser panics, or where a parser's result breaks a promise;
//! the function `withstand` beside each parser has these promises. The tests here give each target its
//! seeds below tests/fuzz/corpus, the same seeds with changes, and noise.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::cli::{Parsed, parse};

macro_rules! targets {
    ($($(#[$what:meta])* $name:ident: $($parser:path),+;)*) => {
        $($(#[$what])* pub fn $name(bytes: &[u8]) { $($parser(bytes);)+ })*

        #[cfg(test)]
        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name)),*];
    };
}

targets! {
    /// `--to`, `--allow-from`, `--interface`, the peer of `--syn divert`.
    addresses: crate::words::scope::withstand, crate::action::divert::peer::withstand;
    /// The command line.
    arguments: given;
    /// Replies about tracked connections.
    conntrack: crate::kernel::conntrack::withstand;
    /// `--container`, and what docker and podman print of one.
    container: crate::words::container::withstand, crate::commands::container::withstand;
    /// Durations and numbers of options.
    durations: crate::words::duration::withstand, crate::words::number::withstand,
        crate::cli::withstand_settle;
    /// The variables of this process.
    environment: inherited;
    /// What iptables-save prints, and the errors of the other programs of iptables.
    iptables: saved, crate::gate::iptables::programs::withstand;
    /// `--listen-port`.
    listen_ports: crate::words::listen_ports::withstand;
    /// Datagrams, messages, attributes, refusals.
    netlink: crate::kernel::netlink::withstand;
    /// `--listen-netns`, and what the command of `--listen-netns-from` answers.
    netns: crate::kernel::sockets::netns::withstand, answered;
    /// Rows of all nf_tables dumps.
    nft: crate::gate::nft::answers::withstand, crate::gate::nft::list::withstand,
        crate::gate::nft::published::withstand, crate::gate::nft::consuming::withstand,
        crate::gate::nft::by_port::withstand, crate::gate::nft::proxied::withstand;
    /// IP packets.
    packet: crate::kernel::nfqueue::packet::withstand_packet,
        crate::kernel::sockets::arrivals::withstand;
    /// `--port`.
    ports: crate::words::ports::withstand;
    /// Files below /proc, and the kernel's description of its types.
    proc: listed, crate::kernel::btf::withstand, crate::kernel::sockets::holders::withstand;
    /// Profiles.
    profile: crate::cli::withstand_profile;
    /// Messages about packets in a queue.
    queue: crate::kernel::nfqueue::packet::withstand;
    /// `--ready-url`.
    ready_url: crate::words::ready::withstand;
    /// The report.
    report: crate::run::report::json::withstand;
    /// Rows about routes, links, addresses, neighbours.
    route: crate::kernel::route::withstand;
    /// Init scripts, and the command lines of services.
    scripts: crate::commands::restart::withstand;
    /// Names of services.
    services: named;
    /// Rows about sockets.
    sock_diag: crate::kernel::sockets::row::withstand;
    /// Messages between a run and its standby's guard, and /proc/PID/stat.
    standby: crate::action::redirect::wire::withstand;
    /// `--unit`, and what systemctl tells of a unit.
    systemctl: crate::words::unit_name::withstand, crate::words::unit_answer::withstand;
    /// The userdata of a table.
    userdata: crate::gate::nft::userdata::withstand;
    /// The comment of a gate.
    who: crate::gate::who::withstand, standing;
}

/// Arguments, each with a NUL behind it.
fn given(bytes: &[u8]) {
    let words = bytes.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let words = [OsStr::new("syngate")].into_iter().chain(words);
    let words: Vec<OsString> = words.map(OsStr::to_owned).collect();
    let _ = crate::guards::work(&words);
    match parse(words) {
        Parsed::Run(args) => {
            assert!(!args.options.ports.is_empty() && !args.command.is_empty());
            assert!(args.options.ports.iter().all(|ports| !ports.is_empty()));
            crate::run::plan::withstand(&args.options);
        }
        Parsed::Print(text) => assert!(!text.to_string().trim().is_empty()),
        Parsed::Wrong(text) => assert!(!text.trim().is_empty()),
        Parsed::Named(_) | Parsed::Other(_) | Parsed::Complete(_) => (),
    }
}

/// The fuzz target has put the same bytes into variables of this process, which options read.
fn inherited(bytes: &[u8]) {
    given(b"--\0true");
    crate::process::environment::withstand(bytes);
}

fn saved(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    shown(&text);
    crate::gate::iptables::save::withstand(&text);
    crate::gate::iptables::around::withstand(&text);
    crate::gate::iptables::compile::withstand(&text);
    crate::gate::iptables::holdings::withstand(&text);
}

/// As the comment of an iptables gate: the comment is all that such a gate tells of its run.
fn standing(bytes: &[u8]) {
    const JUMP: &str = "*filter\n[0:0] -A INPUT -m recent --seconds 30 -m comment --comment";
    let comment = String::from_utf8_lossy(bytes).replace(['"', '\\', '\n'], "?");
    let saved = format!("{JUMP} \"{comment}\" -j syngate_0123456789abcdef\n");
    shown(&saved);
}

/// Feeds `status` with the gates that it finds in an output of iptables-save.
fn shown(saved: &str) {
    let found = crate::gate::iptables::list::found_in(saved);
    found.iter().for_each(crate::commands::status::withstand);
}

fn answered(bytes: &[u8]) {
    let answer = crate::process::beside::withstand(bytes);
    crate::kernel::sockets::netns::withstand(answer.as_bytes());
}

fn listed(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    crate::kernel::caps::withstand(&text);
    crate::commands::check::proc::withstand(&text);
    crate::process::own_unit::withstand(&text);
    crate::process::unit::withstand(&text);
    crate::process::lock::withstand(&text);
    crate::process::living::withstand(&text);
    crate::kernel::sockets::withstand(&text);
    crate::kernel::nfqueue::withstand(&text);
    crate::kernel::control_group::withstand(&text);
    crate::kernel::room::orders::withstand(&text);
}

fn named(bytes: &[u8]) {
    if let Some(port) = crate::kernel::sys::service_port(&String::from_utf8_lossy(bytes)) {
        assert_ne!(port, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::LazyLock;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz")
            .join(name)
    }

    fn names_in(folder: &Path) -> BTreeSet<String> {
        let files = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path());
        files
            .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    }

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let files = fs::read_dir(folder("corpus").join(target)).unwrap();
        files
            .map(|file| fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn each_target_has_its_program_and_its_seeds() {
        let targets: BTreeSet<String> =
            TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names_in(&folder("fuzz_targets")), targets);
        assert_eq!(names_in(&folder("corpus")), targets);
        let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
        for target in targets {
            assert!(
                manifest.contains(&format!("name = \"{target}\"\n")),
                "{target}"
            );
        }
    }

    #[test]
    fn the_seeds_are_withstood() {
        for (target, withstand) in TARGETS {
            let seeds = seeds(target);
            assert!(
                !seeds.is_empty() && seeds.iter().all(|seed| !seed.is_empty()),
                "{target}"
            );
            seeds.iter().for_each(|seed| withstand(seed));
        }
    }

    proptest! {
        #[test]
        fn noise_is_withstood(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
            for (_, withstand) in TARGETS {
                withstand(&bytes);
                withstand(text.as_bytes());
            }
        }

        #[test]
        fn bent_seeds_are_withstood(
            seed: Index,
            flips in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
            cut: Option<Index>,
        ) {
            for ((_, withstand), seeds) in TARGETS.iter().zip(&*SEEDS) {
                let mut bytes = seed.get(seeds).clone();
                for (at, flip) in &flips {
                    *at.get_mut(&mut bytes) ^= flip;
                }
                bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len() + 1)));
                withstand(&bytes);
            }
        }
    }

    static SEEDS: LazyLock<Vec<Vec<Vec<u8>>>> =
        LazyLock::new(|| TARGETS.iter().map(|(target, _)| seeds(target)).collect());
}
