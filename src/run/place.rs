//! `--hook auto`: where the gate stands. The decision is pure.

use crate::gate::consumers::Firewall;
use crate::words::scope::{HookChoice, Where};

/// Where the gate stands, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) hook: Where,
    /// The gate stands in prerouting without having been told to: nothing changes addresses here.
    pub(crate) early: bool,
    /// The reason for prerouting.
    pub(crate) why: Option<String>,
    /// Clients come to harm.
    pub(crate) warning: Option<String>,
}

/// The firewall is looked at only if it matters: what is held goes on by itself, and what is
/// redirected or diverted has a hook of its own.
pub(crate) fn place(choice: HookChoice, drops: bool, look: impl FnOnce() -> Firewall) -> Place {
    if choice == HookChoice::Prerouting || !drops {
        return Place {
            hook: choice.given(),
            ..Place::default()
        };
    }
    let firewall = look();
    let Some((what, by)) = firewall.consumers.first() else {
        return Place::default();
    };
    let harm = format!("{} ({by})", what.harm());
    match (choice, firewall.translates) {
        (HookChoice::Auto, None) => Place {
            hook: Where::Prerouting,
            early: true,
            why: Some(format!("--hook auto: prerouting, since {harm}")),
            warning: None,
        },
        (HookChoice::Auto, Some(other)) => Place {
            warning: Some(format!(
                "{harm}; the gate stays in the input hook, since a rule may send packets elsewhere \
                 ({other}): --syn hold or --hook prerouting avoids that"
            )),
            ..Place::default()
        },
        _ => Place {
            warning: Some(format!("--hook input: {harm}; --hook auto avoids that")),
            ..Place::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::consumers::Consumes;

    fn firewall(consumes: bool, translates: bool) -> Firewall {
        let by = || "nft table t, chain c".to_owned();
        Firewall {
            consumers: consumes
                .then(|| (Consumes::SynProxy, by()))
                .into_iter()
                .collect(),
            translates: translates.then(by),
        }
    }

    #[test]
    fn the_gate_is_early_where_a_syn_would_be_used_up() {
        use HookChoice::{Auto, Input, Prerouting};
        for (choice, drops, consumes, translates, hook, early, warns) in [
            (Auto, true, false, false, Where::Input, false, false),
            (Auto, true, true, false, Where::Prerouting, true, false),
            (Auto, true, true, true, Where::Input, false, true),
            (Auto, false, true, false, Where::Input, false, false),
            (Input, true, true, false, Where::Input, false, true),
            (Input, true, false, false, Where::Input, false, false),
            (
                Prerouting,
                true,
                true,
                true,
                Where::Prerouting,
                false,
                false,
            ),
        ] {
            let place = place(choice, drops, || firewall(consumes, translates));
            let told = (place.hook, place.early, place.warning.is_some());
            assert_eq!(told, (hook, early, warns), "{choice:?} {drops} {consumes}");
            assert_eq!(place.why.is_some(), early);
        }
    }

    /// Who uses up the SYN, what that does to clients, and what avoids it.
    #[test]
    fn the_reason_is_told() {
        let why = |choice, translates| {
            let place = place(choice, true, || firewall(true, translates));
            place.why.or(place.warning).unwrap()
        };
        for (choice, translates, says) in [
            (HookChoice::Auto, false, "--hook auto: prerouting"),
            (HookChoice::Auto, true, "stays in the input hook"),
            (HookChoice::Auto, true, "--hook prerouting avoids that"),
            (HookChoice::Input, true, "--hook auto avoids that"),
        ] {
            let why = why(choice, translates);
            for part in [says, "SYNPROXY", "nft table t, chain c"] {
                assert!(why.contains(part), "{part}: {why}");
            }
        }
    }
}
