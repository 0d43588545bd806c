//! What came of a run: the verdict and its line, the account of times, the JSON, and its file.

pub mod file;
pub mod json;
pub mod time;
pub mod verdict;
