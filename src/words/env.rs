//! The names of environment variables.

/// The prefix of variables that set options. COMMAND does not inherit these variables.
pub const ENV_PREFIX: &str = "SYNGATE_";

/// Tells COMMAND which run it is part of. Of runs inside runs, the outermost comes first.
pub const RUN_VARIABLE: &str = "SYNGATE_RUN";

/// The directory of the lock file, for hosts where `/run` is missing or read-only.
pub const LOCK_DIR_VARIABLE: &str = "SYNGATE_LOCK_DIR";
