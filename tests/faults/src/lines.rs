//! This program inside a host: it is told what to do there by lines of JSON, and answers by such.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::{Serialize, de::DeserializeOwned};
use testkit::{Host, Running};

/// As long as it is not dropped.
pub struct Inside {
    said: BufReader<ChildStdout>,
    orders: ChildStdin,
    _running: Running,
}

impl Inside {
    /// Starts it with these arguments; its first answer comes by itself.
    pub fn start<T: DeserializeOwned>(host: &Host, arguments: &[&str]) -> Result<(Inside, T)> {
        let mut command = host.command(std::env::current_exe()?);
        command.args(arguments);
        let mut running = host.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let said = running.stdout().context("stdout was piped")?;
        let orders = running.stdin().context("stdin was piped")?;
        let mut inside = Inside {
            said: BufReader::new(said),
            orders,
            _running: running,
        };
        let first = inside.answer()?;
        Ok((inside, first))
    }

    /// Has it done.
    pub fn ask<T: DeserializeOwned>(&mut self, order: &impl Serialize) -> Result<T> {
        let order = serde_json::to_string(order)?;
        writeln!(self.orders, "{order}")?;
        self.answer().context(order)
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        ensure!(!line.is_empty(), "what runs inside the host has ended");
        Ok(serde_json::from_str(&line)?)
    }
}
