//! What all subjects share.

use std::time::Duration;

use anyhow::Result;

use crate::ways::quoted;

/// A wait for a state that is sure to come.
pub const SOON: Duration = Duration::from_secs(10);

/// A [`Subject`](super::Subject) that runs.
pub trait Service {
    /// Before each restart: for a service that changes by it.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// Before one more restart under the same clients, if there is one.
    fn prepare_another(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// The command that restarts it.
    fn restart(&self) -> String;

    /// Starts the second instance, on [`crate::ways::STANDBY`].
    fn start_standby(&mut self) -> Result<()> {
        anyhow::bail!("it has no second instance")
    }
}

/// As a shell reads them.
pub fn in_words(argv: &[String]) -> String {
    let words = argv
        .iter()
        .map(|word| match word.contains([' ', '\n', '$']) {
            true => quoted(word),
            false => word.clone(),
        });
    words.collect::<Vec<_>>().join(" ")
}
