//! What came of a run: the verdict and its line, the account of times, the JSON, and its file.

pub(crate) mod file;
pub(crate) mod json;
pub(crate) mod time;
pub(crate) mod verdict;
