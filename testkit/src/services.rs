//! Real services on a [`Host`](crate::Host), with the command lines that
//! restart and reload them: what a user would put after `syngate … --`.

mod haproxy;
mod nginx;
mod serve;

pub use haproxy::{Haproxy, HaproxyConfig};
pub use nginx::{Nginx, NginxConfig};
pub use serve::{Serve, Served};

/// A command line of owned words.
pub(crate) fn argv<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Vec<String> {
    words.into_iter().map(Into::into).collect()
}
