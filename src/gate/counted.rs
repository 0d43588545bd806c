//! The file of a keep's counts, beside its lock: `status` shows them.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::counts::Counts;
use crate::process::lock::{Living, beside};

/// What the file is called, behind the network namespace: with the keep's id at the end.
const SUFFIX: &str = "keep-";

/// # Errors
/// The file can't be written. The one before is there still.
pub(crate) fn write(counts: &Counts, run: &str) -> io::Result<()> {
    let (file, draft) = (file_of(run)?, beside(&format!("{SUFFIX}{run}.new"))?);
    fs::write(&draft, serde_json::to_vec(counts)?)?;
    fs::rename(draft, file)
}

/// `None`: there has been no gap yet, or that can't be read.
pub(crate) fn of(run: &str) -> Option<Counts> {
    serde_json::from_slice(&fs::read(file_of(run).ok()?).ok()?).ok()
}

fn file_of(run: &str) -> io::Result<PathBuf> {
    beside(&format!("{SUFFIX}{run}"))
}

/// Removes the files of keeps in this network namespace that are not among these. For a keep that has its lock.
pub(crate) fn remove_others(living: &[Living]) -> io::Result<()> {
    let pattern = beside(SUFFIX)?;
    let begin = pattern.file_name().unwrap_or_default().to_string_lossy();
    let folder = pattern.parent().unwrap_or(&pattern);
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let Some(run) = name.to_str().and_then(|name| name.strip_prefix(&*begin)) else {
            continue;
        };
        let run = run.trim_end_matches(".new");
        if !living.iter().any(|keep| keep.holder.run == run) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
