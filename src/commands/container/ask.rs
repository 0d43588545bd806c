//! Asks docker and podman about a container.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::SigSet;

use super::engines::{Askable, askable};
use super::inspect::Container;
use crate::process::beside::Beside;
use crate::process::environment::environment;
use crate::process::signals::wants_to_end;
use crate::words::container::{ContainerName, Engine};
use crate::words::ended::CommandExit;
use crate::words::meant::{meant, question};
use crate::words::run_id::new_id;

/// A program that has not answered by then is killed.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// The same after a run, which should end then.
pub(crate) const ANSWERS_AT_LAST: Duration = Duration::from_secs(2);
/// How long to wait for the end of one that was killed.
const KILLED_WITHIN: Duration = Duration::from_millis(100);
/// How much is read of what it prints. A container with all its labels takes some ten thousand bytes.
pub(crate) const ANSWER_MAX: usize = 1024 * 1024;
/// The status with which a shell tells that there is no such program.
const NO_PROGRAM: CommandExit = CommandExit::Code(127);

/// What docker or podman says.
enum Answer {
    NotInstalled,
    /// It knows no such container.
    Unknown,
    /// Why it could not look.
    Failed(String),
    Known(Box<Container>),
}

/// What docker and podman together say.
pub(super) enum Looked {
    Known(Engine, Box<Container>),
    Unknown(Unknown),
}

/// Why no container was found.
pub(super) struct Unknown {
    /// These were asked, and know no such container.
    asked: Vec<Engine>,
    /// Why others were not.
    unasked: Vec<String>,
}

impl Unknown {
    /// The names of the containers that those know which were asked.
    pub(super) fn names(&self) -> Vec<String> {
        let lists = self.asked.iter().filter_map(|engine| {
            let (exit, printed) = run(
                &format!("exec {engine} ps -a --format '{{{{.Names}}}}' 2>/dev/null"),
                ANSWERS_WITHIN,
            )
            .ok()?;
            (exit == Some(CommandExit::Code(0))).then_some(printed)
        });
        let texts = lists.map(|printed| String::from_utf8_lossy(&printed).into_owned());
        let lines: Vec<String> = texts.collect();
        let names = lines.iter().flat_map(|text| text.lines());
        names.map(|name| name.trim().to_owned()).collect()
    }

    fn told(&self, name: &ContainerName) -> String {
        let unasked = self.unasked.join("; ");
        if self.asked.is_empty() && self.unasked.is_empty() {
            return match name.engine {
                Some(engine) => format!("--container {name}: {engine} is not in PATH"),
                None => format!("--container {name}: neither docker nor podman is in PATH"),
            };
        }
        if self.asked.is_empty() {
            let name = &name.name;
            return format!(
                "--container {name}: it could not be looked up: {unasked}; docker:{name} or podman:{name} asks all the same"
            );
        }
        let lists: Vec<String> = self
            .asked
            .iter()
            .map(|engine| format!("{engine} ps"))
            .collect();
        let unasked = match unasked.as_str() {
            "" => String::new(),
            why => format!(" ({why})"),
        };
        format!(
            "--container {name}: there is no such container for this user; expected one that {} lists{unasked}{}",
            lists.join(" or "),
            question(meant(&name.name, self.names()))
        )
    }
}

/// # Errors
/// No program has such a container, both have, or none could look.
pub(super) fn find(name: &ContainerName) -> Result<(Engine, Container)> {
    match look(name)? {
        Looked::Known(engine, container) => Ok((engine, *container)),
        Looked::Unknown(unknown) => bail!("{}", unknown.told(name)),
    }
}

/// # Errors
/// Both programs have such a container, or one could not look, and the other has none.
pub(super) fn look(name: &ContainerName) -> Result<Looked> {
    let mut known = Vec::new();
    let (mut asked, mut unasked, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for engine in name.engines() {
        match askable(engine) {
            // It is named, so its trace is what the caller wants.
            Askable::No(_) if name.engine.is_some() => {}
            Askable::No(why) => {
                unasked.push(format!("{engine} was not asked, since {why}"));
                continue;
            }
            Askable::NotInstalled => continue,
            Askable::Yes => {}
        }
        match ask(engine, &name.name, ANSWERS_WITHIN)? {
            Answer::NotInstalled => {}
            Answer::Unknown => asked.push(engine),
            Answer::Failed(why) => failed.push(format!("{engine}: {why}")),
            Answer::Known(container) => known.push((engine, container)),
        }
    }
    // A `docker` that is podman finds the same container.
    if known.len() == 2 && known[0].1.id == known[1].1.id {
        known.remove(0);
    }
    let name = &name.name;
    ensure!(
        known.len() < 2,
        "--container {name}: both docker and podman have one of that name; expected docker:{name} or podman:{name}"
    );
    match known.pop() {
        Some((engine, container)) => Ok(Looked::Known(engine, container)),
        None if !failed.is_empty() => bail!(
            "--container {name}: what it is could not be looked up: {}",
            failed.join("; ")
        ),
        None => Ok(Looked::Unknown(Unknown { asked, unasked })),
    }
}

/// After a run: asks who had the container before it. `None`: there is none of that name any more.
///
/// # Errors
/// Why it could not look.
pub(super) fn again(name: &ContainerName, engine: Engine) -> Result<Option<Box<Container>>> {
    match askable(engine) {
        Askable::NotInstalled => bail!("{engine} is not in PATH"),
        Askable::No(why) if name.engine.is_none() => bail!(why),
        Askable::No(_) | Askable::Yes => {}
    }
    match ask(engine, &name.name, ANSWERS_AT_LAST)? {
        Answer::NotInstalled => bail!("{engine} is not in PATH"),
        Answer::Failed(why) => bail!(why),
        Answer::Unknown => Ok(None),
        Answer::Known(container) => Ok(Some(container)),
    }
}

fn ask(engine: Engine, name: &str, within: Duration) -> Result<Answer> {
    let line = format!("{engine} container inspect {name}");
    let (exit, printed) = run(&format!("exec {line} 2>/dev/null"), within)?;
    match exit {
        Some(CommandExit::Code(0)) => {
            let container = Container::read(&printed);
            let container = container
                .map_err(|why| anyhow!("syngate does not understand what {line} printed: {why}"))?;
            return Ok(Answer::Known(Box::new(container)));
        }
        Some(NO_PROGRAM) => return Ok(Answer::NotInstalled),
        None if wants_to_end() => {
            return Ok(Answer::Failed("a signal has ended the question".to_owned()));
        }
        None => {
            return Ok(Answer::Failed(format!("no answer within {within:?}")));
        }
        Some(_) => {}
    }
    let (_, said) = run(&format!("exec {line} 2>&1 >/dev/null"), within)?;
    Ok(failure(&String::from_utf8_lossy(&said)))
}

/// Why it failed, from what it said: docker says `No such container: web`, podman `no such container web`.
fn failure(said: &str) -> Answer {
    let lower = said.to_lowercase();
    let nothing = [
        "no such container",
        "no such object",
        "no container with name",
    ];
    match nothing.iter().any(|words| lower.contains(words)) {
        true => Answer::Unknown,
        false => {
            let last = said.trim().lines().next_back().unwrap_or_default();
            let why = last.trim_start_matches("Error: ");
            Answer::Failed(match why.is_empty() {
                true => "it has failed".to_owned(),
                false => why.to_owned(),
            })
        }
    }
}

/// How it ended, and what it printed. `None`: it takes too long.
fn run(line: &str, within: Duration) -> Result<(Option<CommandExit>, Vec<u8>)> {
    let mask = SigSet::thread_get_mask().context("the signal mask")?;
    let program = Beside::ask(OsStr::new(line), &environment(&new_id()), &mask);
    let program = program.context("sh can't be started")?;
    let exit = { program.child() }.wait(Instant::now() + within, wants_to_end);
    if exit.is_none() {
        program.kill(KILLED_WITHIN);
    }
    Ok((exit, program.output_up_to(ANSWER_MAX)))
}
