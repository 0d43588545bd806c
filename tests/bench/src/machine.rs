//! What the figures were measured on, and with.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use testkit::digest;

use crate::{results::Results, ways::MAKE_PLUG};

const FILE: &str = "machine.json";

/// A machine, and the versions of what is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// The model of its processors.
    pub cpu: String,
    /// How many of them can be used.
    pub cpus: usize,
    /// In MiB.
    pub memory_mib: u64,
    /// The distribution.
    pub system: String,
    /// Whether the kernel has the plug qdisc.
    pub sch_plug: bool,
    /// What the programs say of themselves.
    pub syngate: String,
    /// The beginning of the SHA-256 of the syngate that was measured.
    pub syngate_sha256: String,
    /// See `syngate`.
    pub haproxy: String,
    /// See `syngate`.
    pub nginx: String,
    /// See `syngate`.
    pub nft: String,
    /// See `syngate`.
    pub iptables: String,
}

/// Writes down what is measured on; results of anything else are not added to.
pub fn note(results: &Results, syngate: &Path) -> Result<Machine> {
    let here = Machine::here(syngate)?;
    let there = read(results)?;
    if let Some(there) = &there {
        let differences = there.differences(&here)?;
        ensure!(
            differences.is_empty(),
            "{}: these results are of another machine, or of other versions: remove them, or choose \
             another folder ({})",
            results.folder.display(),
            differences.join("; ")
        );
    }
    results.make()?;
    if there.is_none() {
        let text = serde_json::to_string_pretty(&here)? + "\n";
        fs::write(results.folder.join(FILE), text)?;
    }
    Ok(here)
}

/// As it was noted.
pub fn read(results: &Results) -> Result<Option<Machine>> {
    let text = fs::read_to_string(results.folder.join(FILE));
    Ok(text
        .ok()
        .map(|text| serde_json::from_str(&text))
        .transpose()?)
}

impl Machine {
    /// In words.
    fn differences(&self, here: &Machine) -> Result<Vec<String>> {
        let [there, here] = [self, here].map(serde_json::to_value);
        let (there, here) = (there?, here?);
        let fields = there.as_object().into_iter().flatten();
        let differing = fields.filter(|(field, value)| here[*field] != **value);
        let words =
            differing.map(|(field, value)| format!("{field}: {value}, here {}", here[field]));
        Ok(words.collect())
    }

    fn here(syngate: &Path) -> Result<Machine> {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let row = text.lines().find_map(|line| line.strip_prefix(key));
            row.unwrap_or("unknown")
                .trim_matches(['\t', ' ', ':', '=', '"'])
                .to_owned()
        };
        let memory = field("/proc/meminfo", "MemTotal:");
        let kib: u64 = memory.split(' ').next().unwrap_or("").parse().unwrap_or(0);
        Ok(Machine {
            kernel: first_line("uname", &["-r"])?,
            cpu: field("/proc/cpuinfo", "model name"),
            cpus: std::thread::available_parallelism()?.get(),
            memory_mib: kib / 1024,
            system: field("/etc/os-release", "PRETTY_NAME"),
            sch_plug: has_plug()?,
            syngate: first_line(&syngate.to_string_lossy(), &["--version"])?,
            syngate_sha256: digest(syngate)?,
            haproxy: first_line("haproxy", &["-v"])?,
            nginx: first_line("nginx", &["-v"])?,
            nft: first_line("nft", &["--version"])?,
            iptables: first_line("iptables", &["--version"])?,
        })
    }
}

/// On its stdout or, as with nginx, on its stderr.
fn first_line(program: &str, arguments: &[&str]) -> Result<String> {
    let said = Command::new(program).args(arguments).output()?;
    let said = [said.stdout, said.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// Tried on a host that is thrown away.
fn has_plug() -> Result<bool> {
    Ok(testkit::Host::new()?.run(["sh", "-ec", MAKE_PLUG]).is_ok())
}
