use std::{fs, path::PathBuf};

use anyhow::Result;

use super::argv::argv;
use crate::Host;

const NGINX: &str = "/usr/sbin/nginx";

/// What nginx shall do: answer `ok` on a port, IPv4 and IPv6.
#[derive(Debug, Clone)]
pub struct NginxConfig {
    /// The port.
    pub port: u16,
    /// Worker processes.
    pub workers: u32,
    /// A listening socket for each worker?
    pub reuseport: bool,
    /// More lines for the `http` section: a long one makes reloads slow.
    pub http: String,
    /// Serve the files in this directory instead.
    pub root: Option<PathBuf>,
}

impl Default for NginxConfig {
    fn default() -> Self {
        Self {
            port: 80,
            workers: 2,
            reuseport: false,
            http: String::new(),
            root: None,
        }
    }
}

/// An nginx of its own: configuration, pid file and logs in the host's
/// directory, master in the background.
#[derive(Debug)]
pub struct Nginx<'a> {
    host: &'a Host,
    dir: PathBuf,
}

impl<'a> Nginx<'a> {
    /// Writes the configuration. Starts nothing.
    pub fn new(host: &'a Host, config: &NginxConfig) -> Result<Self> {
        let dir = host.dir().join(format!("nginx-{}", config.port));
        fs::create_dir(&dir)?;
        let nginx = Self { host, dir };
        nginx.configure(config)?;
        Ok(nginx)
    }

    /// Changes the configuration, for the next start or reload.
    pub fn configure(&self, config: &NginxConfig) -> Result<()> {
        Ok(fs::write(self.dir.join("nginx.conf"), self.text(config))?)
    }

    /// Starts it; returns when it listens.
    pub fn start(&self) -> Result<()> {
        self.host.run(self.start_argv()).map(drop)
    }

    /// Stops it as Debian's init script does; returns when it is gone.
    pub fn stop(&self) -> Result<()> {
        self.host.run(["sh", "-c", &self.stop_script()]).map(drop)
    }

    /// Stops and starts it, without any gate.
    pub fn restart(&self) -> Result<()> {
        self.host.run(self.restart_argv()).map(drop)
    }

    /// Reloads it, without any gate. Returns before the workers have changed.
    pub fn reload(&self) -> Result<()> {
        self.host.run(self.reload_argv()).map(drop)
    }

    /// The command that starts it.
    pub fn start_argv(&self) -> Vec<String> {
        self.nginx(&[])
    }

    /// The command that stops and starts it, as Debian's init script does.
    pub fn restart_argv(&self) -> Vec<String> {
        let script = format!(
            "{}; exec {}",
            self.stop_script(),
            self.start_argv().join(" ")
        );
        argv(["sh", "-c", &script])
    }

    /// The command that reloads it.
    pub fn reload_argv(&self) -> Vec<String> {
        self.nginx(&["-s", "reload"])
    }

    /// The master's pid file.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    fn nginx(&self, arguments: &[&str]) -> Vec<String> {
        let dir = self.dir.to_string_lossy();
        // By its path: it executes that again to be upgraded.
        let mut words = argv([NGINX, "-p", &dir, "-c", "nginx.conf", "-e", "error.log"]);
        words.extend(argv(arguments.iter().copied()));
        words
    }

    fn stop_script(&self) -> String {
        format!(
            "start-stop-daemon --stop --quiet --oknodo --retry=QUIT/5/TERM/5/KILL/5 \
             --pidfile {} --name nginx",
            self.pid_file().display()
        )
    }

    fn text(&self, config: &NginxConfig) -> String {
        let NginxConfig {
            port,
            workers,
            reuseport,
            http,
            root,
        } = config;
        let answer = match root {
            None => "return 200 ok;".to_owned(),
            Some(root) => format!("root {};", root.display()),
        };
        let reuseport = if *reuseport { " reuseport" } else { "" };
        // User root: rootless, there is no uid that workers could change to.
        format!(
            "user root root;
worker_processes {workers};
pid pid;
events {{ worker_connections 8000; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {http}
    server {{
        listen {port}{reuseport};
        listen [::]:{port} ipv6only=on{reuseport};
        location / {{ {answer} }}
    }}
}}
"
        )
    }
}
