//! The network device that a socket is bound to (SO_BINDTODEVICE).

use nix::net::if_::if_indextoname;

/// A device is known by its name: one that is removed and made anew (a tunnel) has another index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Device {
    Any,
    Named(String),
    /// No device of this thread's network namespace has this index any more: nothing reaches the
    /// socket.
    Gone(u32),
}

impl Device {
    /// Asks the kernel, in this thread's network namespace.
    pub(super) fn of_index(index: u32) -> Device {
        if index == 0 {
            return Device::Any;
        }
        match if_indextoname(index) {
            // nix returns an empty name where the kernel knows none.
            Ok(name) if !name.is_empty() => Device::Named(name.to_string_lossy().into_owned()),
            _ => Device::Gone(index),
        }
    }

    /// `None` for any device. One that is gone is shown as ss(8) does: `if7`.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Device::Any => None,
            Device::Named(name) => Some(name.clone()),
            Device::Gone(index) => Some(format!("if{index}")),
        }
    }

    /// Whether what comes in over `other` also comes to a socket that is bound to this one. The name
    /// of a device that is gone is not known, so any may be its successor.
    pub(super) fn takes_over(&self, other: &Device) -> bool {
        *self == Device::Any || self == other || matches!(other, Device::Gone(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_indices() {
        assert_eq!(Device::of_index(0), Device::Any);
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        assert_eq!(Device::of_index(lo), Device::Named("lo".to_owned()));
        let gone = Device::of_index(u32::MAX >> 1);
        assert_eq!(gone.name().as_deref(), Some("if2147483647"));
    }
}
