//! Hosts for one scene, and a process inside that disturbs syngate there.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use testkit::{
    Delay, Flood, Host, LoadReport, Pair, Running, RunningFlood, SERVER, Trio, VIP,
    services::Serve, slow,
};

use crate::{
    clients::Clients,
    clock::BUSY,
    group::Group,
    inside::Order,
    lines::Inside,
    neighbour::Neighbour,
    oracle::{Course, Excuse, Rooms, violations},
    point::Point,
    setting::{Place, Scene, Setting},
    subject::Subject,
    trial::{Shown, Trial, Tried},
};

/// SYNs a second of a flood.
const FLOOD: u32 = 100_000;

/// Who is there besides the host that is tried.
enum Ground {
    /// A client that floods it.
    Pair(Pair),
    /// A second node, with its service, and a client of both.
    Trio {
        trio: Box<Trio>,
        _services: Vec<Running>,
    },
}

impl Ground {
    fn new(setting: &Setting) -> Result<Ground> {
        if !setting.diverts() {
            return Ok(Ground::Pair(Pair::steered_by_flow()?));
        }
        let trio = Box::new(Trio::steered_by_flow()?);
        // 82 is where [`Neighbour::KeepsManyConnections`] listens on the host that is tried.
        let services = ["0.0.0.0:80", "0.0.0.0:82"].map(|place| Serve::on(place).start(&trio.b));
        Ok(Ground::Trio {
            trio,
            _services: services.into_iter().collect::<Result<_>>()?,
        })
    }

    /// The host that is tried.
    fn host(&self) -> &Host {
        match self {
            Ground::Pair(pair) => &pair.server,
            Ground::Trio { trio, .. } => &trio.a,
        }
    }

    /// Where clients are, and where they connect to.
    fn client(&self) -> (&Host, &str) {
        match self {
            Ground::Pair(pair) => (&pair.client, SERVER),
            Ground::Trio { trio, .. } => (&trio.client, VIP),
        }
    }
}

/// Where trials of one scene take place.
pub struct Stage {
    points: Vec<Point>,
    inside: Inside,
    scene: Scene,
    _far: Option<Delay>,
    ground: Ground,
    /// Its processes end with the host.
    _group: Option<Group>,
}

impl Stage {
    /// Prepares it.
    ///
    /// # Errors
    /// A run that nobody disturbs fails.
    pub fn new(scene: &Scene, syngate: &Path) -> Result<Stage> {
        let setting = &scene.setting;
        let ground = Ground::new(setting)?;
        let host = ground.host();
        host.has_firewall(setting.iptables().trim_start_matches("iptables-"))?;
        let apart = scene.subject == Subject::AsksItself;
        let group = apart.then(|| Group::of(host)).transpose()?;
        let folder = group.as_ref().map_or(Path::new(""), Group::path);
        let place = serde_json::to_string(&Place::on(host, syngate, folder)?)?;
        let [subject, rtt] = [scene.subject.to_string(), scene.rtt_ms.to_string()];
        let arguments = ["inside", &place, setting.name, &subject, &rtt];
        let (inside, points) = Inside::start(host, &arguments)?;
        let rtt = Duration::from_millis(scene.rtt_ms.into());
        let (client, _) = ground.client();
        let far = (!rtt.is_zero()).then(|| Delay::start(client, rtt));
        Ok(Stage {
            points,
            inside,
            scene: *scene,
            _far: far.transpose()?,
            ground,
            _group: group,
        })
    }

    /// Where a run can be hit.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Tries it, with all that has to be around, and judges what clients saw.
    pub fn try_out(&mut self, trial: &Trial) -> Result<Shown> {
        let (client, address) = self.ground.client();
        let dropped = dropped_by_the_machine();
        let clients = Clients::start(&self.scene, client, address, self.ground.host())?;
        let flood = Flood::to(format!("{address}:80")).per_second(FLOOD);
        let floods = trial.neighbour() == Some(Neighbour::Floods);
        let flood = floods.then(|| flood.start(client)).transpose()?;
        let began = Instant::now();
        let tried: Tried = self.inside.ask(&Order::Try(Box::new(trial.clone())))?;
        let sent = flood.map(RunningFlood::stop).transpose()?;
        let seconds = began.elapsed().as_secs_f64();
        let seen = clients.stop()?;
        let () = self.inside.ask(&Order::Rest)?;
        let sum = |count: fn(&LoadReport) -> u64| seen.iter().map(|s| count(&s.report)).sum();
        let mut shown = Shown {
            syns_per_second: sent.map(|sent| (sent as f64 / seconds) as u64),
            connections: sum(|report| report.sent),
            failed: sum(LoadReport::failed),
            judged: dropped_by_the_machine() == dropped,
            ..tried.shown.clone()
        };
        let mut course = course(&self.scene, trial, &tried);
        let strict = violations(&course, &seen);
        course.excuse.lossy |= !shown.judged;
        let found = violations(&course, &seen);
        shown.excused = strict.into_iter().filter(|v| !found.contains(v)).collect();
        shown.violations.extend(found);
        if !shown.violations.is_empty() {
            shown.stderr = format!("{}the kernel: {:?}\n", tried.said, tried.counted);
        }
        Ok(shown)
    }
}

/// How many packets the machine has dropped, of all its network namespaces together: when there are more
/// than it can take in (net.core.netdev_max_backlog), as in a flood somewhere else. The second number of each
/// line, which is a CPU's.
fn dropped_by_the_machine() -> Vec<u64> {
    let table = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = |line: &str| u64::from_str_radix(line.split(' ').nth(1)?, 16).ok();
    table.lines().filter_map(dropped).collect()
}

/// What clients are to be judged by.
fn course<'a>(scene: &Scene, trial: &Trial, tried: &'a Tried) -> Course<'a> {
    let setting = &scene.setting;
    let by = trial.neighbour();
    let mut excuse = by.map_or_else(Excuse::default, Neighbour::excuse);
    // Those who wait longer than `--max-wait` are reset.
    excuse.refused |= setting.keeps() && trial.is_slow();
    Course {
        account: &tried.account,
        ran: tried.shown.ran,
        settled_ms: tried.settled_ms,
        max_closed_ms: trial.max_closed().as_secs_f64() * 1e3,
        elsewhere: setting.redirects() || setting.diverts(),
        rooms: setting.has_rooms().then(|| Rooms {
            for_gaps: setting.hands_over(),
            early: !setting.shares_port,
            ran_ms: tried.ran_ms,
            // Who stands still can't look.
            listens_ms: tried.listens_ms.filter(|_| !trial.is_slow()),
            moves: scene.subject.moves(),
            keeps: setting.keeps(),
            guarded: tried.guarded,
        }),
        alone: by.is_none(),
        excuse,
        kernel: &tried.shown.kernel,
        slow: slow().into(),
        busy: 1.0 + tried.busy.clamp(0.0, 1.0) * f64::from(BUSY - 1),
    }
}
