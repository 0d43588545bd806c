//! The result of a run: the verdict and its line, the time account, the JSON and its file.

pub(crate) mod appended;
pub(crate) mod file;
pub(crate) mod json;
pub(crate) mod time;
pub(crate) mod verdict;
