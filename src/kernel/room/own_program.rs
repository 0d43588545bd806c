//! Whether a service has given its SO_REUSEPORT group a program of its own (SO_ATTACH_REUSEPORT_CBPF or _EBPF), which
//! a room's would replace for good. No system call tells. An iterator of eBPF may read it in the kernel's own
//! structures, whose layout /sys/kernel/btf/vmlinux tells.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::OnceLock;

use super::programs::{TOLD_LENGTH, TOLD_NAME, Way, tell_of_group};
use crate::kernel::bpf::{Kind, Program};
use crate::kernel::btf;
use crate::kernel::netlink::get;

/// How the names of syngate's own programs begin. A run that was killed with its guard leaves one.
const OURS: &[u8] = b"gate_";

/// Whether this process can see such programs.
pub(crate) fn are_seen() -> bool {
    asking().is_some()
}

/// `None`: the kernel does not tell (Linux 6.1; CAP_PERFMON or CAP_SYS_ADMIN).
pub(crate) fn has_own_program(socket: &impl AsFd) -> Option<bool> {
    let told = asking()?.asked_of_own_files();
    Some(names_others(&told.ok()?, socket.as_fd().as_raw_fd()))
}

/// Whether the socket's group has the program with that name. `false` also where the kernel does not tell.
pub(crate) fn has_program(socket: &impl AsFd, name: &str) -> bool {
    let told = asking().and_then(|program| program.asked_of_own_files().ok());
    let socket = socket.as_fd().as_raw_fd();
    told.is_some_and(|told| names(&told, socket).any(|one| one == name.as_bytes()))
}

fn asking() -> Option<&'static Program> {
    // Loaded once: a service may have many listeners.
    static LOADED: OnceLock<Option<Program>> = OnceLock::new();
    LOADED.get_or_init(loaded).as_ref()
}

fn loaded() -> Option<Program> {
    let function = btf::function_of_kernel("bpf_iter_task_file")?;
    let [sock, group, program, aux, name] = btf::of_kernel([
        ("socket", "sk"),
        ("sock", "sk_reuseport_cb"),
        ("sock_reuseport", "prog"),
        ("bpf_prog", "aux"),
        ("bpf_prog_aux", "name"),
    ])?;
    let way = Way {
        sock,
        group,
        program,
        aux,
        name,
    };
    Program::load(Kind::Files(function), "gate_look", &tell_of_group(way)).ok()
}

/// Whether what the program has told names another's program for that descriptor.
fn names_others(told: &[u8], socket: RawFd) -> bool {
    names(told, socket).any(|name| !name.starts_with(OURS))
}

/// The names of the programs that it has told of for that descriptor.
fn names(told: &[u8], socket: RawFd) -> impl Iterator<Item = &[u8]> {
    let of_socket = move |one: &&[u8]| get(one, 0).map(RawFd::from_ne_bytes) == Some(socket);
    let told = told.chunks_exact(TOLD_LENGTH).filter(of_socket);
    told.filter_map(|one| one[TOLD_NAME..].split(|byte| *byte == 0).next())
}

#[cfg(test)]
mod tests {
    use super::super::programs::spread;
    use super::super::socket::trial;
    use super::*;
    use crate::kernel::bpf::leave_choice_to_kernel;

    #[test]
    fn the_program_of_a_group_is_told_by_each_of_its_sockets() {
        let (one, address) = trial(None).unwrap();
        one.open(1).unwrap();
        let (other, _) = trial(Some(address)).unwrap();
        other.open(1).unwrap();
        let (elsewhere, _) = trial(None).unwrap();
        elsewhere.open(1).unwrap();
        let found = || [&one, &other, &elsewhere].map(|room| has_own_program(&room.as_fd()));
        assert_eq!(found(), [Some(false); 3]);
        for (name, is_others) in [("gate_spread", false), ("balance", true)] {
            let program = Program::load(Kind::SelectOrMigrate, name, &spread()).unwrap();
            program.choose_for_group_of(one.as_fd()).unwrap();
            assert!(are_seen());
            assert_eq!(
                found(),
                [Some(is_others), Some(is_others), Some(false)],
                "{name}"
            );
            let have = [&one, &other, &elsewhere].map(|room| has_program(&room.as_fd(), name));
            assert_eq!(have, [true, true, false], "{name}");
            assert!(!has_program(&one.as_fd(), &name[..3]), "a part of {name}");
        }
        leave_choice_to_kernel(other.as_fd()).unwrap();
        assert_eq!(found(), [Some(false); 3]);
    }
}
