//! What a listener may have that a room beside it can't have, so that its connections can't wait there.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc;

use super::own_program::has_own_program;
use crate::kernel::sys::{has_filter, socket_option};

/// linux/tcp.h, Linux 6.7. ENOENT: the socket has no keys.
const TCP_AO_INFO: libc::c_int = 40;
/// The length of struct tcp_ao_info_opt, linux/tcp.h.
const AO_INFO_LENGTH: usize = 48;

/// A program of the service's.
pub(crate) const OWN_PROGRAM: &str = "a program of its own chooses among its listeners (SO_ATTACH_REUSEPORT_CBPF or \
                                      _EBPF), which a room's would replace for good";

/// What it is, of a listener with or without keys of TCP-MD5 and a copy of its descriptor.
pub(super) fn obstacle(keyed: bool, copy: &impl AsFd) -> Option<&'static str> {
    let copy = copy.as_fd();
    if keyed {
        return Some("it has keys of TCP-MD5 (RFC 2385), which can't be copied");
    }
    if socket_option(copy, libc::IPPROTO_TCP, TCP_AO_INFO, AO_INFO_LENGTH).is_ok() {
        return Some("it has keys of TCP-AO (RFC 5925), which can't be copied");
    }
    // EACCES: it is one of eBPF.
    if matches!(has_filter(copy), Ok(true) | Err(Errno::EACCES)) {
        return Some("it has a filter (SO_ATTACH_FILTER)");
    }
    if has_own_program(&copy) == Some(true) {
        return Some(OWN_PROGRAM);
    }
    None
}
