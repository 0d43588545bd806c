//! Which services a host has, by their files: units of systemd's, and init scripts.

use std::fs;
use std::path::{Path, PathBuf};

/// Where init scripts are.
pub(crate) const SCRIPTS: &str = "/etc/init.d";
/// Where units are (systemd.unit(5)).
const UNITS: [&str; 7] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const SERVICE: &str = ".service";

/// The init script of that name. `None`: there is none.
pub(crate) fn script(name: &str) -> Option<PathBuf> {
    let file = Path::new(SCRIPTS).join(name);
    (is_name(name) && file.is_file()).then_some(file)
}

/// Whether a unit has that name, without `.service`.
pub(crate) fn is_unit(name: &str) -> bool {
    let file = format!("{name}{SERVICE}");
    is_name(name)
        && UNITS
            .iter()
            .any(|folder| Path::new(folder).join(&file).exists())
}

/// The names of all init scripts.
pub(crate) fn scripts() -> impl Iterator<Item = String> {
    names_in(SCRIPTS).filter(|name| script(name).is_some())
}

/// The names of all units that are services and no templates, without `.service`.
pub(crate) fn units() -> impl Iterator<Item = String> {
    let files = UNITS.iter().flat_map(|folder| names_in(folder));
    let names = files.filter_map(|file| Some(file.strip_suffix(SERVICE)?.to_owned()));
    names.filter(|name| !name.ends_with('@'))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/')
}

fn names_in(folder: &str) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}
