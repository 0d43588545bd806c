//! Whether packets can meet the gate: what this host has for the names of `--interface` and the
//! addresses of `--to`.

use crate::gate::kinds::Kind;
use crate::kernel::interface::Interface;
use crate::kernel::netlink::Refusal;
use crate::kernel::route::{HostAddress, Routing};
use crate::run::call::Call;
use crate::run::plan::{Plan, Refused};
use crate::run::record::Record;
use crate::run::vrf;
use crate::words::scope::{INTERFACE_NAME_MAX, Scope, Where, short};
use crate::words::steer::Steer;

impl Plan {
    /// Puts the interfaces' own names into the plan: rules know no alternative ones.
    ///
    /// # Errors
    /// One line, if no packet comes in by an interface.
    pub(super) fn on_this_host(mut self) -> Result<Plan, Refused> {
        let gates_input = self.gates_input();
        let scope = &mut self.config.gated.scope;
        if scope.interfaces.is_empty() {
            return Ok(self);
        }
        let resolved = match Routing::open().and_then(|mut routing| Ok(routing.interfaces()?)) {
            Ok(present) => resolve(&scope.interfaces, &present, gates_input),
            // The run warns of it as it closes the gate.
            Err(_) if scope.interfaces.iter().all(|name| is_own_name(name)) => return Ok(self),
            Err(error) => Err(format!(
                "--interface: syngate could not look for alternative names: {error:#}"
            )),
        };
        scope.interfaces = resolved.map_err(Refused::Options)?;
        Ok(self)
    }

    /// NAT is not at the input hook.
    fn gates_input(&self) -> bool {
        let translates = self
            .action
            .steer()
            .is_ok_and(|steer| steer.is_some_and(Steer::translates));
        self.gated().scope.hook == Where::Input && !translates
    }
}

/// The interfaces' own names, each once.
///
/// # Errors
/// Why no packet comes in by one of them.
fn resolve(
    names: &[String],
    present: &[Interface],
    gates_input: bool,
) -> Result<Vec<String>, String> {
    let mut resolved: Vec<String> = Vec::new();
    for name in names {
        let own = match find(name, present) {
            Some(interface) => interface.name.clone(),
            None if !is_own_name(name) => {
                return Err(format!(
                    "--interface {name}: no interface has this alternative name, and other names have \
                     at most {INTERFACE_NAME_MAX} bytes"
                ));
            }
            None => name.clone(),
        };
        if !resolved.contains(&own) {
            resolved.push(own);
        }
    }
    for name in &resolved {
        let Some(interface) = find(name, present) else {
            continue;
        };
        let master = master_of(interface, present);
        if master.is_some_and(|master| resolved.contains(&master.name)) {
            continue;
        }
        let to = master.map_or("", |master| &master.name);
        if let Some(why) = comes_in_elsewhere(&interface.master_kind, to, gates_input) {
            return Err(format!("--interface {name}: {why}"));
        }
    }
    Ok(resolved)
}

/// Alternative names may be longer, or not.
fn is_own_name(name: &str) -> bool {
    name.len() <= INTERFACE_NAME_MAX
}

fn find<'a>(name: &str, present: &'a [Interface]) -> Option<&'a Interface> {
    let own = present.iter().find(|i| i.name == name);
    own.or_else(|| {
        let mut others = present.iter();
        others.find(|i| i.alternative_names.iter().any(|other| other == name))
    })
}

fn master_of<'a>(interface: &Interface, present: &'a [Interface]) -> Option<&'a Interface> {
    let master = interface.master?;
    present.iter().find(|other| other.index == master)
}

/// Why no packet has such a member of `master` as its interface. These take a packet before the hooks
/// of IP, and give it their own interface: br_pass_frame_up(), bond_handle_frame(),
/// team_handle_frame(). A VRF does so between prerouting, which sees the packet twice, and input
/// (vrf_ip_rcv()). Open vSwitch sends it to one of its internal ports.
fn comes_in_elsewhere(kind: &str, master: &str, gates_input: bool) -> Option<String> {
    let name_it = format!("packets come in by {master}: name that");
    match kind {
        "bridge" => Some(format!("it is a port of the bridge {master}, and its {name_it}")),
        "bond" | "team" => Some(format!("it belongs to the {kind} {master}, and its {name_it}")),
        "vrf" if gates_input => Some(format!(
            "it belongs to the VRF {master}, and in the input hook its {name_it}, or use --hook \
             prerouting"
        )),
        "openvswitch" => Some(
            "it is a port of Open vSwitch, and its packets come in by an internal port: name that, \
             such as the bridge's"
                .to_owned(),
        ),
        _ => None,
    }
}

impl Call<'_> {
    /// Warns of a VRF from which connections do not meet the gate that this backend has made. `steer`:
    /// that of a gate made of rules.
    pub(super) fn warn_of_vrfs(&self, steer: Option<Steer>, backend: &str, record: &mut Record) {
        let (scope, nft) = (&self.plan.gated().scope, backend == Kind::Nft.name());
        let warning = steer.and_then(|steer| vrf::warning(steer, scope, nft));
        warning
            .into_iter()
            .for_each(|text| record.warnings.warn(self.say, text));
    }

    /// Warns of interfaces and addresses that this host has not now. What comes later is gated from
    /// then on.
    pub(super) fn warn_of_what_is_not_here(&self, record: &mut Record) {
        let scope = &self.plan.gated().scope;
        if scope.interfaces.is_empty() && scope.to.is_empty() {
            return;
        }
        let missing = Routing::open().and_then(|mut routing| Ok(missing(scope, &mut routing)?));
        let texts = missing.unwrap_or_else(|error| {
            vec![format!(
                "syngate could not look whether this host has what --interface and --to name: {error:#}"
            )]
        });
        for text in texts {
            record.warnings.warn(self.say, text);
        }
    }
}

fn missing(scope: &Scope, routing: &mut Routing) -> Result<Vec<String>, Refusal> {
    let mut texts = Vec::new();
    if !scope.interfaces.is_empty() {
        texts.extend(of_interfaces(&scope.interfaces, &routing.interfaces()?));
    }
    if !scope.to.is_empty() {
        let own = routing.addresses()?;
        texts.extend(of_addresses(scope, &own, |address| {
            routing.is_here(address)
        }));
    }
    Ok(texts)
}

fn of_interfaces(names: &[String], present: &[Interface]) -> Vec<String> {
    let text = |name: &String| {
        let Some(interface) = find(name, present) else {
            return Some(format!(
                "--interface {name}: this host has no such interface now; the gate stops what comes in by \
                 it only if it appears"
            ));
        };
        let master = &master_of(interface, present)?.name;
        let known = ["bridge", "bond", "team", "vrf", "openvswitch"];
        let told = known.contains(&interface.master_kind.as_str()) || names.contains(master);
        (!told).then(|| {
            format!("--interface {name}: it belongs to {master}, and its packets may come in by that: then \
                     the gate does not stop them; name that too")
        })
    };
    names.iter().filter_map(text).collect()
}

/// `is_here` asks for the route to an address: it may be this host's without being on an interface
/// (`ip route add local`).
fn of_addresses(
    scope: &Scope,
    own: &[HostAddress],
    mut is_here: impl FnMut(std::net::IpAddr) -> bool,
) -> Vec<String> {
    let mut texts = Vec::new();
    for network in scope.to.all() {
        let mut has = own.iter();
        let here = has.any(|own| network.contains(&own.address)) || is_here(network.addr());
        if !here {
            texts.push(format!(
                "--to {0}: this host does not have {0} now; the gate stops what goes there only if the \
                 address appears",
                short(&network)
            ));
        } else if scope.allow_local && network.addr().is_loopback() {
            texts.push(format!(
                "--to {}: only this host's own clients connect to it, and --allow-local lets them \
                 through",
                short(&network)
            ));
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::scope::{Networks, parse_networks};

    fn named(name: &str, index: u32, member: Option<(u32, &str)>) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            alternative_names: vec![format!("alternative-name-of-{name}")],
            master: member.map(|(master, _)| master),
            master_kind: member.map_or(String::new(), |(_, kind)| kind.to_owned()),
        }
    }

    fn present() -> Vec<Interface> {
        vec![
            named("eth0", 2, None),
            named("eth1", 3, Some((4, "bridge"))),
            named("br0", 4, None),
            named("eth2", 5, Some((6, "vrf"))),
            named("vrf0", 6, None),
            named("eth3", 7, Some((8, "openvswitch"))),
            named("ovs-system", 8, None),
            named("eth4", 9, Some((10, "odd"))),
            named("odd0", 10, None),
        ]
    }

    fn resolved(names: &[&str], gates_input: bool) -> Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        resolve(&names, &present(), gates_input)
    }

    #[test]
    fn alternative_names_lead_to_the_own_one() {
        let both = resolved(&["alternative-name-of-eth0", "eth0", "late0"], true);
        assert_eq!(both.unwrap(), ["eth0", "late0"]);
        let nobody = resolved(&["alternative-name-of-nobody"], true).unwrap_err();
        assert!(nobody.contains("at most 15 bytes"), "{nobody}");
    }

    #[test]
    fn an_interface_by_which_no_packet_comes_in_is_refused() {
        for (names, gates_input, says) in [
            (&["eth1"][..], true, Some("name that")),
            (&["alternative-name-of-eth1"], false, Some("bridge br0")),
            (&["eth1", "br0"], true, None),
            (&["eth2"], true, Some("come in by vrf0")),
            (&["eth2"], false, None),
            (&["eth3"], true, Some("internal port")),
            (&["eth4"], true, None),
            (&["br0", "vrf0"], true, None),
        ] {
            match (resolved(names, gates_input), says) {
                (Ok(_), None) => (),
                (Err(why), Some(says)) => assert!(why.contains(says), "{names:?}: {why}"),
                (result, says) => panic!("{names:?}: {result:?}, not {says:?}"),
            }
        }
        let odd = of_interfaces(&["eth4".to_owned(), "late0".to_owned()], &present());
        assert!(odd[0].contains("belongs to odd0"), "{odd:?}");
        assert!(
            odd[1].contains("late0: this host has no such interface"),
            "{odd:?}"
        );
    }

    #[test]
    fn addresses_that_are_not_here_are_told() {
        let own = [HostAddress {
            address: [10, 0, 0, 1].into(),
            device: 2,
            has_network: true,
            global: true,
        }];
        let told = |to: &str, allow_local| {
            let scope = Scope {
                to: Networks::new(parse_networks(to).unwrap()),
                allow_local,
                ..Scope::default()
            };
            // As by `ip route add local 192.0.2.0/24 dev lo`, and for 127.0.0.0/8.
            let is_here = |address: std::net::IpAddr| {
                address.is_loopback() || address.to_string().starts_with("192.0.2.")
            };
            of_addresses(&scope, &own, is_here).len()
        };
        assert_eq!(told("10.0.0.1", true), 0);
        assert_eq!(told("10.0.0.0/8,::ffff:10.0.0.1", false), 0);
        assert_eq!(told("10.0.0.2", false), 1);
        assert_eq!(told("192.0.2.7,127.0.0.53", false), 0);
        assert_eq!(told("127.0.0.1,10.0.0.1", true), 1);
    }
}
