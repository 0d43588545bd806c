//! The names of environment variables.

/// Options are also read from variables of this prefix; COMMAND does not get to see them.
pub const ENV_PREFIX: &str = "SYNGATE_";

/// The run that COMMAND is part of; runs inside runs are listed outermost first.
pub const RUN_VARIABLE: &str = "SYNGATE_RUN";

/// Where the lock file is, on hosts without `/run` or where it is read-only.
pub const LOCK_DIR_VARIABLE: &str = "SYNGATE_LOCK_DIR";
