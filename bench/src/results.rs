//! The folder of results: files of JSON lines, which grow round by round.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};

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
        for file in [RESTARTS, MANY, COSTS] {
            mend(&folder.join(file))?;
        }
        Ok(())
    }

    /// All rows of a file; none if there is none.
    pub fn read<T: DeserializeOwned>(&self, file: &str) -> Result<Vec<T>> {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let row = |line: &str| {
            serde_json::from_str(line).with_context(|| format!("{}: {line:.60}", path.display()))
        };
        text.lines().map(row).collect()
    }

    /// Adds a row.
    pub fn append(&self, file: &str, row: &impl Serialize) -> Result<()> {
        let path = self.folder.join(file);
        let mut file = File::options().create(true).append(true).open(&path)?;
        let line = format!("{}\n", serde_json::to_string(row)?);
        Ok(file.write_all(line.as_bytes())?)
    }
}

/// Takes away what a run that was broken off has left of a line.
fn mend(path: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(path) else {
        return Ok(());
    };
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        fs::write(path, &text[..whole])?;
    }
    Ok(())
}

/// The median; of an even number, the mean of the two in the middle. `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
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
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

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
