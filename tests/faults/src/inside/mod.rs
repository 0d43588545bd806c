//! What runs inside a host: a service, and one trial after the other.

mod look;
mod runs;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    io::{BufRead, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use testkit::{digest, say, slow};

use crate::{
    account::{Account, Sources},
    clock::{busy, now_ms},
    command, counters,
    leftovers::{processes, ruleset},
    neighbour::{self, Neighbour},
    rooms::Traces,
    setting::{BESIDE, Place, Scene, max_closed, ran_ms},
    subject::Subject,
    trial::{Shown, Trial, Tried},
    verdict::violations,
};

/// How long the rules and the guards of a killed run may stay. It is long, because the guard may first have to end a
/// standby.
fn soon() -> Duration {
    Duration::from_secs(5) * slow()
}

/// Prepares the host; prints the points of a run that is not hit; then, for each trial that comes in on
/// stdin, what it has shown.
pub fn run(place: &Place, scene: &Scene) -> Result<()> {
    Bench::new(place, scene)?.serve()
}

/// What comes in on stdin.
#[derive(Serialize, Deserialize)]
pub enum Order {
    Try(Box<Trial>),
    /// The clients have gone: the service is to be as it was at first.
    Rest,
}

/// A client that waits this long hangs.
const PATIENCE: Duration = Duration::from_secs(4);

fn ask(service: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&service, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(" 200 "), "{answer:?}");
    Ok(())
}

struct Bench<'a> {
    place: &'a Place,
    scene: &'a Scene,
    service: SocketAddr,
    /// The rules of the host while no run of syngate goes on.
    rules: BTreeSet<String>,
    /// `None`: the trials are about actions without rooms.
    rooms: Option<Traces>,
    kernel: String,
    build: String,
    /// The other end of a run's terminal, if it has one.
    terminal: RefCell<Option<OwnedFd>>,
}

impl<'a> Bench<'a> {
    fn new(place: &'a Place, scene: &'a Scene) -> Result<Bench<'a>> {
        fs::create_dir(place.file("report"))?;
        let Scene {
            setting, subject, ..
        } = scene;
        fs::write(place.file("restart"), place.restart(setting, *subject))?;
        fs::write(place.file(BESIDE), place.beside())?;
        fs::write(place.file("anew"), place.anew(setting, *subject))?;
        fs::write(place.file("haproxy.cfg"), command::HAPROXY)?;
        if *subject == Subject::LeavesPorts {
            let [sysctl, few] = command::FEW_PORTS;
            let set = Command::new(sysctl).args(["-q", few]).status()?;
            ensure!(set.success(), "{few}");
        }
        let rooms = setting.has_rooms().then(Traces::new).transpose()?;
        let mut bench = Bench {
            place,
            scene,
            service: Place::service(setting),
            rules: BTreeSet::new(),
            rooms,
            kernel: kernel()?,
            build: digest(Path::new(&place.syngate))?,
            terminal: RefCell::default(),
        };
        bench.start_anew()?;
        // What the first use of a backend makes for good (base chains of iptables) is no rule of a run.
        bench.sh(Neighbour::FlushesIptables.visit(), None)?;
        bench.sh(neighbour::BYSTANDER, None)?;
        bench.trace(max_closed(false), None, &[])?;
        bench.settle()?;
        bench.rest()?;
        bench.rules = ruleset()?;
        Ok(bench)
    }

    fn serve(&self) -> Result<()> {
        self.forget();
        let survey = self.trace(max_closed(false), None, &[])?;
        self.settle()?;
        let Scene {
            setting, subject, ..
        } = self.scene;
        let ended_well = setting.may_end_with(survey.code, *subject);
        ensure!(ended_well, "a run that is not hit: {}", self.said());
        let left = processes(self.place)?;
        ensure!(left.is_empty(), "left by a run that was not hit: {left:?}");
        self.rest()?;
        say(&serde_json::to_string(&survey.course.points)?)?;
        for line in std::io::stdin().lock().lines() {
            let answer = match serde_json::from_str(&line?)? {
                Order::Try(trial) => serde_json::to_string(&self.try_out(*trial)?)?,
                Order::Rest => serde_json::to_string(&self.rest()?)?,
            };
            say(&answer)?;
        }
        Ok(())
    }

    /// Removes the files that an earlier run has left.
    fn forget(&self) {
        for file in [
            "report/report.json",
            "ran",
            "listens",
            "unanswered",
            "through",
            command::ENDS,
            "stderr",
        ] {
            let _ = fs::remove_file(self.place.file(file));
        }
    }

    fn try_out(&self, trial: Trial) -> Result<Tried> {
        self.forget();
        let counted = counters::counters();
        let (started_ms, was_busy) = (now_ms(), busy());
        let traced = self.hit(&trial);
        let ended = Instant::now();
        let (code, hits) = traced.as_ref().map_or((-1, 1), |t| (t.code, t.hits));
        let (left, gone) = self.look(&trial, hits > 0, code)?;
        let settled_ms = now_ms();
        let at = traced.as_ref().ok();
        let mut account = Account::of(&Sources {
            began_ms: at.map_or(started_ms, |traced| traced.began_ms(started_ms)),
            ended_ms: at.map_or(settled_ms, |traced| traced.ended_ms),
            code,
            said: &left.said,
            report: left.report.as_ref().and_then(|report| report.as_ref().ok()),
        });
        if self.scene.setting.keeps() {
            account.is_of_keep();
        }
        let guarded = self.is_guarded(&trial, code);
        let gone_after_ms = (gone.duration_since(ended).as_secs_f64() * 1e4).round() / 10.0;
        let mut violations = violations(&trial, &left);
        let unseen_ms = at.and_then(|traced| traced.unseen_ms);
        violations.extend(traced.err().map(|error| format!("{error:#}")));
        if let Some(by) = trial.neighbour() {
            self.sh(by.tidy(), None).context("tidying up")?;
        }
        if !violations.is_empty() {
            self.clean()?;
        }
        let shown = Shown {
            kernel: self.kernel.clone(),
            syngate: self.build.clone(),
            hit: hits == trial.hits().count(),
            code,
            reason: left.reason(),
            ran: left.ran,
            gone_after_ms,
            syns_per_second: None,
            connections: 0,
            failed: 0,
            judged: false,
            excused: Vec::new(),
            violations,
            stderr: String::new(),
            trial,
        };
        Ok(Tried {
            shown,
            account,
            guarded,
            ran_ms: ran_ms(&self.written("ran")),
            listens_ms: ran_ms(&self.written("listens")).filter(|listens| {
                let waits_for_it = self.scene.subject != Subject::Plain;
                waits_for_it && unseen_ms.is_some_and(|unseen| unseen < *listens)
            }),
            settled_ms,
            said: left.said,
            busy: (busy() - was_busy).as_secs_f64() * 1e3 / (settled_ms - started_ms),
            counted: counters::grown(&counted, &counters::counters()),
        })
    }
}

/// The release of the kernel.
fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release.trim_end().to_owned())
}
