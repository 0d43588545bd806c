//! The texts in the sources that people read, and what a documented situation prints.

mod literals;
mod situation;

pub(crate) use literals::{messages, texts_of};
pub(crate) use situation::{Situation, alike, situations};
