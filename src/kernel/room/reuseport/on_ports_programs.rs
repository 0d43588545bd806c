//! The programs of [`on_ports`](super::on_ports), as instructions: a process meets them as it binds a socket. Pure.

use nix::libc;

use crate::kernel::btf::{self, Bit};
use crate::kernel::instructions::Instruction::{
    Add, And, Call, Copy, Exit, FetchAdd, Here, Jump, JumpIfEqual, JumpUnlessEqual, JumpUnlessSame,
    Load, LoadByte, LoadWide, Set, SetMap, SetWide, Store, StoreValue, StoreWide,
};
use crate::kernel::instructions::Register::{R0, R1, R2, R3, R4, R5, R6, R7, Stack};
use crate::kernel::instructions::{Helper, Instruction, Label};
use crate::kernel::room::programs::{ALLOW, lookup};
use crate::words::family::Family;

/// struct bpf_sock_addr, linux/bpf.h.
pub(super) const USER_IP4: i16 = 4;
pub(super) const USER_IP6: i16 = 8;
pub(super) const USER_PORT: i16 = 24;
const PROTOCOL: i16 = 36;
const SOCKET: i16 = 64;
/// struct bpf_sock, linux/bpf.h: the number of the device that it is bound to, or 0.
const BOUND_DEVICE: i16 = 0;

const DONE: Label = 0;
const OURS: Label = 1;
const OWNER_READ: Label = 2;
const V6ONLY_READ: Label = 3;

/// A TCP socket that is bound to one of these ports, in the network namespace with this cookie, gets
/// SO_REUSEPORT. UDP sockets do not: a second one that must fail would succeed. What is known of each is
/// noted in `bound`, once: its value is struct [`Binding`](super::on_ports::Binding).
pub(crate) fn share_ports(
    family: Family,
    ports: &[u16],
    netns: u64,
    bound: i32,
    inner: Option<Inner>,
) -> Vec<Instruction> {
    let mut program = only_tcp_in(netns, DONE).to_vec();
    program.push(Load(R2, R6, USER_PORT));
    // The port is in network byte order.
    program.extend(
        ports
            .iter()
            .map(|port| JumpIfEqual(R2, i32::from(port.to_be()), OURS)),
    );
    program.extend([Jump(DONE), Here(OURS)]);
    program.extend(note_binding(family, bound, inner));
    program.push(StoreValue(Stack, OPTION, 1));
    program.extend(reuseport(Helper::SetSockOpt));
    program.extend([Here(DONE), Set(R0, ALLOW), Exit]);
    program
}

/// The context to `R6`. Other sockets than those of TCP in the network namespace with this cookie go to the label.
pub(super) fn only_tcp_in(netns: u64, others: Label) -> [Instruction; 6] {
    [
        Copy(R6, R1),
        Load(R2, R6, PROTOCOL),
        JumpUnlessEqual(R2, libc::IPPROTO_TCP, others),
        Call(Helper::NetnsCookie),
        SetWide(R7, netns),
        JumpUnlessSame(R0, R7, others),
    ]
}

/// Notes that the kernel has bound a socket which [`share_ports`] has noted, and counts it in `newcomers`, by its port.
pub(crate) fn note_bound(bound: i32, newcomers: i32) -> Vec<Instruction> {
    note_change(bound, (IS_NEW, IS_BOUND), newcomers, 1)
}

/// The last descriptor of such a socket is closed.
pub(crate) fn note_closed(bound: i32, newcomers: i32) -> Vec<Instruction> {
    note_change(bound, (IS_BOUND, WAS_BOUND), newcomers, -1)
}

/// What is noted of the socket changes from the first state to the second one, and so the number of newcomers.
fn note_change(
    bound: i32,
    (from, to): (i32, i32),
    newcomers: i32,
    change: i32,
) -> Vec<Instruction> {
    let mut program = vec![Call(Helper::SocketCookie), StoreWide(Stack, COOKIE, R0)];
    program.extend(lookup(bound, COOKIE));
    program.extend([
        JumpIfEqual(R0, 0, DONE),
        Load(R2, R0, BOUND),
        JumpUnlessEqual(R2, from, DONE),
        StoreValue(R0, BOUND, to),
        Load(R2, R0, PORT),
        Store(Stack, OPTION, R2),
    ]);
    program.extend(lookup(newcomers, OPTION));
    program.extend([
        JumpIfEqual(R0, 0, DONE),
        Set(R2, change),
        FetchAdd(R0, R2),
        Here(DONE),
        Set(R0, ALLOW),
        Exit,
    ]);
    program
}

/// Where the kernel's own structure of a socket has what no helper tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inner {
    /// The user whose socket it is.
    pub uid: Bit,
    /// IPV6_V6ONLY
    pub v6only: Bit,
    pub process: Option<Process>,
}

/// The same of a thread. The number of its process would be another one in each PID namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    /// The first thread of its process.
    pub leader: Bit,
    /// When it was started, in ns since boot.
    pub started: Bit,
}

impl Inner {
    /// `None`: this kernel does not describe its types.
    pub(super) fn of_kernel() -> Option<Inner> {
        let members = [("sock", "sk_uid"), ("sock_common", "skc_ipv6only")];
        let [uid, v6only] = btf::of_kernel(members)?;
        let members = [
            ("task_struct", "group_leader"),
            ("task_struct", "start_boottime"),
        ];
        let process = btf::of_kernel(members);
        Some(Inner {
            uid,
            v6only,
            process: process.map(|[leader, started]| Process { leader, started }),
        })
    }
}

/// What is noted of a socket, in bytes from the beginning.
pub(super) const GROUP: i16 = 0;
/// The user who owns the socket, as far as that can be read, and the user who runs the process.
pub(super) const OWNER: i16 = 8;
pub(super) const USER: i16 = 12;
pub(super) const SHARES: i16 = 16;
pub(super) const PORT: i16 = 20;
pub(super) const DEVICE: i16 = 24;
/// Not 0: it takes no connections of IPv4, as far as that can be read.
pub(super) const V6ONLY: i16 = 28;
pub(super) const BOUND: i16 = 32;
/// What stands there.
const IS_NEW: i32 = 0;
const IS_BOUND: i32 = 1;
const WAS_BOUND: i32 = 2;
/// An address of IPv4 is mapped into IPv6 (RFC 4291, 2.5.5.2).
pub(super) const ADDRESS: i16 = 40;
pub(super) const NOTED_LENGTH: usize = 56;
const MAPPED: u32 = 0xffff;

/// Where it is on the stack: the key, which is the socket's cookie, the value of SO_REUSEPORT, and what is noted.
pub(super) const COOKIE: i16 = -8;
pub(super) const OPTION: i16 = -12;
const NOTED: i16 = -16 - NOTED_LENGTH as i16;

fn note_binding(family: Family, bound: i32, inner: Option<Inner>) -> Vec<Instruction> {
    // BPF_NOEXIST, linux/bpf.h: a second bind(2) of the socket would find the option that the first one set.
    const ONCE: i32 = 1;
    let words = 0..NOTED_LENGTH as i16 / 4;
    let mut program: Vec<Instruction> =
        words.map(|n| StoreValue(Stack, NOTED + 4 * n, 0)).collect();
    program.push(StoreValue(Stack, OPTION, 0));
    program.extend(reuseport(Helper::GetSockOpt));
    program.extend([
        Load(R2, Stack, OPTION),
        Store(Stack, NOTED + SHARES, R2),
        Load(R2, R6, USER_PORT),
        Store(Stack, NOTED + PORT, R2),
        Call(Helper::UserAndGroup),
        Store(Stack, NOTED + USER, R0),
        Call(Helper::ControlGroupId),
        StoreWide(Stack, NOTED + GROUP, R0),
        LoadWide(R1, R6, SOCKET),
        Load(R2, R1, BOUND_DEVICE),
        Store(Stack, NOTED + DEVICE, R2),
    ]);
    program.extend(note_address(family));
    program.extend(note_owner(inner, NOTED + OWNER, OWNER_READ));
    program.extend(note_v6only(inner, NOTED + V6ONLY, V6ONLY_READ));
    program.extend([
        Copy(R1, R6),
        Call(Helper::SocketCookie),
        StoreWide(Stack, COOKIE, R0),
        SetMap(R1, bound),
        Copy(R2, Stack),
        Add(R2, COOKIE as i32),
        Copy(R3, Stack),
        Add(R3, NOTED as i32),
        Set(R4, ONCE),
        Call(Helper::MapUpdate),
    ]);
    program
}

fn note_address(family: Family) -> Vec<Instruction> {
    let to = NOTED + ADDRESS;
    match family {
        Family::V4 => vec![
            StoreValue(Stack, to + 8, MAPPED.to_be() as i32),
            Load(R2, R6, USER_IP4),
            Store(Stack, to + 12, R2),
        ],
        Family::V6 => (0..4)
            .flat_map(|n| [Load(R2, R6, USER_IP6 + 4 * n), Store(Stack, to + 4 * n, R2)])
            .collect(),
    }
}

/// The user whose socket it is, to a place on the stack. The kernel asks for that one, which is not always the
/// process's own: it may have made the socket while it acted as another (setfsuid(2), seteuid(2)).
pub(super) fn note_owner(inner: Option<Inner>, to: i16, label: Label) -> Vec<Instruction> {
    let mut program = vec![Call(Helper::UserAndGroup), Store(Stack, to, R0)];
    if let Some(Inner { uid, .. }) = inner {
        program.extend(read_inner(&[Load(R2, R0, uid.byte())], to, label));
    }
    program
}

fn note_v6only(inner: Option<Inner>, to: i16, label: Label) -> Vec<Instruction> {
    match inner {
        None => Vec::new(),
        Some(Inner { v6only: bit, .. }) => {
            let read = [LoadByte(R2, R0, bit.byte()), And(R2, bit.mask())];
            read_inner(&read, to, label)
        }
    }
}

/// To a place on the stack, what is loaded into `R2` from the kernel's own structure at the address in `R0`.
fn read_inner(load: &[Instruction], to: i16, label: Label) -> Vec<Instruction> {
    let mut program = vec![
        LoadWide(R1, R6, SOCKET),
        Call(Helper::TcpSocket),
        JumpIfEqual(R0, 0, label),
    ];
    program.extend(load);
    program.extend([Store(Stack, to, R2), Here(label)]);
    program
}

/// SO_REUSEPORT of the socket, from or to its place on the stack.
pub(super) fn reuseport(helper: Helper) -> [Instruction; 7] {
    [
        Copy(R1, R6),
        Set(R2, libc::SOL_SOCKET),
        Set(R3, libc::SO_REUSEPORT),
        Copy(R4, Stack),
        Add(R4, OPTION as i32),
        Set(R5, size_of::<i32>() as i32),
        Call(helper),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::instructions::assemble;

    #[test]
    fn a_port_is_compared_in_network_byte_order() {
        let port = share_ports(Family::V4, &[80], 7, 3, None)
            .into_iter()
            .find_map(|one| match one {
                JumpIfEqual(R2, port, OURS) => Some(port),
                _ => None,
            });
        assert_eq!(port, Some(i32::from(80u16.to_be())));
    }

    /// A jump of a program reaches 32,767 instructions far; the kernel takes a million.
    #[test]
    fn many_ports_fit() {
        let ports: Vec<u16> = (1..=10_000).collect();
        assert!(assemble(&share_ports(Family::V6, &ports, 7, 3, None)).len() / 8 < 32_767);
    }
}
