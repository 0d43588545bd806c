//! Hosts for one setting, and a process inside that disturbs syngate there.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use testkit::{Flood, Host, Load, Pair, Running, RunningLoad, SERVER, Trio, VIP, services::Serve};

use crate::{
    lines::Inside,
    neighbour::Neighbour,
    point::Point,
    setting::{Place, Setting},
    trial::{Deed, Shown, Trial},
};

/// SYNs a second of a flood.
const FLOOD: u32 = 100_000;

/// Who is there besides the host that is tried.
enum Ground {
    /// A client that floods it.
    Pair(Pair),
    /// A second node, with its service, and clients of both.
    Trio {
        trio: Box<Trio>,
        _services: Vec<Running>,
        _clients: RunningLoad,
    },
}

impl Ground {
    fn new(setting: &Setting) -> Result<Ground> {
        if !setting.diverts() {
            return Ok(Ground::Pair(Pair::new()?));
        }
        let trio = Box::new(Trio::new()?);
        // 82 is where [`Neighbour::KeepsManyConnections`] listens on the host that is tried.
        let services = ["0.0.0.0:80", "0.0.0.0:82"].map(|place| Serve::on(place).start(&trio.b));
        let clients = Load::to(format!("{VIP}:80")).rate(50);
        let clients = clients.duration(Duration::from_secs(86_400));
        let clients = clients.start(&trio.client)?;
        Ok(Ground::Trio {
            trio,
            _services: services.into_iter().collect::<Result<_>>()?,
            _clients: clients,
        })
    }

    /// The host that is tried.
    fn host(&self) -> &Host {
        match self {
            Ground::Pair(pair) => &pair.server,
            Ground::Trio { trio, .. } => &trio.a,
        }
    }

    /// Where a flood comes from, and goes to.
    fn flood(&self) -> (&Host, &str) {
        match self {
            Ground::Pair(pair) => (&pair.client, SERVER),
            Ground::Trio { trio, .. } => (&trio.client, VIP),
        }
    }
}

/// Where trials of one setting take place.
pub struct Stage {
    points: Vec<Point>,
    inside: Inside,
    ground: Ground,
}

impl Stage {
    /// Prepares it.
    ///
    /// # Errors
    /// A run that nobody disturbs fails.
    pub fn new(setting: &Setting, syngate: &Path) -> Result<Stage> {
        let ground = Ground::new(setting)?;
        let host = ground.host();
        host.has_firewall(setting.iptables().trim_start_matches("iptables-"))?;
        let place = serde_json::to_string(&Place::on(host, syngate)?)?;
        let (inside, points) = Inside::start(host, &["inside", &place, setting.name])?;
        Ok(Stage {
            points,
            inside,
            ground,
        })
    }

    /// Where a run can be hit.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Tries it, with all that has to be around.
    pub fn try_out(&mut self, trial: &Trial) -> Result<Shown> {
        if trial.deed != Deed::Neighbour(Neighbour::Floods) {
            return self.inside.ask(trial);
        }
        let (from, to) = self.ground.flood();
        let flood = Flood::to(format!("{to}:80")).per_second(FLOOD);
        let flood = flood.start(from)?;
        let began = Instant::now();
        let shown: Shown = self.inside.ask(trial)?;
        let sent = flood.stop()? as f64 / began.elapsed().as_secs_f64();
        Ok(Shown {
            syns_per_second: Some(sent as u64),
            ..shown
        })
    }
}
