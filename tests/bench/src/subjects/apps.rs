//! Servers that do not set SO_REUSEPORT: redis, PostgreSQL, node, gunicorn, sshd.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use anyhow::{Context, Result};
use testkit::Host;

use super::service::Service;

/// What is restarted by one command.
struct App {
    restart: String,
}

impl Service for App {
    fn restart(&self) -> String {
        self.restart.clone()
    }
}

impl App {
    /// Started and stopped by start-stop-daemon(8), as Debian's init scripts do it.
    fn by_daemon(host: &Host, start: &str) -> Result<Box<dyn Service>> {
        let pid = host.dir().join("app.pid");
        let pid = pid.display();
        let start = start.replace("PID", &pid.to_string());
        let daemon = format!("start-stop-daemon --quiet --pidfile {pid}");
        host.run(["sh", "-c", &format!("{daemon} {start}")])?;
        let stop = format!("{daemon} --stop --retry=TERM/10/KILL/5");
        Ok(Box::new(App {
            restart: format!("{stop}; {daemon} {start}"),
        }))
    }
}

/// It keeps nothing on the disk.
pub fn redis(host: &Host) -> Result<Box<dyn Service + '_>> {
    let dir = host.dir().display();
    let config = format!(
        "bind 0.0.0.0 ::\nport 80\nprotected-mode no\nsave \"\"\ndaemonize yes\n\
         pidfile {dir}/app.pid\ndir {dir}\nlogfile {dir}/redis.log\n"
    );
    let config = host.write("redis.conf", config);
    let start = format!(
        "--start --exec /usr/bin/redis-server -- {}",
        config.display()
    );
    App::by_daemon(host, &start)
}

const NODE: &str = "
const http = require('http');
for (const host of ['0.0.0.0', '::'])
    http.createServer((request, response) => response.end('ok\\n'))
        .listen({ host, port: 80, ipv6Only: true });
";

/// A server of a few lines, which SIGTERM ends at once.
pub fn node(host: &Host) -> Result<Box<dyn Service + '_>> {
    let script = host.write("server.js", NODE);
    let start = format!(
        "--start --background --make-pidfile --exec /usr/bin/node -- {}",
        script.display()
    );
    App::by_daemon(host, &start)
}

const WSGI: &str = "
def answer(environ, start_response):
    start_response('200 OK', [('Content-Length', '3')])
    return [b'ok\\n']
";

/// It goes to the background by itself. Over IPv4 alone: it binds `[::]` for both.
pub fn gunicorn(host: &Host) -> Result<Box<dyn Service + '_>> {
    host.write("app.py", WSGI);
    let start = format!(
        "--start --startas /usr/bin/gunicorn -- --chdir {} --pid PID --daemon --workers 2 \
         --bind 0.0.0.0:80 app:answer",
        host.dir().display()
    );
    App::by_daemon(host, &start)
}

/// With MaxStartups as it is compiled in, 10:30:100. It is down for 3 s.
pub fn sshd(host: &Host) -> Result<Box<dyn Service + '_>> {
    let (key, pid) = (host.dir().join("key"), host.dir().join("sshd.pid"));
    let (key, pid) = (key.display(), pid.display());
    let config = format!("Port 80\nHostKey {key}\nPidFile {pid}\nUsePAM no\n");
    let config = host.write("sshd_config", config);
    let start = format!("/usr/sbin/sshd -f {}", config.display());
    let script = format!("mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f {key}; {start}");
    host.run(["sh", "-ec", &script])?;
    Ok(Box::new(App {
        restart: format!("kill $(cat {pid}); sleep 3; {start}"),
    }))
}

/// A cluster of its own, which lets everybody in. Its user may listen on port 80.
pub fn postgres(host: &Host) -> Result<Box<dyn Service + '_>> {
    let programs = host.dir().join("pg");
    symlink(programs_of_postgres()?, &programs)?;
    let (programs, data) = (programs.display(), host.dir().join("cluster"));
    let data = data.display();
    let config = "listen_addresses = '0.0.0.0, ::'\nport = 80\nmax_connections = 500\nfsync = off\n\
                  unix_socket_directories = '/run/pg'\n";
    let more = host.write("more.conf", config);
    let trust = host.write("hba.conf", "host all all all trust\n");
    let as_its_user = "setpriv --reuid postgres --regid postgres --init-groups --";
    let script = format!(
        "sysctl -q net.ipv4.ip_unprivileged_port_start=0
         install -d -o postgres -g postgres -m 700 {data} /run/pg
         {as_its_user} {programs}/initdb -D {data} --no-sync -E UTF8 --locale C >/dev/null
         cat {} >>{data}/postgresql.conf
         cat {} >{data}/pg_hba.conf
         {as_its_user} {programs}/pg_ctl -s -w -D {data} -l {data}/log start",
        more.display(),
        trust.display()
    );
    host.run(["sh", "-ec", &script])?;
    Ok(Box::new(App {
        restart: format!(
            "{as_its_user} {programs}/pg_ctl -s -w -m fast -D {data} -l {data}/log restart"
        ),
    }))
}

/// Debian has a folder for each version.
fn programs_of_postgres() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let versions = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    versions
        .filter(|programs| programs.join("initdb").exists())
        .max()
        .context("no version of PostgreSQL")
}
