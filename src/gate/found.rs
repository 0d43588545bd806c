//! A gate found in the kernel, made by any run.

use std::time::Duration;

use super::kinds::Kind;
use super::who::Who;
use crate::words::ports::PortSet;
use crate::words::scope::Scope;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The kind of backend that can erase it.
    pub kind: Kind,
    pub run: String,
    /// The kernel removes it when its run ends.
    pub owned: bool,
    /// The run that made it, from the rules' comment.
    pub who: Option<Who>,
    pub ports: PortSet,
    pub scope: Scope,
    pub syns_stopped: Option<u64>,
    pub opens_in: Option<Duration>,
}

impl Found {
    pub(crate) fn whose(&self) -> String {
        match &self.who {
            Some(who) => format!("pid {} ({})", who.pid, who.command),
            None => format!("run {}", self.run),
        }
    }
}
