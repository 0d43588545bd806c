use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};

use super::argv::argv;
use crate::{Host, rootless};

const CONFIG: &str = "/etc/haproxy/haproxy.cfg";

/// What haproxy shall do.
#[derive(Debug, Clone)]
pub struct HaproxyConfig {
    binds: Vec<String>,
    backend: Option<String>,
    global: Vec<String>,
}

impl HaproxyConfig {
    /// Listens on the port, IPv4 and IPv6, and answers `ok` itself.
    pub fn port(port: u16) -> Self {
        Self::bind(format!("ipv4@:{port}")).and_bind(format!("ipv6@:{port} v6only"))
    }

    /// As [`port`](Self::port), with a `bind` line of the caller's.
    pub fn bind(line: impl Into<String>) -> Self {
        Self {
            binds: vec![line.into()],
            backend: None,
            global: Vec::new(),
        }
    }

    /// One more `bind` line.
    pub fn and_bind(mut self, line: impl Into<String>) -> Self {
        self.binds.push(line.into());
        self
    }

    /// Hands requests on to `address:port` instead of answering them.
    pub fn backend(mut self, address: impl Into<String>) -> Self {
        self.backend = Some(address.into());
        self
    }

    /// One more line for the `global` section, such as `master-worker`.
    pub fn global(mut self, line: impl Into<String>) -> Self {
        self.global.push(line.into());
        self
    }

    /// The configuration file.
    pub fn text(&self) -> String {
        let mut lines = vec!["global".to_owned(), "maxconn 8000".to_owned()];
        if !rootless() {
            // As Debian has it; rootless, there is no uid to change to.
            lines.extend(argv(["user haproxy", "group haproxy"]));
        }
        lines.extend(self.global.iter().cloned());
        lines.extend(argv([
            "defaults",
            "mode http",
            "timeout connect 5s",
            "timeout client 50s",
            "timeout server 50s",
            "frontend web",
        ]));
        lines.extend(self.binds.iter().map(|bind| format!("bind {bind}")));
        match &self.backend {
            Some(address) => lines.extend([
                "default_backend app".to_owned(),
                "backend app".to_owned(),
                format!("server app {address}"),
            ]),
            None => lines.push(
                "http-request return status 200 content-type text/plain string ok".to_owned(),
            ),
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

/// Debian's haproxy as its init script runs it: `service haproxy …`.
#[derive(Debug)]
pub struct Haproxy<'a> {
    host: &'a Host,
    config: PathBuf,
}

impl<'a> Haproxy<'a> {
    /// Puts the configuration in the place of `/etc/haproxy/haproxy.cfg` on
    /// this host. Starts nothing.
    pub fn debian_init(host: &'a Host, config: &HaproxyConfig) -> Result<Self> {
        let file = host.write("haproxy.cfg", config.text());
        host.bind(&file, CONFIG)?;
        Ok(Self { host, config: file })
    }

    /// Changes the configuration, for the next start or reload.
    pub fn configure(&self, config: &HaproxyConfig) -> Result<()> {
        Ok(fs::write(&self.config, config.text())?)
    }

    /// `service haproxy start`.
    pub fn start(&self) -> Result<()> {
        self.service("start")
    }

    /// `service haproxy stop`.
    pub fn stop(&self) -> Result<()> {
        self.service("stop")
    }

    /// `service haproxy restart`, without any gate.
    pub fn restart(&self) -> Result<()> {
        self.service("restart")
    }

    /// `service haproxy reload`, without any gate.
    pub fn reload(&self) -> Result<()> {
        self.service("reload")
    }

    /// The command that restarts it.
    pub fn restart_argv(&self) -> Vec<String> {
        argv(["service", "haproxy", "restart"])
    }

    /// The command that reloads it.
    pub fn reload_argv(&self) -> Vec<String> {
        argv(["service", "haproxy", "reload"])
    }

    fn service(&self, verb: &str) -> Result<()> {
        let ran = self.host.sh(&format!("service haproxy {verb}"))?;
        ensure!(ran.ok(), "service haproxy {verb}: {ran:?}");
        Ok(())
    }
}
