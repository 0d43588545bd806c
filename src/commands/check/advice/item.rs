//! A piece of advice.

use serde::Serialize;

use crate::words::ports::{PortSet, as_ranges};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Advice {
    /// A word for machines.
    pub(crate) code: &'static str,
    /// The ports that it is about; empty: the host.
    #[serde(serialize_with = "as_ranges")]
    pub(crate) ports: PortSet,
    /// For people: one line.
    pub(crate) text: String,
    /// The call that it advises, if any.
    pub(crate) command: Option<String>,
}

impl Advice {
    /// The text begins with the ports.
    pub(crate) fn about(code: &'static str, ports: PortSet, text: &str) -> Advice {
        Advice {
            code,
            text: format!("{}: {text}", ports.brief()),
            ports,
            command: None,
        }
    }

    pub(crate) fn on_host(code: &'static str, text: impl Into<String>) -> Advice {
        Advice {
            code,
            ports: PortSet::EMPTY,
            text: text.into(),
            command: None,
        }
    }

    pub(crate) fn by(self, command: String) -> Advice {
        Advice {
            command: Some(command),
            ..self
        }
    }
}

/// A setting, as texts have it.
pub(crate) fn shown(value: Option<u64>) -> String {
    value.map_or_else(
        || "not in this kernel".to_owned(),
        |value| value.to_string(),
    )
}
