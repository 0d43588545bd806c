//! What is measured or tried, as a file of JSON lines that grows: what was broken off goes on where it was.

use std::{fs, fs::File, io::Write, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde::{Serialize, de::DeserializeOwned};

/// Takes away what a run that was broken off has left of a row; before any is added.
pub fn mend_rows(path: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(path) else {
        return Ok(());
    };
    if whole(&text).len() < text.len() {
        fs::write(path, whole(&text))?;
    }
    Ok(())
}

/// A row that was broken off has no end.
fn whole(text: &str) -> &str {
    &text[..text.rfind('\n').map_or(0, |end| end + 1)]
}

/// All whole rows of a file; none if there is none.
pub fn read_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let row = |line: &str| {
        serde_json::from_str(line).with_context(|| format!("{}: {line:.60}", path.display()))
    };
    whole(&text).lines().map(row).collect()
}

/// Adds a row.
pub fn append_row(path: &Path, row: &impl Serialize) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    let line = format!("{}\n", serde_json::to_string(row)?);
    Ok(file.write_all(line.as_bytes())?)
}

/// Which build a row is of: the beginning of the program's SHA-256.
pub fn digest(program: &Path) -> Result<String> {
    let said = Command::new("sha256sum").arg(program).output()?;
    ensure!(said.status.success(), "sha256sum {}", program.display());
    Ok(String::from_utf8_lossy(&said.stdout)
        .chars()
        .take(12)
        .collect())
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

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
