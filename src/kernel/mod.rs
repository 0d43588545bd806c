//! What the kernel is asked, and answers.

pub mod caps;
pub mod conntrack;
pub mod netlink;
pub mod nfqueue;
pub mod route;
pub(crate) mod services;
pub mod sockets;
pub mod sys;
