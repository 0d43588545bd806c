//! `--container NAME`: finds out which ports the container publishes, where it listens and when it is healthy. Writes
//! the call of syngate in its long form. That call is then carried out, as any other run.

mod ask;
mod engines;
mod found;
mod inspect;
mod storage;

use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use anyhow::{Error, Result, ensure};

use self::ask::Looked;
use self::found::{Call, Found, Wanted, call};
use self::inspect::{Container, Network};
use crate::cli::{Args, Parsed, parse};
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::{Looks, Want};
use crate::process::ancestry::descends_from;
use crate::run::{self, plan};
use crate::tell::say::{Level, Say};
use crate::words::container::{ContainerName, Engine};
use crate::words::exit::Exit;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

pub(crate) use self::ask::{ANSWER_MAX, ANSWERS_AT_LAST, ANSWERS_WITHIN};

#[cfg(any(fuzzing, test))]
pub(crate) use self::inspect::withstand;

/// The run that the call stands for, and who has the container.
///
/// # Errors
/// How syngate ends where there is none. It has said why.
pub(crate) fn run_of(
    args: &Args,
    name: &ContainerName,
    started: Instant,
) -> Result<(Box<Args>, Engine), Exit> {
    let refused = |why: String| run::refuse(&args.options, &why, started);
    let (call, engine) = translate(args, name).map_err(|error| refused(format!("{error:#}")))?;
    match parse(call.form.words()) {
        Parsed::Run(mut long) => {
            long.by_environment = args.by_environment;
            tell(&call, &long, started).map(|()| (long, engine))
        }
        Parsed::Wrong(why) => Err(refused(why)),
        _ => unreachable!("it has options and a COMMAND"),
    }
}

/// A container by its name.
pub(super) enum ByName {
    /// Its name with that of its program, and the words that restart it.
    There(String, Vec<OsString>),
    /// docker and podman know none, were not asked, or are not there. The names that they know.
    NotThere(Vec<String>),
}

/// # Errors
/// They could not look, or both have one.
pub(super) fn by_name(name: &str) -> Result<ByName> {
    let Ok(name) = ContainerName::parse(name) else {
        return Ok(ByName::NotThere(Vec::new()));
    };
    Ok(match ask::look(&name)? {
        Looked::Unknown(unknown) => ByName::NotThere(unknown.names()),
        Looked::Known(engine, _) => {
            let words = [engine.program(), "restart", &name.name].map(OsString::from);
            ByName::There(format!("{engine}:{}", name.name), words.into())
        }
    })
}

/// After a run that has failed: whether the container is down, and what helps. `engine`: who had it.
pub(crate) fn tell_after(name: &ContainerName, engine: Engine, exit: Exit, started: Instant) {
    if exit == Exit::Status(0) {
        return;
    }
    let say = Say::new(Level::Errors, started);
    let asked = ask::again(name, engine);
    let name = &name.name;
    match asked {
        Ok(Some(container)) if container.pid.is_some() => (),
        Ok(Some(container)) => {
            let status = container.status;
            say.error(&format!(
                "{name} is {status} ({engine}), so new clients of its ports are refused"
            ));
            say.error(&format!(
                "{engine} logs {name} tells why; {engine} start {name} starts it"
            ));
        }
        Ok(None) => say.error(&format!(
            "there is no container {name} any more, so new clients of its ports are refused: COMMAND has not made a new \
             one"
        )),
        Err(why) => say.error(&format!(
            "whether the container {name} runs is not known: {engine} could not be asked: {why}"
        )),
    }
}

fn translate(args: &Args, name: &ContainerName) -> Result<(Call, Engine)> {
    let (engine, container) = ask::find(name)?;
    let is_here = |pid: i32| Path::new("/proc").join(pid.to_string()).exists();
    ensure!(
        container.pid.is_none_or(is_here),
        "--container {name}: {engine} tells of a process that is not on this host: it was asked about another one \
         (DOCKER_HOST, docker context, CONTAINER_HOST)"
    );
    let found = Found {
        engine,
        name: name.name.clone(),
        here: here(&container)?,
        container,
    };
    let wanted = Wanted {
        options: &args.given,
        command: &args.command,
        ports: plan::ports(&args.options),
        listen_ports: args.options.listen_port.clone(),
        ready_timeout: args.options.ready_timeout,
    };
    let call = call(&wanted, &found);
    let call = call.map_err(|why| Error::msg(format!("--container {name}: {why}")))?;
    Ok((call, engine))
}

/// The ports on which its processes listen on this host.
fn here(container: &Container) -> Result<PortSet> {
    let (Network::Host, Some(root)) = (&container.network, container.pid) else {
        return Ok(PortSet::EMPTY);
    };
    let want = Want {
        holders: true,
        ..Want::default()
    };
    let there = Sockets::new(&PortSet::all(), &Scope::default())?.look(want)?;
    let own = there
        .holders
        .iter()
        .filter(|(pid, _)| descends_from(**pid, root));
    let inodes: Vec<u32> = own.flat_map(|(_, holder)| holder.inodes.clone()).collect();
    let listeners = there
        .listeners
        .iter()
        .filter(|one| inodes.contains(&one.inode));
    Ok(listeners.map(|one| one.port).collect())
}

/// Says what the call stands for, before it is carried out.
fn tell(call: &Call, args: &Args, started: Instant) -> Result<(), Exit> {
    let say = run::say(args, started);
    run::print_call(&call.form.shown(), args, &say)?;
    call.lines.iter().for_each(|line| say.result(line));
    Ok(())
}
