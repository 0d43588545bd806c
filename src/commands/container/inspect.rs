//! What `docker container inspect` and `podman container inspect` print. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

/// What is to be known of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) id: String,
    /// `running`, `exited`, `created` and so on.
    pub(super) status: String,
    /// The first process, if it runs.
    pub(super) pid: Option<i32>,
    pub(super) network: Network,
    /// The TCP ports that it publishes.
    pub(super) published: Vec<Published>,
    /// Ports of other protocols that it publishes, such as `53/udp`.
    pub(super) other_ports: BTreeSet<String>,
    /// Its own addresses.
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) health: Option<Health>,
}

/// Whose network it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Network {
    /// Its own. NAT sends it what comes to published ports.
    Own,
    /// Its own. A process of its user's listens on published ports, and connects to it.
    BehindProxy,
    /// That of the host.
    Host,
    /// That of another container.
    Of(String),
    None,
}

/// A port of the host that leads to a port of the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Published {
    pub(super) port: u16,
    pub(super) listener: u16,
    /// The address of the host. `None`: all.
    pub(super) address: Option<IpAddr>,
}

/// Its health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) test: Test,
    /// How long after its start the engine tests it first.
    pub(super) first: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    Words(Vec<String>),
    /// For the container's shell.
    Shell(String),
}

/// What both engines take where a health check names no interval.
const INTERVAL: Duration = Duration::from_secs(30);

impl Container {
    /// Reads what was printed of one container. What is missing or odd in it is taken for not being there.
    ///
    /// # Errors
    /// It is no JSON, or tells of no container.
    pub(super) fn read(printed: &[u8]) -> Result<Container, String> {
        let all: Value = serde_json::from_slice(printed).map_err(|error| error.to_string())?;
        let one = match &all {
            Value::Array(all) => match &all[..] {
                [one] => one,
                _ => return Err(format!("it tells of {} containers", all.len())),
            },
            _ => return Err("it is no list".to_owned()),
        };
        let id = text(&one["Id"]).ok_or("it has no Id")?;
        let (state, net, config) = (&one["State"], &one["NetworkSettings"], &one["Config"]);
        let pid = state["Pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        let (published, other_ports) = ports(&net["Ports"]);
        Ok(Container {
            id,
            status: text(&state["Status"]).unwrap_or_else(|| "in an unknown state".to_owned()),
            pid: pid.filter(|pid| *pid > 0),
            network: network(text(&one["HostConfig"]["NetworkMode"]).as_deref()),
            published,
            other_ports,
            addresses: addresses(net),
            health: health(&config["Healthcheck"]),
        })
    }
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn network(mode: Option<&str>) -> Network {
    match mode.unwrap_or_default() {
        "host" => Network::Host,
        "none" => Network::None,
        mode if is_of_user(mode) => Network::BehindProxy,
        mode => match mode.strip_prefix("container:") {
            Some(other) => Network::Of(other.to_owned()),
            None => Network::Own,
        },
    }
}

/// The networks of podman without root: `slirp4netns:port_handler=rootlesskit`, `pasta`.
fn is_of_user(mode: &str) -> bool {
    let name = mode.split(':').next();
    name.is_some_and(|name| ["slirp4netns", "pasta"].contains(&name))
}

/// By `8080/tcp`, a list of `{"HostIp": "0.0.0.0", "HostPort": "80"}`, or null if it is exposed alone.
fn ports(ports: &Value) -> (Vec<Published>, BTreeSet<String>) {
    let (mut published, mut others) = (BTreeSet::new(), BTreeSet::new());
    for (name, bindings) in ports.as_object().into_iter().flatten() {
        let Some(bindings) = bindings.as_array().filter(|all| !all.is_empty()) else {
            continue;
        };
        let (listener, protocol) = name.split_once('/').unwrap_or((name, "tcp"));
        let Some(listener) = number(listener) else {
            continue;
        };
        if protocol != "tcp" {
            others.insert(name.clone());
            continue;
        }
        published.extend(bindings.iter().filter_map(|binding| {
            let address = binding["HostIp"].as_str().unwrap_or_default();
            let address = address
                .parse()
                .ok()
                .filter(|ip: &IpAddr| !ip.is_unspecified());
            Some(Published {
                port: number(binding["HostPort"].as_str()?)?,
                listener,
                address,
            })
        }));
    }
    (published.into_iter().collect(), others)
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn addresses(net: &Value) -> BTreeSet<IpAddr> {
    let networks = net["Networks"].as_object().into_iter();
    let networks = networks.flat_map(|all| all.values()).chain([net]);
    let texts = networks.flat_map(|one| [&one["IPAddress"], &one["GlobalIPv6Address"]]);
    let parsed = texts.filter_map(|one| one.as_str()?.parse().ok());
    parsed.collect()
}

/// `{"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 1000000000}`, in nanoseconds.
fn health(check: &Value) -> Option<Health> {
    let words: Option<Vec<String>> = check["Test"]
        .as_array()?
        .iter()
        .map(|word| Some(word.as_str()?.to_owned()))
        .collect();
    let words = words?;
    let (kind, rest) = words.split_first()?;
    let test = match (kind.as_str(), rest) {
        ("CMD-SHELL", [line, ..]) => Test::Shell(line.clone()),
        ("CMD", [_, ..]) => Test::Words(rest.to_vec()),
        // `NONE`, or `[]`, as in an image whose health check was taken out.
        _ => return None,
    };
    let time = |name: &str| check[name].as_u64().filter(|time| *time > 0);
    let often = time("StartPeriod").and(time("StartInterval"));
    let first = often.or(time("Interval")).map(Duration::from_nanos);
    Some(Health {
        test,
        first: first.unwrap_or(INTERVAL),
    })
}

/// What holds for any bytes that an engine may print.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Ok(container) = Container::read(bytes) {
        assert!(!container.id.is_empty() && !container.status.is_empty());
        assert!(container.pid.is_none_or(|pid| pid > 0));
        let mut ports = container.published.iter();
        assert!(ports.all(|one| one.port > 0 && one.listener > 0));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    // What docker 20.10.24 and podman 4.3.1 of Debian 12 printed, cut to what is read.
    pub(in crate::commands::container) const DOCKER: &[u8] = br#"[{"Id":"841baa2450f5164b3e0a0b1a5568932c69c4e381aa14f3cd25244af7280a6760","State":{"Status":"running",
"Running":true,"Pid":20083,"Health":{"Status":"healthy","FailingStreak":0}},"Name":"/web",
"HostConfig":{"NetworkMode":"app","PortBindings":{"53/udp":[{"HostIp":"","HostPort":"53"}],
"8080/tcp":[{"HostIp":"","HostPort":"80"},{"HostIp":"127.0.0.1","HostPort":"81"}],"9000/tcp":[{"HostIp":"",
"HostPort":"9000"}],"9001/tcp":[{"HostIp":"","HostPort":"9001"}],"9002/tcp":[{"HostIp":"",
"HostPort":"9002"}]}},"Config":{"ExposedPorts":{"53/udp":{},"8080/tcp":{},"9000/tcp":{},"9001/tcp":{},
"9002/tcp":{}},"Healthcheck":{"Test":["CMD-SHELL","/bin/busybox wget -q -O- http://127.0.0.1:8080/"],
"Interval":1000000000}},"NetworkSettings":{"Ports":{"53/udp":[{"HostIp":"0.0.0.0",
"HostPort":"53"},{"HostIp":"::","HostPort":"53"}],"8080/tcp":[{"HostIp":"127.0.0.1",
"HostPort":"81"},{"HostIp":"0.0.0.0","HostPort":"80"},{"HostIp":"::","HostPort":"80"}],
"9000/tcp":[{"HostIp":"0.0.0.0","HostPort":"9000"},{"HostIp":"::","HostPort":"9000"}],
"9001/tcp":[{"HostIp":"0.0.0.0","HostPort":"9001"},{"HostIp":"::","HostPort":"9001"}],
"9002/tcp":[{"HostIp":"0.0.0.0","HostPort":"9002"},{"HostIp":"::","HostPort":"9002"}]},
"SandboxKey":"/tmp/ct/d/exec/netns/3c7d01f7f81b","GlobalIPv6Address":"","IPAddress":"",
"Networks":{"app":{"IPAMConfig":null,"Links":null,"Aliases":["841baa2450f5"],
"NetworkID":"0d358fc6ef59edcba389fb134f6d4e81b4122e069fe930b5f81e7bee730d24b7",
"EndpointID":"0ef04fdc8be09c2df65b7aed9ae7a5bd73b597a76ba28ae658d26b3531fe1536","Gateway":"172.18.0.1",
"IPAddress":"172.18.0.2","IPPrefixLen":16,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,
"MacAddress":"02:42:ac:12:00:02","DriverOpts":null}}}}]"#;
    pub(in crate::commands::container) const PODMAN: &[u8] = br#"[{"Id":"19ed9e339c530e75201006975f44b8b6c3727a821a094d7d07d08d7f03d8fa92","State":{"Status":"running",
"Running":true,"Pid":15105,"Health":{"Status":"","FailingStreak":0}},"Name":"web",
"NetworkSettings":{"IPAddress":"","GlobalIPv6Address":"","Ports":{"53/udp":[{"HostIp":"","HostPort":"54"}],
"8080/tcp":[{"HostIp":"127.0.0.1","HostPort":"81"},{"HostIp":"","HostPort":"80"}],"9000/tcp":[{"HostIp":"",
"HostPort":"9000"}],"9001/tcp":[{"HostIp":"","HostPort":"9001"}],"9002/tcp":[{"HostIp":"",
"HostPort":"9002"}]},"SandboxKey":"/run/netns/netns-92fc8ebf-aef2-8433-0c08-6ced3d4b8d2f",
"Networks":{"app":{"EndpointID":"","Gateway":"10.89.0.1","IPAddress":"10.89.0.9","IPPrefixLen":24,
"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"MacAddress":"f2:c6:2b:3d:77:fb",
"NetworkID":"app","DriverOpts":null,"IPAMConfig":null,"Links":null,"Aliases":["19ed9e339c53"]}}},"Config":{},
"HostConfig":{"NetworkMode":"bridge","PortBindings":{"53/udp":[{"HostIp":"","HostPort":"54"}],
"8080/tcp":[{"HostIp":"127.0.0.1","HostPort":"81"},{"HostIp":"","HostPort":"80"}],"9000/tcp":[{"HostIp":"",
"HostPort":"9000"}],"9001/tcp":[{"HostIp":"","HostPort":"9001"}],"9002/tcp":[{"HostIp":"",
"HostPort":"9002"}]}}}]"#;
    pub(in crate::commands::container) const HOST: &[u8] = br#"[{"Id":"3a697cffde9b017eeb388377fe71c80091058687e777ec6afc21282bc5255426","State":{"Status":"running",
"Running":true,"Pid":6767},"Name":"/hh","HostConfig":{"NetworkMode":"host","PortBindings":{}},"Config":{},
"NetworkSettings":{"Ports":{},"SandboxKey":"/tmp/ct/d/exec/netns/default","GlobalIPv6Address":"",
"IPAddress":"","Networks":{"host":{"IPAMConfig":null,"Links":null,"Aliases":null,
"NetworkID":"8b66240eedeb769788dd78c9a8f6721f79fe90df9bd7a9da907dd62673a0522f",
"EndpointID":"50880af34f6ec7a366068c35de3a0000e84c858a45784c191cf29fc4c4aa0193","Gateway":"","IPAddress":"",
"IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"MacAddress":"",
"DriverOpts":null}}}}]"#;
    const SHARED: &[u8] = br#"[{"Id":"3a1871ab2580e40d93116fcc94ce6616570bdee916c2cef965b4ab9fa9bbcf1f","State":{"Status":"running",
"Running":true,"Pid":6994},"Name":"/ss",
"HostConfig":{"NetworkMode":"container:5d819c9e4591fa1db64466173b96ea84cdf2e098263e648a8fc541567ed6f077",
"PortBindings":{}},"Config":{},"NetworkSettings":{"Ports":{},"SandboxKey":"","GlobalIPv6Address":"",
"IPAddress":"","Networks":{}}}]"#;
    const EXITED: &[u8] = br#"[{"Id":"4c27d48a45faa62fcf897bc44dfca975b33e1a910cdb4bc1a37793a517b26b3f","State":{"Status":"exited",
"Running":false,"Pid":0},"Name":"/nn","HostConfig":{"NetworkMode":"none","PortBindings":{}},"Config":{},
"NetworkSettings":{"Ports":{},"SandboxKey":"/tmp/ct/d/exec/netns/e8b09f613c4a","GlobalIPv6Address":"",
"IPAddress":"","Networks":{"none":{"IPAMConfig":null,"Links":null,"Aliases":null,
"NetworkID":"c30ddaafd7c80c865a33720d7d3d08e641c052e6105b1d3b49942a49a8ce7bd4","EndpointID":"","Gateway":"",
"IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,
"MacAddress":"","DriverOpts":null}}}}]"#;

    fn read(printed: &[u8]) -> Container {
        Container::read(printed).unwrap()
    }

    fn published(container: &Container) -> Vec<String> {
        let published = container.published.iter();
        let address = |one: &Published| one.address.map_or_else(String::new, |ip| format!("{ip}:"));
        { published }
            .map(|one| format!("{}{}->{}", address(one), one.port, one.listener))
            .collect()
    }

    #[test]
    fn both_engines_tell_the_same() {
        let ports = [
            "80->8080",
            "127.0.0.1:81->8080",
            "9000->9000",
            "9001->9001",
            "9002->9002",
        ];
        let (docker, podman) = (read(DOCKER), read(PODMAN));
        for one in [&docker, &podman] {
            assert_eq!(published(one), ports);
            assert_eq!(one.network, Network::Own);
            assert_eq!(one.status, "running");
            assert_eq!(one.other_ports, ["53/udp".to_owned()].into());
        }
        assert_eq!((docker.pid, podman.pid), (Some(20083), Some(15105)));
        assert_eq!(docker.addresses, ["172.18.0.2".parse().unwrap()].into());
        assert_eq!(podman.addresses, ["10.89.0.9".parse().unwrap()].into());
        let health = Health {
            test: Test::Shell("/bin/busybox wget -q -O- http://127.0.0.1:8080/".to_owned()),
            first: Duration::from_secs(1),
        };
        assert_eq!((docker.health, podman.health), (Some(health), None));
    }

    #[test]
    fn whose_network_a_container_has() {
        assert_eq!(read(HOST).network, Network::Host);
        let Network::Of(other) = read(SHARED).network else {
            panic!("{:?}", read(SHARED))
        };
        assert!(other.starts_with("5d819c9e4591"), "{other}");
        let exited = read(EXITED);
        assert_eq!((exited.pid, exited.status.as_str()), (None, "exited"));
        assert_eq!(exited.network, Network::None);
        for (mode, of) in [
            ("default", Network::Own),
            ("shop_front", Network::Own),
            ("slirp4netns:port_handler=slirp4netns", Network::BehindProxy),
            ("pasta", Network::BehindProxy),
        ] {
            assert_eq!(network(Some(mode)), of, "{mode}");
        }
        assert_eq!(network(None), Network::Own);
    }

    #[test]
    fn a_health_check_is_a_line_or_words_or_none() {
        let of = |check: &str| health(&serde_json::from_str(check).unwrap());
        let words =
            |test: &[&str]| Test::Words(test.iter().map(|word| (*word).to_owned()).collect());
        for (check, expected) in [
            (
                r#"{"Test": ["CMD", "/ok", "-q"], "Interval": 2000000000}"#,
                Some((words(&["/ok", "-q"]), 2)),
            ),
            (
                r#"{"Test": ["CMD-SHELL", "exit 0"]}"#,
                Some((Test::Shell("exit 0".to_owned()), 30)),
            ),
            (
                r#"{"Test": ["CMD", "/ok"], "StartPeriod": 1, "StartInterval": 5000000000}"#,
                Some((words(&["/ok"]), 5)),
            ),
            (
                r#"{"Test": ["CMD", "/ok"], "StartInterval": 5000000000}"#,
                Some((words(&["/ok"]), 30)),
            ),
            (r#"{"Test": ["NONE"]}"#, None),
            (r#"{"Test": []}"#, None),
            (r#"{"Test": ["CMD"]}"#, None),
            (r#"{"Test": ["CMD", 1]}"#, None),
            ("null", None),
        ] {
            let expected = expected.map(|(test, seconds)| Health {
                test,
                first: Duration::from_secs(seconds),
            });
            assert_eq!(of(check), expected, "{check}");
        }
    }

    #[test]
    fn what_is_odd_is_not_there() {
        let one = read(
            br#"[{"Id": "1", "State": {"Pid": 0}, "NetworkSettings": {"Ports": {
                "80/tcp": null, "81/tcp": [], "82": [{"HostPort": "8082"}], "0/tcp": [{"HostPort": "1"}],
                "83/tcp": [{"HostIp": "::1", "HostPort": "0"}, {"HostIp": "x", "HostPort": "83"}, {}],
                "99999/tcp": [{"HostPort": "99"}]}}}]"#,
        );
        assert_eq!(published(&one), ["83->83", "8082->82"]);
        assert_eq!(
            (one.pid, one.status.as_str()),
            (None, "in an unknown state")
        );
        for (printed, says) in [
            (&b"[]"[..], "it tells of 0 containers"),
            (b"[{}, {}]", "it tells of 2 containers"),
            (b"[{}]", "it has no Id"),
            (b"{}", "it is no list"),
            (b"", "EOF"),
        ] {
            let why = Container::read(printed).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
