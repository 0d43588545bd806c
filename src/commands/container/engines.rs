//! Finds which of docker and podman can be asked without a trace. podman makes its storage where it has none, so it
//! is asked only where that is there. Where docker's daemon does not listen, nobody has containers.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::storage::Asker;
use crate::process::small_file::{beginning, open_regular};
use crate::run::program::resolve;
use crate::words::container::Engine;

/// Variables by which podman asks another machine.
const ELSEWHERE: [&str; 2] = ["CONTAINER_HOST", "CONTAINER_CONNECTION"];
const SOCKETS: [&str; 2] = ["/run/docker.sock", "/var/run/docker.sock"];
/// A file that is larger is none that a person writes.
const LARGEST: u64 = 1024 * 1024;

/// Whether an engine can be asked.
pub(super) enum Askable {
    Yes,
    NotInstalled,
    /// Why not.
    No(String),
}

pub(super) fn askable(engine: Engine) -> Askable {
    let path = env::var_os("PATH");
    let Ok(program) = resolve(OsStr::new(engine.program()), path.as_deref()) else {
        return Askable::NotInstalled;
    };
    let why = match engine {
        Engine::Docker if !is_podman(&program) => without_daemon(),
        _ => without_storage(),
    };
    why.map_or(Askable::Yes, Askable::No)
}

/// Debian's podman-docker has a script of the name `docker`, other systems have a link.
fn is_podman(docker: &Path) -> bool {
    let leads_to = |name: &str| fs::canonicalize(docker).is_ok_and(|file| file.ends_with(name));
    let calls =
        || text(docker).is_some_and(|text| text.starts_with("#!") && text.contains("podman"));
    leads_to("podman") || calls()
}

fn without_daemon() -> Option<String> {
    let named = ["DOCKER_HOST", "DOCKER_CONTEXT"];
    if named.iter().any(|name| variable(name).is_some()) || has_context() {
        return None;
    }
    let of_user = variable("XDG_RUNTIME_DIR").map(|folder| format!("{folder}/docker.sock"));
    let sockets = SOCKETS.map(str::to_owned).into_iter().chain(of_user);
    let is_missing = |file: String| !Path::new(&file).exists();
    { sockets }
        .all(is_missing)
        .then(|| format!("{} is not there, so its daemon does not run", SOCKETS[0]))
}

/// Its settings say which daemon it asks.
fn has_context() -> bool {
    let folder = variable("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(Path::new(&variable("HOME")?).join(".docker")));
    let text = folder.and_then(|folder| text(&folder.join("config.json")));
    text.is_some_and(|text| text.contains("\"currentContext\""))
}

fn without_storage() -> Option<String> {
    if ELSEWHERE.iter().any(|name| variable(name).is_some()) {
        return None;
    }
    let asker = Asker {
        uid: geteuid().as_raw(),
        variable: &variable,
        text: &text,
        names: &names,
    };
    let storages = asker.storages();
    if storages.is_empty() {
        return Some("the user has no home (HOME)".to_owned());
    }
    // Other programs, as buildah, may share the folder. What can't be looked at may be there.
    let has = |storage: &PathBuf| {
        ["libpod", "db.sql"]
            .iter()
            .any(|name| storage.join(name).try_exists().unwrap_or(true))
    };
    let has_some = storages.iter().any(has);
    let folders: Vec<String> = storages
        .iter()
        .map(|one| one.display().to_string())
        .collect();
    (!has_some).then(|| format!("it has no containers in {}", folders.join(" or ")))
}

fn variable(name: &str) -> Option<String> {
    let value = env::var_os(name)?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn text(file: &Path) -> Option<String> {
    beginning(open_regular(file).ok()?, LARGEST).ok()
}
