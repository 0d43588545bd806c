//! What syngate asks the kernel, and what the kernel answers.

pub(crate) mod bpf;
pub(crate) mod btf;
pub(crate) mod caps;
pub(crate) mod conntrack;
pub(crate) mod control_group;
pub(crate) mod instructions;
pub(crate) mod interface;
pub(crate) mod maps;
pub(crate) mod mark;
pub(crate) mod netlink;
pub(crate) mod nfqueue;
pub(crate) mod port_range;
pub(crate) mod process_status;
pub(crate) mod release;
pub(crate) mod room;
pub(crate) mod route;
pub(crate) mod service_files;
pub(crate) mod services;
pub(crate) mod sockets;
pub(crate) mod support;
pub(crate) mod sys;
