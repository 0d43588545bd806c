//! Plain servers with one trouble each, and one whose sockets are somebody else's.

use std::{fs, path::PathBuf};

use anyhow::Result;
use testkit::{Host, Running, bin, services::Serve};

use super::service::{Service, in_words};
use crate::ways::STANDBY;

struct PlainService<'a> {
    host: &'a Host,
    restart: String,
}

/// On a port, IPv4 and IPv6.
pub fn plain(port: u16) -> Serve {
    Serve::on(format!("0.0.0.0:{port}")).and_on(format!("[::]:{port}"))
}

/// Killed and started again.
pub fn start(host: &Host, server: Serve) -> Result<Box<dyn Service + '_>> {
    let restart = in_words(&server.start_daemon(host)?.restart_argv());
    Ok(Box::new(PlainService { host, restart }))
}

impl Service for PlainService<'_> {
    fn restart(&self) -> String {
        self.restart.clone()
    }

    fn start_standby(&mut self) -> Result<()> {
        let pid = self.host.dir().join("standby.pid");
        self.host.run(plain(STANDBY).daemon_argv(&pid)?).map(drop)
    }
}

/// A server whose sockets are somebody else's, who starts it again whenever it has ended.
struct Activated {
    pid: PathBuf,
    _activator: Running,
}

/// See [`Activated`].
pub fn activated(host: &Host) -> Result<Box<dyn Service + '_>> {
    let pid = host.dir().join("activated.pid");
    let server = bin()?;
    let (file, server) = (pid.display(), server.display());
    // Who gets the sockets is told by pid.
    let serve = format!("export LISTEN_PID=$$; exec {server} serve --inherit");
    let keeper = format!(
        "while :; do sh -c '{serve}' >/dev/null & echo $! >{file}.new; mv {file}.new {file}; wait $!; done"
    );
    let keeper = host.write("keeper.sh", keeper);
    let mut activator = host.command("systemd-socket-activate");
    activator.args(["-l", "0.0.0.0:80", "sh"]).arg(keeper);
    activator.stderr(fs::File::create(host.dir().join("activator.log"))?);
    let activator = host.spawn(&mut activator)?;
    host.wait_listen(80)?;
    Ok(Box::new(Activated {
        pid,
        _activator: activator,
    }))
}

impl Service for Activated {
    /// It is another process afterwards; that one has the same sockets.
    fn restart(&self) -> String {
        let pid = self.pid.display();
        format!(
            "old=$(cat {pid}); kill $old; export old
             timeout 10 sh -c 'until [ $(cat {pid}) != $old ]; do sleep 0.01; done'"
        )
    }
}
