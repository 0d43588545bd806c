//! The folder of results: files of JSON lines, which grow round by round.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};
use testkit::{append_row, mend_rows, read_rows};

/// The restarts.
pub const RESTARTS: &str = "restarts.jsonl";
/// The many restarts with SYNs held.
pub const MANY: &str = "many.jsonl";
/// What syngate itself costs.
pub const COSTS: &str = "costs.jsonl";

/// A folder of results.
#[derive(Debug, Clone)]
pub struct Results {
    /// Where it is.
    pub folder: PathBuf,
}

impl Results {
    /// There may be none yet.
    pub fn at(folder: &Path) -> Results {
        let folder = folder.to_owned();
        Results { folder }
    }

    /// Makes the folder, or mends what a run that was broken off has left in it.
    pub fn make(&self) -> Result<()> {
        let folder = &self.folder;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        [RESTARTS, MANY, COSTS]
            .iter()
            .try_for_each(|file| mend_rows(&folder.join(file)))
    }

    /// All rows of a file; none if there is none.
    pub fn read<T: DeserializeOwned>(&self, file: &str) -> Result<Vec<T>> {
        read_rows(&self.folder.join(file))
    }

    /// Adds a row.
    pub fn append(&self, file: &str, row: &impl Serialize) -> Result<()> {
        append_row(&self.folder.join(file), row)
    }
}

/// Rows by a key, in the key's order.
pub fn grouped<T, K: Ord>(rows: Vec<T>, key: impl Fn(&T) -> K) -> BTreeMap<K, Vec<T>> {
    let mut groups: BTreeMap<K, Vec<T>> = BTreeMap::new();
    for row in rows {
        groups.entry(key(&row)).or_default().push(row);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_broken_off_is_no_row_and_in_nobodys_way() {
        let folder = std::env::temp_dir().join(format!("bench-results-{}", std::process::id()));
        let results = Results::at(&folder);
        results.make().unwrap();
        results.append(COSTS, &1).unwrap();
        fs::write(folder.join(COSTS), "1\n2").unwrap();
        results.make().unwrap();
        assert_eq!(results.read::<u32>(COSTS).unwrap(), [1]);
        results.append(COSTS, &3).unwrap();
        assert_eq!(results.read::<u32>(COSTS).unwrap(), [1, 3]);
        assert!(results.read::<u32>("none").unwrap().is_empty());
        fs::remove_dir_all(folder).unwrap();
    }
}
