//! A rule of anybody's as iptables-save(8) prints it. Pure.

use crate::words::ports::PortSet;

pub(super) struct Rule(Vec<String>);

impl Rule {
    pub(super) fn read(text: &str) -> Rule {
        Rule(words(text))
    }

    pub(super) fn words(&self) -> &[String] {
        &self.0
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.0.iter().any(|w| w == word)
    }

    /// The value of an option that is not negated: `! --dport 80` means all other ports.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word == name)?;
        let negated = at > 0 && self.0[at - 1] == "!";
        let value = self.0.get(at + 1).filter(|_| !negated);
        value.map(String::as_str)
    }

    pub(super) fn chain(&self) -> Option<&str> {
        self.value("-A")
    }

    pub(super) fn target(&self) -> Option<&str> {
        self.value("-j").or_else(|| self.value("-g"))
    }

    /// The rule names another protocol than TCP.
    pub(super) fn is_for_another_protocol(&self) -> bool {
        self.value("-p").is_some_and(|protocol| protocol != "tcp")
    }

    /// Whether the rule uses this extension.
    pub(super) fn uses(&self, name: &str) -> bool {
        let mut pairs = self.0.windows(2);
        pairs.any(|pair| pair[0] == "-m" && pair[1] == name)
    }

    /// The destination ports that it names to match them.
    pub(super) fn listed_ports(&self) -> Option<PortSet> {
        let listed = self.value("--dport").or_else(|| self.value("--dports"));
        listed.and_then(ports_in)
    }

    /// The destination ports that it matches: those that it names, or all others.
    pub(super) fn ports(&self) -> Option<PortSet> {
        let is_named = |word: &String| ["--dport", "--dports"].contains(&word.as_str());
        let all_but = || {
            let at = self.0.iter().position(is_named)?;
            Some(PortSet::all().minus(&ports_in(self.0.get(at + 1)?)?))
        };
        self.listed_ports().or_else(all_but)
    }
}

/// The ports of a list: `80,1000:2000`.
pub(super) fn ports_in(listed: &str) -> Option<PortSet> {
    PortSet::parse(&listed.replace(':', "-"), |_| None).ok()
}

/// The words of a rule. Quotes and backslashes are resolved.
pub(super) fn words(rule: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    let mut chars = rule.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => {
                let c = if c == '\\' { chars.next() } else { Some(c) };
                words.last_mut().into_iter().for_each(|word| word.extend(c));
            }
        }
    }
    words
}
