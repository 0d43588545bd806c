//! From what is known of a container to the call in the long form. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use super::inspect::{Container, Health, Network, Published, Test};
use crate::cli::Given;
use crate::commands::long_form::{CONTAINER, LongForm, PORT, SYN, add, option, to_write, value_of};
use crate::commands::rivals::exclude_each_other;
use crate::words::container::Engine;
use crate::words::listen_ports::ListenPorts;
use crate::words::ports::PortSet;

/// What was found of the container that `--container` names.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) engine: Engine,
    /// As its program takes it.
    pub(super) name: String,
    pub(super) container: Container,
    /// The ports on which its processes listen on this host, if it has the host's network.
    pub(super) here: PortSet,
}

/// What was given with `--container`.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    pub(super) options: &'a [Given],
    pub(super) command: &'a [OsString],
    /// Those of `--port`. Empty: all that are found.
    pub(super) ports: PortSet,
    /// `--listen-port`.
    pub(super) listen_ports: Option<ListenPorts>,
    pub(super) ready_timeout: Duration,
}

/// The call, and what people are told before it is carried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) form: LongForm,
    pub(super) lines: Vec<String>,
}

/// So much of an id is enough for an engine.
const SHORT_ID: usize = 12;

const LISTEN_PORT: &str = "listen-port";
const READY_CHECK: &str = "ready-check";

/// # Errors
/// One line: nothing can be gated.
pub(super) fn call(wanted: &Wanted, found: &Found) -> Result<Call, String> {
    let ports = found.gated(wanted)?;
    let mut own = vec![option(PORT, Some(&ports.to_string()))];
    let mut listen_ports = wanted.listen_ports.clone().unwrap_or_default();
    if found.container.network != Network::Host {
        let hook = match found.container.network {
            Network::BehindProxy => "input",
            _ => "prerouting",
        };
        own.push(option("hook", Some(hook)));
        own.extend(found.to(&ports).map(|to| option("to", Some(&to))));
        if wanted.listen_ports.is_none() {
            listen_ports = found.listen_ports(&ports)?;
            let pairs = listen_ports.to_string();
            own.extend((!pairs.is_empty()).then(|| option(LISTEN_PORT, Some(&pairs))));
        }
        own.push(option("listen-netns-from", Some(&found.ask_pid())));
    }
    let health = found.container.health.as_ref();
    let check = health.map(|health| found.ready_check(health, wanted.ready_timeout));
    own.extend(check.map(|check| option(READY_CHECK, Some(&check))));
    let mut options = to_write(wanted.options);
    options.retain(|one| one.long != CONTAINER);
    for one in own {
        if !wanted
            .options
            .iter()
            .any(|other| exclude_each_other(&one, other))
        {
            add(&mut options, one);
        }
    }
    let is_check = |one: &Given| one.long == READY_CHECK;
    let checked = options.iter().any(is_check) && !wanted.options.iter().any(is_check);
    let Found { engine, name, .. } = found;
    let pid = found.container.pid.unwrap_or_default();
    let shown = listen_ports.shown(&ports);
    let word = ports.word();
    let mut lines = vec![format!("{name} ({engine}, pid {pid}): {word} {shown}")];
    lines.extend(found.about_ports(&ports));
    if let Some(health) = found.container.health.as_ref().filter(|_| checked) {
        lines.push(found.about(health, wanted.ready_timeout));
    }
    lines.extend(found.not_covered(&options));
    Ok(Call {
        form: LongForm::new(options, wanted.command.to_vec()),
        lines,
    })
}

impl Found {
    fn published(&self) -> PortSet {
        match self.container.network {
            Network::Host => self.here.clone(),
            _ => self
                .container
                .published
                .iter()
                .map(|one| one.port)
                .collect(),
        }
    }

    fn gated(&self, wanted: &Wanted) -> Result<PortSet, String> {
        let Found { engine, name, .. } = self;
        if self.container.pid.is_none() {
            return Err(format!(
                "{name} is {} ({engine}), so nobody listens on its ports: {engine} start {name} starts it",
                self.container.status
            ));
        }
        let published = self.published();
        match (wanted.ports.is_empty(), published.is_empty()) {
            (false, _) => Ok(wanted.ports.clone()),
            (true, false) => Ok(published),
            (true, true) => Err(self.silent()),
        }
    }

    /// Why there are no ports, and what to do.
    fn silent(&self) -> String {
        let Found { engine, name, .. } = self;
        match &self.container.network {
            Network::Host => format!(
                "{name} has the network of this host ({engine}), and none of its processes listens on a TCP port \
                 (looked at the sockets that they hold): --port names them"
            ),
            Network::Of(other) => {
                let other = other.get(..SHORT_ID).unwrap_or(other);
                format!(
                    "{name} has the network of another container ({engine}), which publishes its ports: --container \
                     {other}"
                )
            }
            Network::None => format!("{name} has no network ({engine}): nobody can connect to it"),
            Network::Own | Network::BehindProxy => {
                let others: Vec<&str> = self
                    .container
                    .other_ports
                    .iter()
                    .map(String::as_str)
                    .collect();
                let others = match others.is_empty() {
                    true => String::new(),
                    false => format!(" but {}", others.join(", ")),
                };
                format!(
                    "{name} publishes no port{others} (looked at NetworkSettings.Ports in {engine} container inspect \
                     {name}): what reaches its own address alone is gated within it, see nsenter in man syngate-restart"
                )
            }
        }
    }

    /// Which listener serves which port.
    fn listen_ports(&self, ports: &PortSet) -> Result<ListenPorts, String> {
        let mut each: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
        for one in self.of(ports) {
            each.entry(one.port).or_default().insert(one.listener);
        }
        let mut pairs = Vec::new();
        for (port, listeners) in each {
            let listeners: Vec<u16> = listeners.into_iter().collect();
            match listeners[..] {
                [listener] if listener == port => {}
                [listener] => pairs.push(format!("{port}={listener}")),
                _ => {
                    let all: PortSet = listeners.iter().copied().collect();
                    return Err(format!(
                        "{port} leads to {} of {}, by the address that clients connect to: --listen-port says which \
                         one to watch, as --listen-port {port}={}",
                        all.brief(),
                        self.name,
                        listeners[0]
                    ));
                }
            }
        }
        match pairs.is_empty() {
            true => Ok(ListenPorts::default()),
            false => ListenPorts::parse(&pairs.join(","), |_| None),
        }
    }

    fn of<'a>(&'a self, ports: &'a PortSet) -> impl Iterator<Item = &'a Published> {
        let published = self.container.published.iter();
        published.filter(|one| ports.contains(one.port))
    }

    /// The addresses, where all ports are published on the same ones, and not on all that the host has.
    fn to(&self, ports: &PortSet) -> Option<String> {
        let mut each: BTreeMap<u16, BTreeSet<Option<IpAddr>>> = BTreeMap::new();
        for one in self.of(ports) {
            each.entry(one.port).or_default().insert(one.address);
        }
        let first = each.values().next()?;
        let same = each.len() == ports.len() && each.values().all(|other| other == first);
        if !same || first.contains(&None) {
            return None;
        }
        let addresses: Vec<String> = first.iter().flatten().map(IpAddr::to_string).collect();
        Some(addresses.join(","))
    }

    fn ask_pid(&self) -> String {
        format!(
            "{} container inspect -f '{{{{.State.Pid}}}}' {}",
            self.engine, self.name
        )
    }

    /// Succeeds also where the next container has no health check.
    fn ready_check(&self, health: &Health, ready_timeout: Duration) -> String {
        let Found { engine, name, .. } = self;
        match engine {
            // Timers of systemd test it, which may not be there.
            Engine::Podman => format!(
                "check=$(podman container inspect -f '{{{{if .Config.Healthcheck}}}}1{{{{end}}}}' {name}) && \
                 {{ test -z \"$check\" || podman healthcheck run {name}; }}"
            ),
            Engine::Docker if is_soon(health, ready_timeout) => format!(
                "{engine} container inspect -f '{{{{if .State.Health}}}}{{{{.State.Health.Status}}}}{{{{else}}}}none{{{{end}}}}' \
                 {name} | grep -Eqx 'healthy|none'"
            ),
            Engine::Docker => {
                let words = match &health.test {
                    Test::Words(words) => words
                        .iter()
                        .map(|word| quoted(word))
                        .collect::<Vec<_>>()
                        .join(" "),
                    Test::Shell(line) => format!("/bin/sh -c {}", quoted(line)),
                };
                format!("docker exec {name} {words}")
            }
        }
    }

    fn about_ports(&self, ports: &PortSet) -> Vec<String> {
        let (name, published) = (&self.name, self.published());
        let mut lines = Vec::new();
        let left_out = published.minus(ports);
        if !left_out.is_empty() {
            let left_out = left_out.brief();
            lines.push(format!(
                "{left_out}: not gated, since --port names others of {name}"
            ));
        }
        let strange = ports.minus(&published);
        if !strange.is_empty() {
            let strange = strange.brief();
            lines.push(format!(
                "{strange}: gated, though {name} does not publish it"
            ));
        }
        let others = self.container.other_ports.iter();
        lines.extend(others.map(|other| format!("{other}: not gated, since it is not TCP")));
        lines
    }

    /// Who is refused while nobody listens. `options`: those of the run.
    fn not_covered(&self, options: &[Given]) -> Vec<String> {
        let mut lines = Vec::new();
        let hook = value_of("hook", options).is_some_and(|hook| hook == "prerouting");
        let action = value_of(SYN, options).map(|action| action.to_string_lossy());
        let action = action.filter(|action| action != "drop" && hook);
        if let Some(action) = action {
            lines.push(format!(
                "not covered, unless SYNs are dropped: clients on this host that connect to another address of it \
                 than 127.0.0.1 and ::1 (--syn {action})"
            ));
        }
        let own: Vec<String> = self
            .container
            .addresses
            .iter()
            .map(IpAddr::to_string)
            .collect();
        if matches!(self.container.network, Network::Own | Network::Of(_)) && !own.is_empty() {
            lines.push(format!(
                "not covered: clients of its own address, as other containers are that connect to it by its name \
                 ({})",
                own.join(", ")
            ));
        }
        lines
    }

    /// How its health check is used.
    fn about(&self, health: &Health, ready_timeout: Duration) -> String {
        let first = humantime::format_duration(health.first);
        match self.engine {
            Engine::Podman => {
                "ready when its health check succeeds: podman healthcheck run".to_owned()
            }
            Engine::Docker if is_soon(health, ready_timeout) => {
                format!("ready when it is healthy: docker tests that {first} after its start")
            }
            Engine::Docker => format!(
                "ready when its health check succeeds, by docker exec: docker itself tests it {first} after its start, \
                 which is too late for --ready-timeout {}",
                humantime::format_duration(ready_timeout)
            ),
        }
    }
}

/// The engine itself tells in time that the container is healthy.
fn is_soon(health: &Health, ready_timeout: Duration) -> bool {
    health.first <= ready_timeout / 2
}

/// For a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::super::inspect::tests::{DOCKER, HOST, PODMAN};
    use super::*;
    use crate::words::command_line::os_words;

    fn found(engine: Engine, printed: &[u8]) -> Found {
        Found {
            engine,
            name: "web".to_owned(),
            container: Container::read(printed).unwrap(),
            here: PortSet::from_iter([8088]),
        }
    }

    fn docker() -> Found {
        found(Engine::Docker, DOCKER)
    }

    fn given(options: &[(&str, &str)]) -> Vec<Given> {
        let one =
            |(long, value): &(&str, &str)| option(long, (!value.is_empty()).then_some(*value));
        let container = option(CONTAINER, Some("web"));
        [container]
            .into_iter()
            .chain(options.iter().map(one))
            .collect()
    }

    /// The long form without `syngate` and the command, and the lines.
    fn of(found: &Found, options: &[(&str, &str)]) -> Result<(String, Vec<String>), String> {
        let value = |long: &str| {
            let one = options.iter().find(|one| one.0 == long);
            one.map(|one| one.1)
        };
        let ports = value("port").map(|text| PortSet::parse(text, |_| None).unwrap());
        let listen_ports =
            value(LISTEN_PORT).map(|text| ListenPorts::parse(text, |_| None).unwrap());
        let wanted = Wanted {
            options: &given(options),
            command: &os_words(&["docker", "restart", "web"]),
            ports: ports.unwrap_or(PortSet::EMPTY),
            listen_ports,
            ready_timeout: Duration::from_secs(10),
        };
        let call = call(&wanted, found)?;
        let shown = call.form.shown();
        let options = shown
            .strip_prefix("syngate ")
            .and_then(|s| s.strip_suffix(" -- docker restart web"));
        Ok((options.unwrap().to_owned(), call.lines))
    }

    const PID: &str =
        r"--listen-netns-from 'docker container inspect -f '\''{{.State.Pid}}'\'' web'";

    #[test]
    fn what_docker_tells_becomes_a_call() {
        let (form, lines) = of(&docker(), &[]).unwrap();
        let expected = format!(
            "--port 80-81,9000-9002 --hook prerouting --listen-port 80=8080,81=8080 {PID} --ready-check \
             'docker container inspect -f '\\''{{{{if .State.Health}}}}{{{{.State.Health.Status}}}}{{{{else}}}}none\
             {{{{end}}}}'\\'' web | grep -Eqx '\\''healthy|none'\\'''"
        );
        assert_eq!(form, expected);
        let expected = [
            "web (docker, pid 20083): ports 80-81,9000-9002 (listeners 8080,9000-9002)",
            "53/udp: not gated, since it is not TCP",
            "ready when it is healthy: docker tests that 1s after its start",
            "not covered: clients of its own address, as other containers are that connect to it by its name (172.18.0.2)",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_podman_tells_becomes_a_call() {
        let podman = found(Engine::Podman, PODMAN);
        let (form, _) = of(&podman, &[]).unwrap();
        let pid = PID.replace("docker", "podman");
        let expected =
            format!("--port 80-81,9000-9002 --hook prerouting --listen-port 80=8080,81=8080 {pid}");
        assert_eq!(form, expected);
        let checked = Found {
            container: Container {
                health: docker().container.health,
                ..podman.container
            },
            ..podman
        };
        let (form, lines) = of(&checked, &[]).unwrap();
        assert!(
            form.ends_with("|| podman healthcheck run web; }'"),
            "{form}"
        );
        assert!(
            lines.contains(
                &"ready when its health check succeeds: podman healthcheck run".to_owned()
            )
        );
    }

    #[test]
    fn what_is_given_wins() {
        for (options, expected) in [
            (
                &[("port", "9000")][..],
                format!("--port 9000 --hook prerouting {PID}"),
            ),
            (
                &[("port", "81"), ("ready-url", "tcp:81")],
                format!(
                    "--port 81 --ready-url tcp:81 --hook prerouting --to 127.0.0.1 --listen-port 81=8080 {PID}"
                ),
            ),
            (
                &[
                    ("port", "80"),
                    ("listen-port", "8081"),
                    ("listen-netns", "web"),
                    ("hook", "input"),
                ],
                "--port 80 --listen-port 8081 --listen-netns web --hook input".to_owned(),
            ),
            (
                &[
                    ("port", "80"),
                    ("ready-timeout", "0"),
                    ("to", "10.0.0.1"),
                    ("syn", "hold"),
                ],
                format!(
                    "--port 80 --syn hold --ready-timeout 0 --to 10.0.0.1 --hook prerouting --listen-port 80=8080 {PID}"
                ),
            ),
        ] {
            let (form, _) = of(&docker(), options).unwrap();
            let form = form.split(" --ready-check").next().unwrap();
            assert_eq!(form, expected, "{options:?}");
        }
        let (form, _) = of(&docker(), &[("ready-check", "true")]).unwrap();
        assert_eq!(form.matches("--ready-check").count(), 1, "{form}");
        assert!(form.contains("--ready-check true"));
        let (form, _) = of(&docker(), &[("port", "80"), ("ready-timeout", "0")]).unwrap();
        assert!(!form.contains("--ready-check"), "{form}");
    }

    #[test]
    fn what_is_not_covered_is_told() {
        let lines = |options: &[(&str, &str)]| of(&docker(), options).unwrap().1;
        let says = |lines: &[String], what: &str| lines.iter().any(|line| line.starts_with(what));
        let local = "not covered, unless SYNs are dropped: clients on this host";
        assert!(says(&lines(&[("syn", "hold")]), local));
        assert!(!says(&lines(&[("syn", "drop")]), local));
        assert!(!says(&lines(&[("syn", "hold"), ("hook", "input")]), local));
        let some = lines(&[("port", "80,82")]);
        assert!(
            says(
                &some,
                "81,9000-9002: not gated, since --port names others of web"
            ),
            "{some:?}"
        );
        assert!(
            says(&some, "82: gated, though web does not publish it"),
            "{some:?}"
        );
    }

    #[test]
    fn a_container_with_the_host_s_network_is_a_service_as_any_other() {
        let host = found(Engine::Docker, HOST);
        let (form, lines) = of(&host, &[]).unwrap();
        assert_eq!(form, "--port 8088");
        assert_eq!(lines, ["web (docker, pid 6767): port 8088"]);
        let none = Found {
            here: PortSet::EMPTY,
            ..host
        };
        let why = of(&none, &[]).unwrap_err();
        assert!(
            why.contains("none of its processes listens on a TCP port"),
            "{why}"
        );
    }

    /// What docker would tell with this in place of what it told.
    fn changed(change: impl FnOnce(&mut Container)) -> Found {
        let mut found = docker();
        change(&mut found.container);
        found
    }

    #[test]
    fn a_health_check_that_comes_too_late_is_made_by_syngate() {
        for (test, command) in [
            (
                Test::Words(vec!["/it's".to_owned(), "-q".to_owned()]),
                r"'/it'\''s' '-q'",
            ),
            (Test::Shell("exit 0".to_owned()), "/bin/sh -c 'exit 0'"),
        ] {
            let health = |first| Health {
                test: test.clone(),
                first: Duration::from_secs(first),
            };
            let late = changed(|container| container.health = Some(health(6)));
            assert_eq!(
                late.ready_check(&health(6), Duration::from_secs(10)),
                format!("docker exec web {command}")
            );
            let soon = late.ready_check(&health(5), Duration::from_secs(10));
            assert!(soon.starts_with("docker container inspect "), "{soon}");
            let (_, lines) = of(&late, &[]).unwrap();
            let told = lines
                .iter()
                .find(|line| line.starts_with("ready when"))
                .unwrap();
            assert!(
                told.ends_with(
                    "tests it 6s after its start, which is too late for --ready-timeout 10s"
                ),
                "{told}"
            );
        }
    }

    #[test]
    fn who_can_t_be_gated_is_told_why() {
        for (found, says) in [
            (
                changed(|one| one.pid = None),
                "web is running (docker), so nobody listens on its ports: docker start web",
            ),
            (
                changed(|one| one.published.clear()),
                "web publishes no port but 53/udp (looked at NetworkSettings.Ports",
            ),
            (
                changed(|one| {
                    one.published.clear();
                    one.network = Network::Of("0123456789abcdef".to_owned());
                }),
                "which publishes its ports: --container 0123456789ab",
            ),
            (
                changed(|one| {
                    one.published.clear();
                    one.network = Network::None;
                }),
                "web has no network (docker)",
            ),
            (
                changed(|one| {
                    one.published.push(Published {
                        port: 80,
                        listener: 9090,
                        address: Some([10, 0, 0, 1].into()),
                    });
                }),
                "80 leads to 8080,9090 of web, by the address that clients connect to: --listen-port",
            ),
        ] {
            let why = of(&found, &[]).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        let proxied = changed(|one| one.network = Network::BehindProxy);
        let (form, _) = of(&proxied, &[("port", "9000")]).unwrap();
        assert!(
            form.starts_with("--port 9000 --hook input --listen-netns-from"),
            "{form}"
        );
    }
}
