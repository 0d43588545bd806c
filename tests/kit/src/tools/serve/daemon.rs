//! To the background without fork(): a second process is started which does
//! the work, and the first waits for its word.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};

const MARK: &str = "TESTKIT_BACKGROUND";

/// Whether we are that second process.
pub fn is_background() -> bool {
    env::var_os(MARK).is_some()
}

/// Starts it; returns when it listens.
pub fn start() -> Result<()> {
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut word = String::new();
    let stdout = child.stdout.take().context("stdout was piped")?;
    BufReader::new(stdout).read_line(&mut word)?;
    // It has said on stderr what went wrong.
    ensure!(word == "listening\n", "the server didn't come up");
    Ok(())
}

/// Lets go of all that ties this process to the one that started it.
pub fn detach() -> Result<()> {
    setsid()?;
    let null = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}
