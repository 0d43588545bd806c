//! Real services on a [`Host`](crate::Host), with the command lines that
//! restart and reload them: what a user would put after `syngate … --`.

mod argv;
mod haproxy;
mod nginx;
mod serve;

pub use haproxy::{Haproxy, HaproxyConfig};
pub use nginx::{Nginx, NginxConfig};
pub use serve::{Serve, Served};
