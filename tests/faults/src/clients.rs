//! Clients that come during a trial, from outside and on the host itself, and what they saw.

use std::{thread, time::Duration};

use anyhow::Result;
use testkit::{Host, Load, RunningLoad};

use crate::{
    oracle::Seen,
    setting::{Place, Scene},
};

/// Connections a second: few, and some at each moment of a run.
const FROM_OUTSIDE: u32 = 100;
const ON_THE_HOST: u32 = 50;
/// Longer than any port may be shut.
const PATIENCE: Duration = Duration::from_secs(40);
/// So long they come when all is over.
const AFTERWARDS: Duration = Duration::from_millis(50);

/// As long as a trial takes.
pub struct Clients {
    scene: Scene,
    outside: RunningLoad,
    inside: RunningLoad,
}

impl Clients {
    /// Returns when they are served.
    ///
    /// # Errors
    /// Nobody serves them.
    pub fn start(scene: &Scene, client: &Host, address: &str, host: &Host) -> Result<Clients> {
        let load = |to: String, rate| {
            let load = Load::to(to).rate(rate).timeout(PATIENCE).urgent();
            load.duration(Duration::from_secs(3_600))
        };
        let service = Place::service(&scene.setting).to_string();
        let mut clients = Clients {
            scene: *scene,
            outside: load(format!("{address}:80"), FROM_OUTSIDE).start(client)?,
            inside: load(service, ON_THE_HOST).start(host)?,
        };
        clients.outside.wait_flowing()?;
        clients.inside.wait_flowing()?;
        Ok(clients)
    }

    /// What they saw; those who still wait have the time for it.
    pub fn stop(self) -> Result<[Seen; 2]> {
        thread::sleep(AFTERWARDS);
        let Scene {
            setting, rtt_ms, ..
        } = self.scene;
        Ok([
            Seen {
                from: "from outside",
                rtt_ms: rtt_ms.into(),
                dropped: setting.drops(false),
                report: self.outside.stop()?,
            },
            Seen {
                from: "on the host",
                rtt_ms: 0.0,
                dropped: setting.drops(true),
                report: self.inside.stop()?,
            },
        ])
    }
}
