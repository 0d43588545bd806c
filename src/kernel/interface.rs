//! The interfaces of this network namespace: their names, and the interface that each belongs to
//! (linux/if_link.h).

use super::netlink::{attribute, attributes, get};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Rules know none of them (`ip link property add … altname`, Linux 5.5).
    pub(crate) alternative_names: Vec<String>,
    /// The number of the bridge, bond, VRF or the like that it belongs to.
    pub(crate) master: Option<u32>,
    /// The kind of that, such as `bridge`; empty if its driver does not tell.
    pub(crate) master_kind: String,
}

/// A `struct ifinfomsg` and its attributes.
pub(super) fn interface(row: &[u8]) -> Option<Interface> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MASTER: u16 = 10;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_SLAVE_KIND: u16 = 4;
    const IFLA_PROP_LIST: u16 = 52;
    const IFLA_ALT_IFNAME: u16 = 53;
    let number = |bytes: &[u8], at| get(bytes, at).map(u32::from_ne_bytes);
    let rest = row.get(16..)?;
    let info = attribute(rest, IFLA_LINKINFO).unwrap_or_default();
    let others = attributes(attribute(rest, IFLA_PROP_LIST).unwrap_or_default());
    let others = others.filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
    Some(Interface {
        index: number(row, 4)?,
        name: text(attribute(rest, IFLA_IFNAME)?),
        alternative_names: others.map(|(_, name)| text(name)).collect(),
        master: attribute(rest, IFLA_MASTER).and_then(|index| number(index, 0)),
        master_kind: attribute(info, IFLA_INFO_SLAVE_KIND).map_or_else(String::new, text),
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// What holds for any row of the table.
#[cfg(any(fuzzing, test))]
pub(super) fn withstand(bytes: &[u8]) {
    if let Some(interface) = interface(bytes) {
        assert!(!interface.name.contains('\0') && interface.alternative_names.len() < bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::put_attribute;

    #[test]
    fn reads_names_and_whom_it_belongs_to() {
        let mut names = Vec::new();
        put_attribute(&mut names, 53, b"enp0s3\0");
        put_attribute(&mut names, 53, b"a-name-that-rules-do-not-take\0");
        let mut info = Vec::new();
        put_attribute(&mut info, 1, b"veth\0");
        put_attribute(&mut info, 4, b"bridge\0");
        let mut row = vec![0; 16];
        row[4..8].copy_from_slice(&7u32.to_ne_bytes());
        put_attribute(&mut row, 3, b"eth0\0");
        let plain = interface(&row).unwrap();
        assert_eq!((plain.name.as_str(), plain.master), ("eth0", None));
        put_attribute(&mut row, 10, &9u32.to_ne_bytes());
        put_attribute(&mut row, 18, &info);
        put_attribute(&mut row, 52, &names);
        let expected = Interface {
            index: 7,
            name: "eth0".to_owned(),
            alternative_names: vec![
                "enp0s3".to_owned(),
                "a-name-that-rules-do-not-take".to_owned(),
            ],
            master: Some(9),
            master_kind: "bridge".to_owned(),
        };
        assert_eq!(interface(&row), Some(expected));
    }
}
