use std::io::{self, Write};

use anyhow::Result;

/// Prints a line to stdout, at once: somebody may wait for it.
pub fn say(line: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
