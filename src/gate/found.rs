//! A gate that stands in the kernel, made by any run.

use std::time::Duration;

use super::kinds::Kind;
use super::who::Who;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The kind of backend that made it, and can erase it.
    pub kind: Kind,
    pub run: String,
    /// The kernel removes it when its run ends.
    pub owned: bool,
    /// The run that made it, as far as the comment tells.
    pub who: Option<Who>,
    /// The ports that are shut now.
    pub ports: PortSet,
    /// Which packets to these ports it stops.
    pub scope: Scope,
    pub syns_stopped: Option<u64>,
    /// When the kernel opens it by itself.
    pub opens_in: Option<Duration>,
}

impl Found {
    /// The run that made it, in words.
    pub(crate) fn whose(&self) -> String {
        match &self.who {
            Some(who) => format!("pid {} ({})", who.pid, who.command),
            None => format!("run {}", self.run),
        }
    }
}
