//! The kinds of backends, and their names.

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// nft where it works, else iptables
    Auto,
    /// nf_tables
    Nft,
    /// The host's iptables, of either variant
    Iptables,
    /// iptables on nf_tables
    IptablesNft,
    /// iptables on x_tables
    IptablesLegacy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nft,
    Iptables(Variant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The variant of the host's `iptables`.
    Default,
    /// On x_tables.
    Legacy,
    /// On nf_tables.
    Nft,
}

impl Choice {
    /// The name in `--backend`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Choice::Auto => "auto",
            Choice::Nft => Kind::Nft.name(),
            Choice::Iptables => Variant::Default.name(),
            Choice::IptablesNft => Variant::Nft.name(),
            Choice::IptablesLegacy => Variant::Legacy.name(),
        }
    }

    /// The kinds to try, in this order.
    pub(crate) fn kinds(self) -> Vec<Kind> {
        match self {
            Choice::Auto => vec![
                Kind::Nft,
                Kind::Iptables(Variant::Default),
                Kind::Iptables(Variant::Legacy),
            ],
            Choice::Nft => vec![Kind::Nft],
            Choice::Iptables => vec![Kind::Iptables(Variant::Default)],
            Choice::IptablesNft => vec![Kind::Iptables(Variant::Nft)],
            Choice::IptablesLegacy => vec![Kind::Iptables(Variant::Legacy)],
        }
    }
}

impl Kind {
    const ALL: [Kind; 4] = [
        Kind::Nft,
        Kind::Iptables(Variant::Default),
        Kind::Iptables(Variant::Legacy),
        Kind::Iptables(Variant::Nft),
    ];

    /// The name in `--backend`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Nft => "nft",
            Kind::Iptables(variant) => variant.name(),
        }
    }

    pub(crate) fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Variant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Variant::Default => "iptables",
            Variant::Legacy => "iptables-legacy",
            Variant::Nft => "iptables-nft",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn names_are_those_of_the_option() {
        for choice in Choice::value_variants() {
            let value = choice.to_possible_value().unwrap();
            assert_eq!(choice.name(), value.get_name());
            let kinds = match choice {
                Choice::Auto => continue,
                _ => choice.kinds(),
            };
            assert_eq!(kinds, [Kind::named(choice.name()).unwrap()]);
        }
        assert_eq!(Kind::named("auto"), None);
    }
}
