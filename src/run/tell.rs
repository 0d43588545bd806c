//! Prints the last line and writes the report.

use std::path::Path;
use std::time::Instant;

use crate::cli::{Args, RunOptions};
use crate::process::signals::{Signals, asked_to_end};
use crate::run::dry_run::dry_run;
use crate::run::plan::{Plan, Refused, ports};
use crate::run::record::Record;
use crate::run::report::file;
use crate::run::report::json::Report;
use crate::tell::say::{Level, Say};
use crate::words::ending::{Ending, Outcome};
use crate::words::exit::{Exit, NOT_FOUND, NOT_RUN};
use crate::words::ports::PortSet;

pub(super) fn refusal(refused: Refused) -> Ending {
    match refused {
        Refused::Options(why) => Ending::not_run("options", why),
        Refused::Firewall(why) => Ending::not_gated("firewall", &why),
        // The report file can't be written, and the line for people says so.
        Refused::ReportFile(why) => Ending::not_run("report_file", why),
        Refused::Command(why) => {
            let reason = match why.status() {
                NOT_FOUND => "not_found",
                _ => "not_executable",
            };
            Ending::not_run_with(why.status(), reason, why.to_string())
        }
    }
}

/// Prints the line for people and writes the report. The gate is gone, so a signal may end a write
/// that is slow or blocks.
pub(super) fn tell(ending: &Ending, args: &Args, plan: Option<&Plan>, say: &Say, record: &Record) {
    Signals::unblock();
    let file = args.options.report_file.as_ref();
    if let Some(file) = file.filter(|_| ending.reason != "report_file") {
        let report = Report::new(&args.command, ports(&args.options), plan, record, ending);
        write(&report, record, file, say);
    }
    say.may_block(asked_to_end());
    match ending.outcome {
        Outcome::Ok => say.result(&ending.message),
        _ => say.error(&ending.message),
    }
}

fn write(report: &Report, record: &Record, file: &Path, say: &Say) {
    let json = report.to_json().map_err(Into::into);
    let written = json.and_then(|json| file::write(&json, &record.run, file));
    if let Err(error) = written {
        say.error(&format!("--report-file: {}: {error}", file.display()));
    }
}

/// Says why a call by name stands for no run, and writes that into the report, whose COMMAND is empty.
pub(crate) fn refuse(options: &RunOptions, why: &str, started: Instant) -> Exit {
    let say = Say::new(Level::Errors, started);
    let ending = Ending::not_run("name", why);
    if let Some(file) = &options.report_file {
        let record = Record::new();
        let report = Report::new(&[], PortSet::EMPTY, None, &record, &ending);
        write(&report, &record, file, &say);
    }
    say.error(&ending.message);
    ending.exit
}

/// In a dry run, prints the call that another one stands for.
///
/// # Errors
/// It can't be printed: how syngate ends.
pub(crate) fn print_call(shown: &str, args: &Args, say: &Say) -> Result<(), Exit> {
    if !args.options.dry_run {
        return Ok(());
    }
    match say.print(&format!("# {shown}\n"), Exit::Status(0), NOT_RUN) {
        Exit::Status(0) => Ok(()),
        failed => Err(failed),
    }
}

/// `by_environment`: the call itself does not show that this was a dry run. So it is said even with `-q`.
pub(super) fn tell_plan(planned: Result<Plan, Refused>, by_environment: bool, say: &Say) -> Exit {
    if by_environment {
        say.error("SYNGATE_DRY_RUN is set, so this is a dry run: COMMAND is not run");
    }
    match planned.and_then(|plan| dry_run(&plan)) {
        Ok(text) => say.print(&text, Exit::Status(0), NOT_RUN),
        Err(refused) => {
            let ending = refusal(refused);
            say.error(&ending.message);
            ending.exit
        }
    }
}

pub(super) fn level(args: &Args) -> Level {
    match (args.options.quiet, args.options.verbose) {
        (true, _) => Level::Errors,
        (_, true) => Level::Phases,
        _ => Level::Normal,
    }
}
