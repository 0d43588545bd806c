//! Ports that are keys of a set or a map: the kernel is asked for its elements.

use std::ffi::CString;

use anyhow::Result;
use nftnl::ProtoFamily;
use nix::libc;

use super::compared::{Keys, Ports, unless};
use super::tables::Tables;
use super::{answers, others};
use crate::gate::by_port::Matched;
use crate::kernel::netlink::get;
use crate::words::ports::PortSet;

/// # Errors
/// The set is not listed.
pub(super) fn known(ports: Ports, at: &others::At, tables: &mut Tables) -> Result<Matched> {
    Ok(match ports {
        Ports::These(ports) => Matched::These(ports),
        Ports::KeysOf(keys) => Matched::These(keys.ports(at, tables)?),
        Ports::Unread => Matched::Unread,
    })
}

impl Keys {
    /// Leaves out what a map of verdicts lets pass.
    fn ports(&self, at: &others::At, tables: &mut Tables) -> Result<PortSet> {
        let family = match i32::from(at.family) {
            libc::NFPROTO_IPV4 => ProtoFamily::Ipv4,
            libc::NFPROTO_IPV6 => ProtoFamily::Ipv6,
            _ => ProtoFamily::Inet,
        };
        let (table, set) = (CString::new(&*at.table)?, CString::new(&*self.set)?);
        let bounds = tables.elements(family, &table, &set, |payload| {
            let elements = answers::elements(payload);
            let matter = elements.filter(|element| element.verdict.is_none_or(answers::may_refuse));
            let bounds = matter.filter_map(|element| {
                let port = get(element.key, self.offset).map(u16::from_be_bytes)?;
                Some((port, element.end))
            });
            bounds.collect()
        })?;
        let intervals = bounds.iter().any(|(_, end)| *end);
        Ok(unless(self.inverted, answers::ports(bounds, intervals)))
    }
}
