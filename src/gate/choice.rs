//! Which backend: what was asked for, or the first one that works here.

use std::ffi::OsStr;

use anyhow::Result;

use super::iptables::variant::Variant;
use super::iptables::{self, Iptables};
use super::nft::{self, Nft};
use super::{Backend, Settings};

/// `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// nft where it works, else iptables
    Auto,
    /// nf_tables
    Nft,
    /// The host's iptables, of whichever variant
    Iptables,
    /// iptables on nf_tables
    IptablesNft,
    /// iptables on x_tables
    IptablesLegacy,
}

/// A kind of backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// nf_tables.
    Nft,
    /// A variant of iptables.
    Iptables(Variant),
}

impl Choice {
    /// The kinds to try, in this order.
    pub fn kinds(self) -> Vec<Kind> {
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

    /// Whether its programs are installed, if it needs any.
    ///
    /// # Errors
    /// One line that says what is missing.
    pub fn installed(self, path: Option<&OsStr>) -> Result<(), String> {
        match self.kinds()[..] {
            [Kind::Iptables(variant)] => variant.programs(path).map(drop),
            _ => Ok(()),
        }
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [
        Kind::Nft,
        Kind::Iptables(Variant::Default),
        Kind::Iptables(Variant::Legacy),
        Kind::Iptables(Variant::Nft),
    ];

    /// Its name, as `--backend` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Nft => "nft",
            Kind::Iptables(variant) => variant.name(),
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A backend of that kind. Changes nothing.
    ///
    /// # Errors
    /// [`Lacking`], or what the system says.
    pub fn backend(self, settings: &Settings) -> Result<Box<dyn Backend>> {
        Ok(match self {
            Kind::Nft => Box::new(Nft::new(settings)?),
            Kind::Iptables(variant) => Box::new(Iptables::new(variant, settings)?),
        })
    }

    /// Removes what run `id` has made with that kind of backend; nothing there is no error.
    ///
    /// # Errors
    /// Something may still stand.
    pub fn erase(self, id: &str) -> Result<()> {
        match self {
            Kind::Nft => nft::erase(id),
            Kind::Iptables(variant) => iptables::erase(variant, id),
        }
    }
}
