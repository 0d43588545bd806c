use std::{env, path::PathBuf};

use anyhow::{Context, Result};

/// The `testkit` program: `$TESTKIT_BIN`, or the one that cargo built beside
/// the running test.
pub fn bin() -> Result<PathBuf> {
    if let Some(path) = env::var_os("TESTKIT_BIN") {
        return Ok(path.into());
    }
    let me = env::current_exe()?;
    // A test is target/debug/deps/name-hash, the program target/debug/testkit.
    me.ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join("testkit"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no testkit program beside {}: run `cargo build -p testkit` or set TESTKIT_BIN",
                me.display()
            )
        })
}
