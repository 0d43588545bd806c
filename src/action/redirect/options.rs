//! The options of `--syn redirect=PORT`.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap::builder::BoolishValueParser;

use super::guard::{self, DESERTED};
use super::policy::STANDBY_EVERY;
use super::prepare::StandbyReady;
use super::to_standby::ToStandby;
use super::wire::{KILL_EVERY, KILL_FOR};
use crate::action::contract::{
    ActionEntry, Before, Description, HEADING, Planned, Prepared, Request, Standing, SynValue,
    Wanted, options,
};
use crate::action::elsewhere::LingerOptions;
use crate::decide::removal::OTHERS_PATIENCE;
use crate::kernel::services;
use crate::words::command_line::not_empty;
use crate::words::duration::duration;
use crate::words::ending::Ending;
use crate::words::gated::Gated;
use crate::words::limit::Limit::Time;
use crate::words::steer::Steer;

pub(crate) const ENTRY: ActionEntry = ActionEntry {
    name: "redirect",
    value: "redirect=PORT",
    help: "They, and their connections, go to PORT of the same address, where a standby listens",
    options: StandbyOptions::augment_args,
    parse,
    rows: &["redirect", "standby"],
    standing: Standing {
        shut: "is redirected to port",
        clients: "",
        open: Some("connections to its standby finish"),
        done: "redirected",
    },
    limits: &[
        ("Standby's look", Time(STANDBY_EVERY)),
        ("Standby's end", Time(DESERTED)),
        ("Standby's end", Time(KILL_EVERY)),
        ("Standby's end", Time(KILL_FOR)),
    ],
    guard: guard::call,
};

#[derive(Debug, Clone, Args)]
struct StandbyOptions {
    /// redirect: command that runs the standby
    ///
    /// Run by sh -c before the gate closes. It is stopped when the run ends, even by SIGKILL.
    #[arg(long, value_name = "CMD", help_heading = HEADING)]
    standby: Option<OsString>,

    /// redirect: command that tests the standby
    ///
    /// Run by sh -c, again and again until it succeeds. The gate closes after that.
    #[arg(long, value_name = "CMD", hide_short_help = true, help_heading = HEADING)]
    standby_check: Option<OsString>,

    /// redirect: max. time for the standby to listen, and for its check to succeed
    #[arg(long, value_name = "DUR", env = "SYNGATE_STANDBY_TIMEOUT", default_value = "10s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    standby_timeout: Duration,

    /// redirect: max. time for the standby to end after SIGTERM; then SIGKILL
    #[arg(long, value_name = "DUR", env = "SYNGATE_STANDBY_GRACE", default_value = "10s", value_parser = duration, allow_hyphen_values = true, hide_short_help = true, help_heading = HEADING)]
    standby_grace: Duration,

    /// redirect: leave the --standby running
    #[arg(long, env = "SYNGATE_KEEP_STANDBY", value_parser = BoolishValueParser::new(), hide_short_help = true, help_heading = HEADING)]
    keep_standby: bool,
}

fn parse(to: Option<&str>) -> Result<SynValue, String> {
    let to = to.ok_or(
        "the port is missing; expected the one that the standby listens on, as in redirect=8080",
    )?;
    Ok(Arc::new(StandbyPort(services::one_port(to)?)))
}

fn lines_make_sense(options: &StandbyOptions) -> Result<(), String> {
    not_empty("--standby", options.standby.as_ref())?;
    not_empty("--standby-check", options.standby_check.as_ref())
}

#[derive(Debug)]
struct StandbyPort(u16);

impl Wanted for StandbyPort {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn plan(&self, request: &Request) -> Result<Box<dyn Planned>, String> {
        let LingerOptions { linger } = options(request.given)?;
        let options: StandbyOptions = options(request.given)?;
        lines_make_sense(&options)?;
        let port = self.0;
        if request.gated.ports.contains(port) {
            return Err(format!(
                "--syn redirect={port}: {port} is gated itself; name the port that the standby \
                 listens on"
            ));
        }
        Ok(Box::new(ToStandby {
            port,
            linger,
            line: options.standby,
            check: options.standby_check,
            timeout: options.standby_timeout,
            grace: options.standby_grace,
            keep: options.keep_standby,
        }))
    }
}

impl ToStandby {
    fn describe_before(&self, gated: &Gated) -> Vec<String> {
        let (port, ports) = (self.port, gated.ports.brief());
        let mut lines = Vec::new();
        if let Some(start) = &self.line {
            let start = start.to_string_lossy();
            lines.push(format!("start the standby: sh -c '{start}'"));
        }
        lines.push(match self.line {
            Some(_) => format!(
                "wait at most {} until it listens on port {port} wherever {ports} is served",
                humantime::format_duration(self.timeout)
            ),
            None => {
                format!("check that a standby listens on port {port} wherever {ports} is served")
            }
        });
        if let Some(check) = &self.check {
            let check = check.to_string_lossy();
            lines.push(format!("and until this succeeds: sh -c '{check}'"));
        }
        lines
    }

    fn describe_after(&self) -> String {
        let then = match (&self.line, self.keep) {
            (Some(_), false) => format!(
                ", and stop it: SIGTERM, SIGKILL after {}",
                humantime::format_duration(self.grace)
            ),
            (Some(_), true) => ", and leave it running".to_owned(),
            (None, _) => String::new(),
        };
        let linger = humantime::format_duration(self.linger);
        format!("let connections to the standby finish within {linger}{then}")
    }
}

impl Planned for ToStandby {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn describe(&self, gated: &Gated) -> Description {
        Description {
            before: self.describe_before(gated),
            close: ", which go to the standby",
            after: vec![self.describe_after()],
            ..Description::default()
        }
    }

    fn steer(&self) -> Result<Option<Steer>> {
        Ok(Some(Steer::Redirect(self.port)))
    }

    fn lingers(&self) -> Duration {
        self.linger + self.grace + OTHERS_PATIENCE
    }

    fn prepare(&self, before: &mut Before) -> Result<Box<dyn Prepared>, Ending> {
        Ok(Box::new(StandbyReady::prepare(self, before)?))
    }
}
