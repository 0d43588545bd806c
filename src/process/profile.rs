//! Where profiles are, and that nobody else could have written them: they have command lines that root runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::place::Place;
use crate::words::profile::LARGEST;

/// The folder of profiles.
pub(crate) const FOLDER: &str = "/etc/syngate";

/// The file of that profile, whether it is there or not.
pub(crate) fn file_of(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.conf"))
}

/// The names of the profiles that are there.
pub(crate) fn names() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        Some(
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".conf")?
                .to_owned(),
        )
    })
}

/// What that profile says. `None`: there is none.
///
/// # Errors
/// The profile can't be read, or another user can change it or lead its path elsewhere.
pub(crate) fn read(file: &Path) -> Result<Option<Vec<u8>>, String> {
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match opened(file).and_then(whole) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

fn opened(file: &Path) -> io::Result<File> {
    let opened = Place::open_ours(file)?;
    match opened.metadata()?.is_file() {
        true => Ok(opened),
        false => Err(io::Error::other("it is no regular file")),
    }
}

fn whole(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > LARGEST {
        true => Err(io::Error::other(format!(
            "it has more than {LARGEST} bytes"
        ))),
        false => Ok(bytes),
    }
}
