//! `--listen-port`: which listeners serve which gated port, for hosts where something between the gate
//! and the listener (REDIRECT, TPROXY, a container's published port) changes the port. Pure.

use std::collections::BTreeMap;

use crate::words::ports::PortSet;

/// Maps gated ports to the ports of their listeners. By default both are the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ListenPorts {
    /// One for all gated ports.
    all: Option<u16>,
    /// By gated port.
    each: BTreeMap<u16, u16>,
}

const EXPECTED: &str = "expected one port for all gated ports, such as 8080, or pairs of a gated \
                        port and its listener's, such as 80=8080,443=8443";

impl ListenPorts {
    /// Parses a value of the option. `service` looks a name up in the services database.
    ///
    /// # Errors
    /// A sentence that says which item is wrong and what would be right.
    pub(crate) fn parse(
        text: &str,
        service: impl Fn(&str) -> Option<u16>,
    ) -> Result<ListenPorts, String> {
        let one = |item: &str| one_port(item.trim(), &service);
        if !text.contains(['=', ',']) {
            return Ok(ListenPorts {
                all: Some(one(text)?),
                each: BTreeMap::new(),
            });
        }
        let mut each = BTreeMap::new();
        for item in text.split(',') {
            let Some((gated, listener)) = item.split_once('=') else {
                return Err(format!("'{}' is not a pair; {EXPECTED}", item.trim()));
            };
            let gated = one(gated)?;
            if each.insert(gated, one(listener)?).is_some() {
                return Err(format!("{gated} is there twice; {EXPECTED}"));
            }
        }
        Ok(ListenPorts { all: None, each })
    }

    /// Whether each gated port is also its listeners' port.
    pub(crate) fn is_plain(&self) -> bool {
        *self == ListenPorts::default()
    }

    /// The first port in the option that is not gated.
    pub(crate) fn not_gated(&self, gated: &PortSet) -> Option<u16> {
        self.each
            .keys()
            .copied()
            .find(|port| !gated.contains(*port))
    }

    pub(crate) fn listeners_of(&self, gated: &PortSet) -> PortSet {
        match self.all {
            Some(port) if !gated.is_empty() => [port].into_iter().collect(),
            Some(_) => PortSet::EMPTY,
            None => {
                let named: PortSet = self.each.keys().copied().collect();
                let moved = self.each.iter().filter(|(port, _)| gated.contains(**port));
                let moved: PortSet = moved.map(|(_, listener)| *listener).collect();
                gated.minus(&named).union(&moved)
            }
        }
    }

    pub(crate) fn served_by(&self, listener: u16, gated: &PortSet) -> PortSet {
        match self.all {
            Some(port) if port == listener => gated.clone(),
            Some(_) => PortSet::EMPTY,
            None => {
                let moved = self.each.iter().filter(|(_, to)| **to == listener);
                let moved = moved.map(|(port, _)| *port);
                let own = (!self.each.contains_key(&listener)).then_some(listener);
                moved
                    .chain(own)
                    .filter(|port| gated.contains(*port))
                    .collect()
            }
        }
    }

    /// Gated ports for messages, with the ports of their listeners if these differ: `80 (listener 8080)`.
    pub(crate) fn shown(&self, gated: &PortSet) -> String {
        let listeners = self.listeners_of(gated);
        if listeners == *gated {
            return gated.brief();
        }
        let s = if listeners.len() == 1 { "" } else { "s" };
        format!("{} (listener{s} {})", gated.brief(), listeners.brief())
    }
}

impl std::fmt::Display for ListenPorts {
    /// In the syntax of the option.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.all.iter().map(u16::to_string);
        let pair = |(gated, listener): (&u16, &u16)| format!("{gated}={listener}");
        let items: Vec<String> = all.chain(self.each.iter().map(pair)).collect();
        f.write_str(&items.join(","))
    }
}

fn one_port(item: &str, service: &impl Fn(&str) -> Option<u16>) -> Result<u16, String> {
    if item.is_empty() {
        return Err(format!("a port is missing; {EXPECTED}"));
    }
    if item.contains('=') {
        return Err(format!("'{item}' is not one port; {EXPECTED}"));
    }
    let ports = PortSet::parse(item, service)?;
    match (ports.len(), ports.iter().next()) {
        (1, Some(port)) => Ok(port),
        _ => Err(format!("'{item}' is not one port; {EXPECTED}")),
    }
}

/// Checks the properties of the parser for any text: a value of the option and, after a semicolon,
/// gated ports.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    const MANY: usize = 64;
    let text = String::from_utf8_lossy(bytes);
    let (text, gated) = text.split_once(';').unwrap_or((&text, "80,443"));
    let Ok(ports) = ListenPorts::parse(text, |_| None) else {
        return;
    };
    assert_eq!(
        ListenPorts::parse(&ports.to_string(), |_| None).as_ref(),
        Ok(&ports)
    );
    let Some(gated) = PortSet::parse(gated, |_| None)
        .ok()
        .filter(|g| g.len() <= MANY)
    else {
        return;
    };
    // Each gated port has a listener's port, and each of these serves a gated port.
    let listeners = ports.listeners_of(&gated);
    let served = |port| ports.served_by(port, &gated);
    assert!(listeners.iter().all(|port| !served(port).is_empty()));
    let union = |all: PortSet, port| all.union(&served(port));
    assert_eq!(listeners.iter().fold(PortSet::EMPTY, union), gated);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> ListenPorts {
        ListenPorts::parse(text, |name| (name == "http").then_some(80)).unwrap()
    }

    fn ports(text: &str) -> PortSet {
        PortSet::parse(text, |_| None).unwrap()
    }

    #[test]
    fn what_people_write() {
        for (text, shown) in [
            ("8080", "8080"),
            ("http=8080, 443=8443", "80=8080,443=8443"),
        ] {
            assert_eq!(listen(text).to_string(), shown);
        }
        for (text, says) in [
            ("", "a port is missing"),
            ("80=", "a port is missing"),
            ("80=8080,", "'' is not a pair"),
            ("8080,8081", "'8080' is not a pair"),
            ("0", "'0' is not a port"),
            ("80=65536", "'65536' is not a port"),
            ("80-81=8080", "'80-81' is not one port"),
            ("80=1,80=2", "80 is there twice"),
            ("80=81=82", "81=82"),
        ] {
            let error = ListenPorts::parse(text, |_| None).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn who_serves_whom() {
        let gated = ports("80,443,9000-9010");
        let each = listen("80=8080,443=8443");
        assert_eq!(each.listeners_of(&gated), ports("8080,8443,9000-9010"));
        assert_eq!(each.served_by(8080, &gated), ports("80"));
        assert_eq!(each.served_by(80, &gated), PortSet::EMPTY);
        assert_eq!(each.served_by(9001, &gated), ports("9001"));
        let one = listen("8080");
        assert_eq!(one.listeners_of(&gated), ports("8080"));
        assert_eq!(one.served_by(8080, &gated), gated);
        assert_eq!(one.served_by(80, &gated), PortSet::EMPTY);
        let swapped = listen("80=81,81=80");
        assert_eq!(swapped.served_by(80, &ports("80,81")), ports("81"));
        let both = listen("80=9000");
        assert_eq!(both.served_by(9000, &gated), ports("80,9000"));
        assert_eq!(each.not_gated(&ports("80")), Some(443));
        assert_eq!(each.not_gated(&gated), None);
        assert_eq!(one.listeners_of(&PortSet::EMPTY), PortSet::EMPTY);
        assert!(ListenPorts::default().is_plain());
        assert!(!one.is_plain() && !each.is_plain());
    }

    #[test]
    fn messages_name_the_listener() {
        assert_eq!(ListenPorts::default().shown(&ports("80")), "80");
        assert_eq!(
            listen("8080").shown(&ports("80,443")),
            "80,443 (listener 8080)"
        );
        let each = listen("80=8080,443=8443");
        assert_eq!(each.shown(&ports("80,443")), "80,443 (listeners 8080,8443)");
        assert_eq!(each.shown(&ports("81")), "81");
        assert!(listen("80=80").shown(&ports("80")) == "80");
    }
}
