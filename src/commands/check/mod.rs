//! `syngate check`: tells what this host can do, what the service on the ports does, and what follows from both.
//! Looking leaves no trace.

mod advice;
mod answer;
mod auto;
mod backend;
pub(crate) mod endpoint;
mod findings;
mod host;
mod look;
mod nf_tables;
mod privileges;
pub(crate) mod proc;
mod rules;
pub(crate) mod service;
mod show;

use self::answer::answered;
use self::findings::Findings;
use crate::cli::CheckArgs;
use crate::commands::restart::stands;
use crate::tell::say::Say;
use crate::words::exit::{Exit, NOT_RUN, NOT_TOLD};
use crate::words::ports::PortSet;

/// The exit status if no gate can be closed here.
const NO_GATE: u8 = 1;

pub(crate) fn run(args: &CheckArgs, say: &Say) -> Exit {
    let stands = match args.name.as_deref().map(stands).transpose() {
        Ok(stands) => stands,
        Err(why) => {
            say.error(&format!("{why:#}"));
            return Exit::Status(NOT_RUN);
        }
    };
    let found = stands.iter().map(|stands| &stands.ports);
    let wanted = { args.ports.iter() }
        .chain(found.filter(|_| args.ports.is_empty()))
        .fold(PortSet::EMPTY, |all, some| all.union(some));
    let mut findings = Findings::look((!wanted.is_empty()).then_some(&wanted));
    if let Some(stands) = stands {
        findings.name(stands);
    }
    findings.answer = answered(&findings);
    let text = if args.json {
        let json = serde_json::to_string_pretty(&findings).expect("all of it has a form in JSON");
        format!("{json}\n")
    } else {
        show::page(&findings)
    };
    let exit = say.print(&text, Exit::Status(0), NOT_TOLD);
    match &findings.refusal {
        None => exit,
        Some(why) => {
            say.error(&format!("no gate can be closed here: {why}"));
            Exit::Status(NO_GATE)
        }
    }
}
