//! `syngate restart NAME`, `reload NAME` and `run NAME`: finds out what NAME is and where it listens, and writes the
//! call of syngate in its long form. That call is then a run as any other.

mod aftermath;
mod listening;
mod long_form;
mod of_script;
mod precheck;
mod script;
mod service;
mod tested;
mod turn;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Instant;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use serde::Serialize;

pub(crate) use self::aftermath::Aftermath;
use self::aftermath::listens_elsewhere;
use self::listening::Listening;
use self::long_form::{FoundOptions, Work, long_form};
pub(crate) use self::of_script::MOST_PID_FILES;
pub(crate) use self::service::LARGEST_SCRIPT;
use self::service::Service;
use self::tested::{called_here, precheck};
use crate::cli::{Args, Named, NamedArgs, NamedRun, Parsed, Profile, parse};
use crate::commands::check::endpoint::Control;
use crate::commands::container::{self, ByName};
use crate::commands::long_form::{CONTAINER, LongForm, add, option, to_write};
use crate::kernel::service_files::{self, SCRIPTS};
use crate::process::own_unit::booted;
use crate::process::profile;
use crate::run::{self, forgotten, plan};
use crate::tell::say::{Level, Say};
use crate::words::exit::Exit;
use crate::words::meant::{meant, question};
use crate::words::ports::{PortSet, as_ranges};
use crate::words::unit_name::stem;

#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    precheck::withstand(bytes);
    script::withstand(bytes);
}

/// A call by name, and what it stands for.
struct Translated {
    form: LongForm,
    /// What NAME is, for people.
    what: String,
    /// What starts it, if that is a unit or an init script.
    control: Option<Control>,
    /// The ports that were found.
    listening: Listening,
    /// The ports on which somebody listens.
    served: PortSet,
    /// What tests its configuration, as far as syngate knows.
    test: Option<String>,
    /// What the profile says that is not done, for people.
    unused: Option<String>,
}

/// The run that the call stands for, and what is to be looked at when it is over.
///
/// # Errors
/// How syngate ends where there is none. It has said why.
pub(crate) fn run_of(
    named: &Named,
    started: Instant,
) -> Result<(Box<Args>, Option<Aftermath>), Exit> {
    let refused = |why: String| run::refuse(&named.args().options, &why, started);
    let refused_by = |error: Error| refused(format!("{error:#}"));
    let translated = translate(named).or_else(|error| {
        let level = match named.args().options.quiet {
            true => Level::Errors,
            false => Level::Normal,
        };
        let say = Say::new(level, started);
        match turn::await_other_run(named, &say)? {
            true => translate(named),
            false => Err(error),
        }
    });
    let translated = translated.map_err(refused_by)?;
    match parse(translated.form.words()) {
        Parsed::Run(mut args) => {
            if let Some(why) = translated.refusal(named, &args) {
                return Err(refused(why));
            }
            translated.tell(&args, started)?;
            args.by_name = translated.known(named, &args);
            let aftermath = {
                let Translated {
                    control,
                    listening,
                    test,
                    ..
                } = translated;
                Aftermath::of(control, &listening, test, &args)
            };
            Ok((args, aftermath))
        }
        Parsed::Wrong(why) => Err(refused(why)),
        _ => unreachable!("it has options and a COMMAND"),
    }
}

/// What a name stands for, for `syngate check`.
#[derive(Debug, Serialize)]
pub(crate) struct Stands {
    #[serde(skip)]
    pub(crate) name: String,
    /// The value of `--syn` with which it is restarted.
    #[serde(skip)]
    pub(crate) syn: String,
    /// What it is, for people.
    pub(crate) what: String,
    /// What is special about its ports.
    pub(crate) remarks: Vec<String>,
    /// The calls in the long form.
    pub(crate) restart: String,
    /// Null: it can't reload.
    pub(crate) reload: Option<String>,
    /// Null: there is no profile with a command.
    pub(crate) run: Option<String>,
    #[serde(serialize_with = "as_ranges")]
    pub(crate) ports: PortSet,
}

/// Looks what a name stands for. Changes nothing, and reads no environment.
///
/// # Errors
/// Nothing, or its profile is wrong.
pub(crate) fn stands(name: &str) -> Result<Stands> {
    let args = || NamedArgs::of(name);
    let restart = translate(&Named::Restart(args()))?;
    let form = |named| translate(&named).ok().map(|other| other.form.shown());
    let ports = restart.ports()?;
    let mut lines = restart.lines(&ports);
    Ok(Stands {
        name: stem(name).to_owned(),
        syn: restart
            .form
            .syn()
            .unwrap_or("drop".as_ref())
            .to_string_lossy()
            .into(),
        what: lines.remove(0),
        remarks: lines,
        restart: restart.form.shown(),
        reload: form(Named::Reload(args())),
        run: form(Named::Run(args())),
        ports,
    })
}

fn translate(named: &Named) -> Result<Translated> {
    let args = named.args();
    ensure!(
        !(args.no_precheck && args.options.precheck.is_some()),
        "--precheck and --no-precheck exclude each other: leave one of them out"
    );
    let profile = profile_of(named).map_err(Error::msg)?;
    let service = match named {
        Named::Run(_) => None,
        _ => Service::find(&args.name)?,
    };
    match (service, profile) {
        (Some(service), profile) => of_service(named, &service, profile.as_ref()),
        (None, Some(profile)) => of_profile(named, &profile),
        (None, None) => of_container(named),
    }
}

fn profile_of(named: &Named) -> Result<Option<Profile>, String> {
    let file = profile::file_of(named.short());
    let bytes = profile::read(&file)?;
    bytes.map(|bytes| Profile::read(&file, &bytes)).transpose()
}

/// Restarts or reloads what is running now.
fn of_service(named: &Named, service: &Service, profile: Option<&Profile>) -> Result<Translated> {
    let (who, word) = (service.shown(), named.word());
    if matches!(named, Named::Reload(_)) && !service.can_reload() {
        bail!(
            "{who} can't reload: syngate restart {} restarts it",
            named.short()
        );
    }
    let found = service.look().with_context(|| who.clone())?;
    let no_precheck = named.args().no_precheck || profile.is_some_and(|p| p.no_precheck);
    let test = precheck(&found);
    let options = FoundOptions {
        ports: (!found.listening.ports.is_empty()).then(|| found.listening.ports.to_string()),
        work: match named {
            Named::Reload(_) => Work::Reloads,
            _ => Work::Restarts,
        },
        precheck: test.clone().filter(|_| !no_precheck),
    };
    let command = called_here(service.command(word));
    let form = long_form(named.args(), profile, &options, command);
    ensure!(form.has_ports(), "{}", service.silent(&found, named));
    let with = profile.map(|profile| format!(" with {}", profile.file.display()));
    let unused = profile.filter(|profile| !profile.command.is_empty());
    Ok(Translated {
        form,
        what: who.clone() + &with.unwrap_or_default(),
        control: Some(service.control()),
        listening: found.listening,
        served: found.served,
        test,
        unused: unused.map(|profile| {
            let (file, short) = (profile.file.display(), named.short());
            format!(
                "{file}: its command is not run, since {who} is there; syngate run {short} runs it"
            )
        }),
    })
}

/// Runs the command of a profile.
fn of_profile(named: &Named, profile: &Profile) -> Result<Translated> {
    let (file, short) = (profile.file.display(), named.short());
    ensure!(
        !matches!(named, Named::Reload(_)),
        "{short} is a profile alone ({file}), and no service that can reload: syngate run {short} runs its command"
    );
    ensure!(
        !profile.command.is_empty(),
        "{file} has no command; expected one, such as command=service web restart, or a unit or init script of \
         the name {short}"
    );
    let found = FoundOptions::default();
    let command = profile.command.iter().map(OsString::from).collect();
    let form = long_form(named.args(), Some(profile), &found, command);
    ensure!(
        form.has_ports(),
        "{file} has no port; expected one, such as port=80,443"
    );
    Ok(Translated {
        form,
        what: file.to_string(),
        control: None,
        listening: Listening::default(),
        served: PortSet::EMPTY,
        test: None,
        unused: None,
    })
}

/// Restarts the container of that name. What it publishes the run finds itself.
fn of_container(named: &Named) -> Result<Translated> {
    if !matches!(named, Named::Restart(_)) {
        return Err(unknown(named, Vec::new()));
    }
    let found = container::by_name(named.short());
    match found.with_context(|| unknown(named, Vec::new()))? {
        ByName::NotThere(others) => Err(unknown(named, others)),
        ByName::There(name, command) => {
            let mut options = to_write(&named.args().given);
            add(&mut options, option(CONTAINER, Some(&name)));
            Ok(Translated {
                form: LongForm::new(options, command),
                what: name,
                control: None,
                listening: Listening::default(),
                served: PortSet::EMPTY,
                test: None,
                unused: None,
            })
        }
    }
}

/// `containers`: the names of those that are there.
fn unknown(named: &Named, containers: Vec<String>) -> Error {
    let (short, file) = (named.short(), profile::file_of(named.short()));
    let profiles = profile::names();
    match named {
        Named::Run(_) => anyhow!(
            "there is no profile {}{}; syngate restart {short} is for a service",
            file.display(),
            meant(short, profiles)
                .map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
        ),
        _ if short.bytes().all(|byte| byte.is_ascii_digit()) => anyhow!(
            "{short} is no service here: ports come behind --port, as in syngate check --port {short}"
        ),
        _ => {
            let units = service_files::units().filter(|_| booted());
            let services = service_files::scripts().chain(units);
            let all: BTreeSet<String> = services.chain(profiles).chain(containers).collect();
            anyhow!(
                "{short} is no service here: there is no unit {}, no init script {SCRIPTS}/{short}, and no profile \
                 {}{}",
                named.args().name,
                file.display(),
                question(meant(short, all))
            )
        }
    }
}

impl Translated {
    /// Why the ports that are given can't be meant: the service is up, and nobody listens there.
    fn refusal(&self, named: &Named, args: &Args) -> Option<String> {
        let (gated, own) = (plan::ports(&args.options), &self.listening.ports);
        let is_served = !gated.intersection(&self.served).is_empty();
        if own.is_empty() || gated.is_empty() || is_served || listens_elsewhere(&args.options) {
            return None;
        }
        let (name, gated, own) = (named.short(), gated.brief(), own.brief());
        Some(format!(
            "{name} does not listen on {gated}; it listens on {own}"
        ))
    }

    /// What the run is told of the service. `None`: syngate has not looked where the run looks.
    fn known(&self, named: &Named, args: &Args) -> Option<NamedRun> {
        if self.control.is_none() || args.options.dry_run || listens_elsewhere(&args.options) {
            return None;
        }
        let (gated, own) = (plan::ports(&args.options), &self.listening);
        let forgotten = own.ports.minus(&own.loopback).minus(&gated);
        let test = self.test.as_ref().map(OsString::from);
        Some(NamedRun {
            name: named.short().to_owned(),
            is_up: !own.ports.is_empty(),
            reloads: matches!(named, Named::Reload(_)),
            test_is_found: test.is_some() && self.form.precheck() == test.as_deref(),
            forgotten: forgotten::words(&own.who, &forgotten, &gated),
        })
    }

    fn ports(&self) -> Result<PortSet> {
        match parse(self.form.words()) {
            Parsed::Run(args) => Ok(plan::ports(&args.options)),
            Parsed::Wrong(why) => bail!("{why}"),
            _ => unreachable!("it has options and a COMMAND"),
        }
    }

    /// What it is, and what is special about it.
    fn lines(&self, ports: &PortSet) -> Vec<String> {
        let mut lines = match ports.is_empty() {
            // Those of a container.
            true => vec![self.what.clone()],
            false => self.listening.lines(&self.what, ports),
        };
        lines.extend(self.unused.clone());
        if self.control.is_some()
            && self.listening.ports.is_empty()
            && self.form.precheck().is_none()
        {
            lines.push("it is down, so syngate does not know how to test its configuration: --precheck CMD tests it".to_owned());
        }
        lines
    }

    /// Says what the call stands for, before it is carried out.
    fn tell(&self, args: &Args, started: Instant) -> Result<(), Exit> {
        // The run finds and tells what the container publishes.
        if args.options.container.is_some() {
            return Ok(());
        }
        let say = run::say(args, started);
        run::print_call(&self.form.shown(), args, &say)?;
        let ports = plan::ports(&args.options);
        for line in self.lines(&ports) {
            say.result(&line);
        }
        // The plan of a dry run has it.
        let precheck = self.form.precheck().filter(|_| !args.options.dry_run);
        if let Some(precheck) = precheck {
            say.result(&format!("precheck: {}", precheck.to_string_lossy()));
        }
        Ok(())
    }
}
