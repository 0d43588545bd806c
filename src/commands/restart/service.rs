//! What NAME is on this host: a unit of systemd's, an init script, or neither; and what it listens on.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::SigSet;

use super::listening::{Found, INIT, Owner, listening, served};
use super::of_script::of_script;
use super::script::Script;
use crate::cli::Named;
use crate::commands::check::endpoint::Control;
use crate::kernel::caps;
use crate::kernel::control_group;
use crate::kernel::port_range::chosen_by_kernel;
use crate::kernel::service_files;
use crate::kernel::sockets::diag::Sockets;
use crate::kernel::sockets::holders::{Holder, file_of};
use crate::kernel::sockets::{Looks, Sample, Want};
use crate::process::environment::environment;
use crate::process::own_unit::booted;
use crate::process::signals::wants_to_end;
use crate::process::systemctl::{Question, read};
use crate::words::command_line::command_line;
use crate::words::ports::PortSet;
use crate::words::run_id::new_id;
use crate::words::scope::Scope;
use crate::words::unit_answer::Answer;
use crate::words::unit_name::stem;

/// A file that is larger is no script, in bytes.
pub(crate) const LARGEST_SCRIPT: usize = 1024 * 1024;
#[derive(Debug)]
pub(super) enum Service {
    Unit(Box<Answer>),
    Script(String, Script),
}

impl Service {
    /// `name`: with `.service`. `None`: neither systemd nor init scripts know it.
    ///
    /// # Errors
    /// systemd does not tell, or nobody can start the unit.
    pub(super) fn find(name: &str) -> Result<Option<Service>> {
        if let Some(answer) = ask(name)? {
            if let Some(why) = answer.refusal() {
                bail!("{name}: {why}");
            }
            return Ok(Some(Service::Unit(Box::new(answer))));
        }
        let name = stem(name);
        let Some(file) = service_files::script(name) else {
            return Ok(None);
        };
        let shown = || file.display().to_string();
        let size = file.metadata().with_context(shown)?.len();
        ensure!(
            size <= LARGEST_SCRIPT as u64,
            "{}: it is too large for a script",
            shown()
        );
        let text = fs::read(&file).with_context(shown)?;
        let script = Script::read(name, &String::from_utf8_lossy(&text));
        Ok(Some(Service::Script(name.to_owned(), script)))
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        self.control().shown()
    }

    pub(super) fn control(&self) -> Control {
        match self {
            Service::Unit(unit) => Control::Systemd(unit.id.clone()),
            Service::Script(name, _) => Control::Init(name.clone()),
        }
    }

    /// The words that restart or reload it.
    pub(super) fn command(&self, verb: &str) -> Vec<OsString> {
        self.control().command(verb)
    }

    pub(super) fn can_reload(&self) -> bool {
        match self {
            Service::Unit(unit) => unit.can_reload(),
            Service::Script(_, script) => script.reloads,
        }
    }

    /// # Errors
    /// The kernel does not list its sockets, or the ports that it chooses.
    pub(super) fn look(&self) -> Result<Found> {
        let all = PortSet::from_ranges([1..=u16::MAX]);
        let want = Want {
            holders: true,
            ..Want::default()
        };
        let there = Sockets::new(&all, &Scope::default())?.look(want)?;
        let random = chosen_by_kernel()?;
        Ok(match self {
            Service::Unit(unit) => of_unit(unit, random, there),
            Service::Script(name, script) => of_script(name, script, random, &there),
        })
    }

    /// Why no ports were found, and what to do.
    pub(super) fn silent(&self, found: &Found, named: &Named) -> String {
        let (who, looked_at) = (self.shown(), &found.looked_at);
        let verb = named.word();
        let by_hand = command_line(&self.command(verb));
        let name_them = format!(
            "name its ports: syngate {verb} {} --port PORT",
            named.short()
        );
        let kept = &found.listening.kept;
        if let Some(several) = &found.several {
            return format!("{who}: several processes may be it ({several}): {name_them}");
        }
        match self {
            _ if !kept.is_empty() => format!(
                "{who} listens on {} alone, which systemd holds open: that needs no gate; {by_hand}",
                kept.brief()
            ),
            Service::Unit(unit) if !unit.is_active() => format!(
                "{who} is {}, so nobody listens on its ports: systemctl start {who} starts it; or {name_them}",
                unit.state()
            ),
            _ if !caps::sys_ptrace() => format!(
                "whose listeners these are can't be seen: run it as root (sudo); or {name_them}"
            ),
            Service::Unit(_) => {
                format!("{who} listens on no TCP port: {name_them} (looked at {looked_at})")
            }
            Service::Script(name, _) => format!(
                "{name} listens on no TCP port: if it is down, start it: service {name} start; if it runs, {name_them} \
                 (looked at {looked_at})"
            ),
        }
    }
}

/// What systemd calls the state of a unit. `None`: it does not tell.
pub(super) fn state_of(unit: &str) -> Option<String> {
    let answer = ask(unit).ok().flatten()?;
    Some(answer.state().to_owned())
}

/// `None`: there is no such unit, or no systemd.
fn ask(name: &str) -> Result<Option<Answer>> {
    let mask = SigSet::thread_get_mask().context("the signal mask")?;
    let question = Question::ask(name, &environment(&new_id()), &mask);
    let said = question.and_then(|question| read(&question.wait_unless(wants_to_end)?));
    match said {
        Ok(answer) => Ok(Some(answer).filter(|answer| !answer.is_missing())),
        // Where another init runs, systemctl may be there, and knows nothing.
        Err(error) => match booted() {
            true => Err(error.context(name.to_owned())),
            false => Ok(None),
        },
    }
}

/// A look at the listeners ends where each has a holder. systemd, which has many files, is one beside the service.
fn hold_by_manager(there: &mut Sample) {
    let inodes = there.listeners.iter().map(|listener| listener.inode);
    let held: Vec<u32> = inodes
        .filter(|inode| file_of(INIT, *inode).is_some())
        .collect();
    let manager = there.holders.entry(INIT).or_insert_with(|| Holder {
        name: "systemd".to_owned(),
        started: 0,
        inodes: Vec::new(),
        files: Vec::new(),
    });
    manager.inodes.extend(held);
}

fn of_unit(unit: &Answer, random: PortSet, mut there: Sample) -> Found {
    let path = unit.control_group();
    let group = path.as_deref().and_then(control_group::at);
    let main = unit.main_process();
    let manager = unit.sockets().next().map(|_| INIT);
    if manager.is_some() {
        hold_by_manager(&mut there);
    }
    let mut owner = Owner {
        manager,
        random,
        alone: main.filter(|_| unit.spares_children()),
        ..Owner::default()
    };
    if let Some(group) = &group {
        owner.control_groups = control_group::ids_in(group);
        owner.processes = control_group::processes_in(group);
    }
    owner.processes.extend(main);
    let group = path.unwrap_or_else(|| "that systemctl does not name".to_owned());
    Found {
        served: served(&there),
        listening: listening(&owner, &there),
        main,
        several: None,
        looked_at: format!(
            "the control group {group} and its {} processes",
            owner.processes.len()
        ),
    }
}
