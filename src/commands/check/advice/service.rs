//! What follows from how a service holds its sockets.

use std::collections::BTreeSet;

use super::item::{Advice, shown};
use crate::action::rooms::choice::{COOKIES_RESET, MOST_ROOMS, largest_room};
use crate::commands::check::endpoint::Endpoint;
use crate::commands::check::host::Host;
use crate::words::command_line::command_line;
use crate::words::ports::PortSet;

/// Less room for parked connections is worth advice.
const FEW_PARKED: u64 = 65_536;
/// A smaller backlog is worth advice.
const SMALL_BACKLOG: u32 = 256;

/// Advice about each service that the endpoints belong to. `asked`: its ports were asked for.
pub(crate) fn advise(host: &Host, endpoints: &[Endpoint], asked: bool) -> Vec<Advice> {
    let mut all = Vec::new();
    for service in services(endpoints) {
        all.push(service.hand_over(host));
        all.extend(service.park(host).filter(|_| asked));
        all.extend(service.queue(host));
        all.extend(service.backlog(host));
    }
    all
}

/// The endpoints that the same processes hold in the same way. There is at least one.
struct Service<'a> {
    endpoints: Vec<&'a Endpoint>,
}

fn services(endpoints: &[Endpoint]) -> Vec<Service<'_>> {
    let mut services: Vec<(_, Service)> = Vec::new();
    for endpoint in endpoints {
        let pids: BTreeSet<i32> = endpoint.processes.iter().map(|p| p.pid).collect();
        // Endpoints whose holders can't be seen do not belong together because of that.
        let port = pids.is_empty().then_some(endpoint.port);
        let key = (pids, endpoint.is_group(), endpoint.backlog, port);
        match services.iter_mut().find(|(known, _)| *known == key) {
            Some((_, service)) => service.endpoints.push(endpoint),
            None => services.push((
                key,
                Service {
                    endpoints: vec![endpoint],
                },
            )),
        }
    }
    services.into_iter().map(|(_, service)| service).collect()
}

impl Service<'_> {
    fn ports(&self) -> PortSet {
        self.endpoints
            .iter()
            .map(|endpoint| endpoint.port)
            .collect()
    }

    fn advice(&self, code: &'static str, text: &str) -> Advice {
        Advice::about(code, self.ports(), text)
    }

    /// The names of the processes, each once, and how many processes there are.
    fn holders(&self) -> (String, usize) {
        let processes = &self.endpoints[0].processes;
        let names: BTreeSet<&str> = processes.iter().map(|p| p.name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        (names.join(" and "), processes.len())
    }

    /// The call that wraps `restart` or `reload`.
    fn call(&self, verb: &str, host: &Host) -> String {
        let mut processes = self.endpoints[0].processes.iter();
        let control = processes.find_map(|p| p.control.as_ref());
        let command = match control {
            Some(control) => command_line(&control.command(verb)),
            None => "COMMAND".to_owned(),
        };
        let ports = self.ports();
        let published = host.published.iter().any(|p| ports.contains(p.port));
        let hook = if published { " --hook prerouting" } else { "" };
        // Rooms stand beside listeners, and know no hook.
        let rooms = !published && self.has_rooms(host);
        let how = match (verb, rooms) {
            ("reload", _) => " --syn auto --reload",
            (_, true) => " --syn auto",
            (_, false) => "",
        };
        format!("syngate --port {ports}{hook}{how} -- {command}")
    }

    /// Whether waiting rooms can be made beside its listeners, as far as that is known.
    fn has_rooms(&self, host: &Host) -> bool {
        let mut endpoints = self.endpoints.iter();
        endpoints.all(|endpoint| host.parks(endpoint).is_ok())
    }

    /// A master process starts it, and hands its sockets on at a reload.
    fn has_master(&self) -> bool {
        let mut processes = self.endpoints[0].processes.iter();
        processes.any(|process| process.has_master)
    }

    /// Whether its connections can be parked. Nothing where no service's can: the host's rows tell why.
    fn park(&self, host: &Host) -> Option<Advice> {
        if host.rooms.refusal().is_some() || self.is_socket_activated() {
            return None;
        }
        let mut endpoints = self.endpoints.iter();
        if let Some(why) = endpoints.find_map(|endpoint| host.parks(endpoint).err()) {
            let text = format!("--syn park is not possible: {why}");
            return Some(self.advice("not_parked", &text));
        }
        let lent = self.endpoints.iter().any(|e| e.reuseport == Some(false));
        let how = match lent {
            true => "the service does not set SO_REUSEPORT, and gets it for the time of the run",
            false => "the service sets SO_REUSEPORT",
        };
        let few = few_parked(host).unwrap_or_default();
        let slowly = match self.holders().0.contains("sshd") {
            true => "; sshd refuses some of a burst (MaxStartups): use --release-rate 40",
            false => "",
        };
        let mut endpoints = self.endpoints.iter();
        let cookies = match endpoints.any(|endpoint| host.resets_cookies(endpoint)) {
            true => format!("; {COOKIES_RESET}, so --syn auto does not park"),
            false => String::new(),
        };
        let text = format!(
            "--syn park is possible, and clients of a restart are connected at once: {how}{few}{slowly}{cookies}"
        );
        Some(self.advice("parked", &text))
    }

    fn one_socket(&self) -> &'static str {
        if self.endpoints.len() == 1 {
            "one socket"
        } else {
            "one socket for each address"
        }
    }

    fn is_socket_activated(&self) -> bool {
        let mut processes = self.endpoints[0].processes.iter();
        processes.any(|p| p.pid == 1 && p.name == "systemd")
    }

    /// What a restart and a reload do to its sockets.
    fn hand_over(&self, host: &Host) -> Advice {
        let (names, count) = self.holders();
        let one = self.one_socket();
        if self.is_socket_activated() {
            return self.advice(
                "socket_activation",
                "systemd holds the socket: it outlives the service, so no gate is needed, not even \
                 for restarts",
            );
        }
        if self.endpoints[0].is_group() {
            return self.group(host);
        }
        let advice = match count {
            0 => self.advice(
                "holders_unseen",
                &format!(
                    "{one}; who holds it can't be seen{}; use syngate for restarts",
                    if host.privileges.sys_ptrace {
                        " (a process elsewhere, or the kernel itself)"
                    } else {
                        " without privilege"
                    }
                ),
            ),
            _ if self.has_master() => self.advice(
                "master_worker",
                &format!(
                    "{one}, held by {names}, a worker of a master (-W, master-worker): the master hands \
                     it on at a reload, so no gate is needed for that; use syngate for restarts"
                ),
            ),
            1 => self.advice(
                "one_process",
                &format!(
                    "{one}, held by {names} alone: a restart closes it, and so does a reload that \
                     starts a new process (use --syn auto --reload for that); use syngate for restarts"
                ),
            ),
            count => self.advice(
                "shared_socket",
                &format!(
                    "{one}, held by {names} ({count} processes): a reload that leaves the first of them running \
                     needs no gate (syngate reload NAME adds a test before it and a look after it); use syngate for restarts"
                ),
            ),
        };
        advice.by(self.call("restart", host))
    }

    fn group(&self, host: &Host) -> Advice {
        let (names, _) = self.holders();
        let held = if names.is_empty() {
            String::new()
        } else {
            format!(", held by {names}")
        };
        let size = self.endpoints.iter().map(|endpoint| endpoint.sockets).max();
        let of = format!("a SO_REUSEPORT group of {}{held}", size.unwrap_or(0));
        let migrate = host.sysctl("net.ipv4.tcp_migrate_req");
        if migrate == Some(1) {
            let text = format!(
                "{of}: what waits in the queue of a socket that a reload closes is moved to another \
                 one (tcp_migrate_req is 1); use syngate for restarts"
            );
            let advice = self.advice("reuseport_migrated", &text);
            return advice.by(self.call("restart", host));
        }
        let text = format!(
            "{of}: a reload that closes some of them resets what waits in their queues \
             (tcp_migrate_req is {}); use syngate for reloads too",
            shown(migrate)
        );
        let advice = self.advice("reuseport_group", &text);
        advice.by(self.call("reload", host))
    }

    fn queue(&self, host: &Host) -> Option<Advice> {
        let fullest = self
            .endpoints
            .iter()
            .max_by_key(|endpoint| endpoint.accept_queue)?;
        let (waiting, backlog) = (fullest.accept_queue, fullest.backlog);
        (waiting > backlog / 2).then(|| {
            self.advice(
                "accept_queue",
                &format!(
                    "{waiting} connections wait to be accepted, of {backlog} at most: the service \
                     accepts too slowly; once its queue is full, new ones are {}",
                    overflow(host)
                ),
            )
        })
    }

    fn backlog(&self, host: &Host) -> Option<Advice> {
        let backlog = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.backlog)
            .min()?;
        if backlog >= SMALL_BACKLOG {
            return None;
        }
        let raise = match host.sysctl("net.core.somaxconn") {
            Some(most) if u64::from(backlog) >= most => {
                format!("net.core.somaxconn is {most}: raise it, and restart the service")
            }
            Some(most) => {
                format!("the service asked for no more (net.core.somaxconn allows {most})")
            }
            None => "the service, or net.core.somaxconn, asks for no more".to_owned(),
        };
        Some(self.advice(
            "small_backlog",
            &format!(
                "backlog {backlog}: a service that accepts nothing for {backlog} ms fills it, at 1,000 new connections a \
                 second; those that come then are {}; {raise}",
                overflow(host)
            ),
        ))
    }
}

/// Where a whole default `--max-held` finds no place.
fn few_parked(host: &Host) -> Option<String> {
    let longest = host.sysctl("net.core.somaxconn")?;
    let room = largest_room(u32::try_from(longest).unwrap_or(u32::MAX));
    let all = u64::from(room) * u64::from(MOST_ROOMS);
    (all < FEW_PARKED)
        .then(|| format!("; no more than {all} may wait, since net.core.somaxconn is {longest}"))
}

/// What becomes of a connection that meets a full accept queue.
fn overflow(host: &Host) -> &'static str {
    match host.sysctl("net.ipv4.tcp_abort_on_overflow") {
        Some(1..) => "reset (tcp_abort_on_overflow)",
        _ => "dropped, and tried again a second later",
    }
}
