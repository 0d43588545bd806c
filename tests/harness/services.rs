//! Services on port 80 as they are installed, which are started, stopped and killed.

use std::rc::Rc;

use testkit::services::{Haproxy, HaproxyConfig, Nginx, NginxConfig};
use testkit::{Host, Load, RunningLoad, SERVER, wait_until};

use super::deaths::Deaths;
use super::keep::LONG;
use super::{SOON, words};

/// A service on port 80.
pub(crate) struct Service<'a> {
    host: &'a Host,
    /// Of its processes.
    pub(crate) name: &'static str,
    /// It speaks that, and not HTTP.
    ask: Option<&'static str>,
    start: Box<dyn Fn() + 'a>,
    /// In order. It has closed its listeners then.
    stop: Box<dyn Fn() + 'a>,
}

impl<'a> Service<'a> {
    pub(crate) fn haproxy(host: &'a Host) -> Service<'a> {
        let config = HaproxyConfig::port(80);
        let haproxy = Rc::new(Haproxy::debian_init(host, &config).unwrap());
        let stopped = haproxy.clone();
        Service {
            host,
            name: "haproxy",
            ask: None,
            start: Box::new(move || haproxy.start().unwrap()),
            stop: Box::new(move || stopped.stop().unwrap()),
        }
    }

    pub(crate) fn nginx(host: &'a Host, reuseport: bool) -> Service<'a> {
        let config = NginxConfig {
            reuseport,
            ..NginxConfig::default()
        };
        let nginx = Rc::new(Nginx::new(host, &config).unwrap());
        let stopped = nginx.clone();
        Service {
            host,
            name: "nginx",
            ask: None,
            start: Box::new(move || nginx.start().unwrap()),
            stop: Box::new(move || stopped.stop().unwrap()),
        }
    }

    /// It is told to stop over the port that is kept.
    pub(crate) fn redis(host: &'a Host) -> Service<'a> {
        let dir = host.dir().display();
        let config = format!(
            "bind 0.0.0.0 ::\nport 80\nprotected-mode no\nsave \"\"\ndaemonize yes\ndir {dir}\nlogfile {dir}/log\n"
        );
        let config = host.write("redis.conf", config).display().to_string();
        Service {
            host,
            name: "redis-server",
            ask: Some("redis"),
            start: Box::new(move || {
                host.must(["redis-server", &config]);
            }),
            stop: Box::new(move || {
                host.must(words("redis-cli -p 80 shutdown nosave"));
                gone(host, "redis-server");
            }),
        }
    }

    pub(crate) fn starts(&self) {
        (self.start)();
        let asked = format!("ss -Hltnp sport = :80 | grep -q '\"{}\"'", self.name);
        let listens = || self.host.sh(&asked).unwrap().ok();
        wait_until(SOON, "the service to listen", listens).unwrap();
    }

    /// New connections from the client, so many a second, until they are stopped.
    pub(crate) fn clients(&self, client: &Host, rate: u32) -> RunningLoad {
        let load = Load::to(format!("{SERVER}:80")).rate(rate);
        let load = self.ask.iter().fold(load, |load, ask| load.ask(ask));
        let load = load.timeout(LONG).duration(LONG * 5);
        let mut load = load.start(client).unwrap();
        load.wait_flowing().unwrap();
        load
    }

    /// By somebody who knows nothing of syngate.
    pub(crate) fn stops(&self, deaths: &mut Deaths) {
        deaths.of(|| (self.stop)());
    }

    pub(crate) fn dies(&self, deaths: &mut Deaths) {
        deaths.of(|| {
            self.host.must(["pkill", "-KILL", "-x", self.name]);
            gone(self.host, self.name);
        });
    }
}

fn gone(host: &Host, name: &str) {
    let gone = || !host.sh(&format!("pgrep -x {name}")).unwrap().ok();
    wait_until(SOON, "the end of the service", gone).unwrap();
}
