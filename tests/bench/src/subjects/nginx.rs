//! nginx: restarted, reloaded, upgraded.

use anyhow::Result;
use testkit::{
    Host,
    services::{Nginx, NginxConfig},
    wait_until,
};

use super::service::{SOON, Service, in_words};
use crate::ways::STANDBY;

struct NginxService<'a> {
    host: &'a Host,
    nginx: Nginx<'a>,
    config: NginxConfig,
    restart: String,
}

/// With a socket for each worker there are four of them, which become two, and four again.
pub fn start(
    host: &Host,
    reuseport: bool,
    restart: fn(&Nginx) -> Vec<String>,
) -> Result<Box<dyn Service + '_>> {
    let config = NginxConfig {
        reuseport,
        ..NginxConfig::default()
    };
    let nginx = Nginx::new(host, &config)?;
    nginx.start()?;
    let restart = in_words(&restart(&nginx));
    Ok(Box::new(NginxService {
        host,
        nginx,
        config,
        restart,
    }))
}

impl NginxService<'_> {
    fn configure(&mut self, workers: u32) -> Result<()> {
        self.config.workers = workers;
        self.nginx.configure(&self.config)
    }

    /// The old workers go a moment after they have closed their listeners.
    fn wait_for(&self, workers: u32) -> Result<()> {
        let wanted = workers.to_string();
        let listeners = || {
            let listed = self.host.run(["ss", "-Hltn4", "sport = :80"]);
            listed.map_or(0, |listed| listed.lines().count())
        };
        wait_until(SOON, "that many listeners", || {
            listeners() == workers as usize
        })?;
        let there = || {
            let listed = self.host.run(["pgrep", "-cf", "nginx: worker process"]);
            listed.is_ok_and(|count| count.trim() == wanted)
        };
        wait_until(SOON, "that many workers", there)
    }
}

const MANY: u32 = 4;
const FEW: u32 = 2;

impl Service for NginxService<'_> {
    fn prepare(&mut self) -> Result<()> {
        if !self.config.reuseport {
            return Ok(());
        }
        self.configure(MANY)?;
        self.nginx.reload()?;
        self.wait_for(MANY)?;
        self.configure(FEW)
    }

    fn prepare_another(&mut self) -> Result<bool> {
        if !self.config.reuseport || self.config.workers == MANY {
            return Ok(false);
        }
        self.wait_for(FEW)?;
        self.configure(MANY)?;
        Ok(true)
    }

    fn restart(&self) -> String {
        self.restart.clone()
    }

    fn start_standby(&mut self) -> Result<()> {
        let config = NginxConfig {
            port: STANDBY,
            ..self.config.clone()
        };
        Nginx::new(self.host, &config)?.start()
    }
}

/// As nginx's documentation has it ("Upgrading Executable on the Fly").
pub fn upgrade_argv(nginx: &Nginx) -> Vec<String> {
    let pid = nginx.pid_file();
    let pid = pid.display();
    let script = format!(
        "old=$(cat {pid}); kill -USR2 $old
         timeout 10 sh -c 'until [ -s {pid}.oldbin ] && [ -s {pid} ]; do sleep 0.01; done'
         kill -WINCH $old; kill -QUIT $old
         timeout 10 sh -c 'while [ -e {pid}.oldbin ]; do sleep 0.01; done'"
    );
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}
