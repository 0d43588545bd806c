//! The installed variants of iptables, and the tables that exist.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use nftnl::ProtoFamily;
use nix::errno::Errno;

use super::programs::Programs;
use crate::gate::kinds::Variant;
use crate::gate::nft::tables;
use crate::words::family::Family;

const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// The variant of the host's `iptables`.
pub(crate) fn default_variant() -> Option<Variant> {
    let path = std::env::var_os("PATH");
    let programs = Programs::of(Variant::Default, path.as_deref()).ok()?;
    Some(programs.truly())
}

/// Each variant once, even if several names lead to it.
pub(super) fn installed_variants() -> Vec<(Variant, Programs)> {
    let path = std::env::var_os("PATH");
    let programs = |variant| Programs::of(variant, path.as_deref());
    let mut variants: Vec<(Variant, Programs)> = [Variant::Legacy, Variant::Nft]
        .into_iter()
        .filter_map(|variant| Some((variant, programs(variant).ok()?)))
        .collect();
    // With both installed, the default is one of these: it is not asked, since it may hang.
    if let ([] | [_], Ok(programs)) = (&variants[..], programs(Variant::Default)) {
        let truly = programs.truly();
        if !variants.iter().any(|(variant, _)| *variant == truly) {
            variants.push((truly, programs));
        }
    }
    variants
}

pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// # Errors
/// Why that can't be told.
pub(super) fn has_legacy_tables() -> Result<bool, String> {
    let mut any = false;
    for family in Family::ALL {
        any |= !tables_of(Variant::Legacy, family)?.is_empty();
    }
    Ok(any)
}

/// The tables of a variant in this network namespace. A program that is asked for another table may
/// create it.
///
/// # Errors
/// Why they can't be listed.
pub(super) fn tables_of(variant: Variant, family: Family) -> Result<Vec<String>, String> {
    match variant {
        Variant::Legacy => legacy_tables(family).map_err(|(file, error)| {
            let errno = error.raw_os_error().map(Errno::from_raw);
            format!("{file}: {}", errno.unwrap_or(Errno::EIO).desc())
        }),
        _ => Ok(nft_tables(family)),
    }
}

/// On failure the path too: only root can read it.
fn legacy_tables(family: Family) -> Result<Vec<String>, (&'static str, io::Error)> {
    let file = match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    match fs::read_to_string(file) {
        Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
        // The file is not there before the module is; nor is it if /proc is not mounted.
        Err(error) if error.kind() == ErrorKind::NotFound && Path::new("/proc/net").exists() => {
            Ok(Vec::new())
        }
        Err(error) => Err((file, error)),
    }
}

fn nft_tables(family: Family) -> Vec<String> {
    let family = match family {
        Family::V4 => ProtoFamily::Ipv4,
        Family::V6 => ProtoFamily::Ipv6,
    };
    let known = TABLES.map(str::to_owned);
    match tables::names(family) {
        Ok(names) => known
            .into_iter()
            .filter(|name| names.contains(name))
            .collect(),
        // The program's error will say why.
        Err(_) => known.into(),
    }
}
