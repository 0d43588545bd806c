//! The programs of [`first_comer`](super::first_comer), as instructions: a service gets SO_REUSEPORT each time it comes
//! back, and a second instance of it is refused while it listens. Pure.

use nix::libc;

use super::on_ports_programs::{
    COOKIE, Inner, OPTION, Process, USER_IP4, USER_IP6, USER_PORT, note_owner, only_tcp_in,
    reuseport,
};
use crate::kernel::instructions::Instruction::{
    Add, Call, CompareExchange, Copy, Exit, Here, Jump, JumpIfEqual, JumpUnlessEqual,
    JumpUnlessSame, Load, LoadWide, Set, SetMap, Store, StoreValue, StoreWide,
};
use crate::kernel::instructions::Register::{R0, R1, R2, R3, R4, R6, R7, R8, Stack};
use crate::kernel::instructions::{Helper, Instruction, Label};
use crate::kernel::room::programs::{ALLOW, CLOSED, lookup};
use crate::words::family::Family;

/// Descriptors of the maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps {
    /// By address and port: [`PLACE_SIZE`] bytes.
    pub places: i32,
    /// By the cookie of a socket that has one of the places: [`SOCKET_SIZE`] bytes.
    pub sockets: i32,
    /// A number. Not 0: this process binds rooms, or has copies of listeners, which may keep them open for a moment.
    pub busy: i32,
}

/// What is noted of a place: the cookie of the socket that has it, or 0; the user of the service; whether processes
/// of one control group may share it; the control group of the process that has bound the socket; when the process
/// was started that was refused last although its socket has the option itself; and how often one was refused.
pub(super) const PLACE_SIZE: usize = 40;
pub(super) const PLACE_USER: usize = 8;
pub(super) const PLACE_SHARED: usize = 12;
pub(super) const PLACE_GROUP: usize = 16;
pub(super) const PLACE_REFUSED: usize = 24;
pub(super) const PLACE_REFUSALS: usize = 32;
/// Of a socket: the key of its place, and whether it has set SO_REUSEPORT itself.
pub(super) const SOCKET_SIZE: usize = 32;
pub(super) const SOCKET_SHARES: usize = 24;

/// struct bpf_sock, linux/bpf.h.
const SOCK_PROTOCOL: i16 = 12;
const STATE: i16 = 72;
/// net/tcp_states.h
const LISTEN: i32 = 10;
/// What a program returns so that bind(2) does not go on.
const REFUSE: i32 = 0;

/// On the stack: what is noted of a socket, which begins with the key of its place: IP version, port and address;
/// then a number of 32 bits, and the cookie of another socket.
const NOTED: i16 = -48;
const PORT: i16 = NOTED + 4;
const ADDRESS: i16 = NOTED + 8;
const SHARES: i16 = NOTED + SOCKET_SHARES as i16;
const END: i16 = SHARES + 4;
const NUMBER: i16 = -52;
const OTHER: i16 = -64;

const DONE: Label = 0;
const CLAIMED: Label = 1;
const SHARE: Label = 2;
const FORGET: Label = 3;
const OTHERS: Label = 4;
const CALM: Label = 5;
const INNER: Label = 6;
const REFUSED: Label = 7;
const NOTED_REFUSED: Label = 8;

/// When the service's user binds a TCP socket to a free place, in the network namespace with this cookie, the socket
/// gets SO_REUSEPORT, and has the place from then on. Another one is refused, as it would be if the socket there did
/// not have the option. Not so while syngate is busy: what has the place may be just a copy. Nor where the place may
/// be shared, by a process of the same control group: a service may begin to set the option itself.
pub(super) fn share_with_first(
    family: Family,
    netns: u64,
    maps: Maps,
    inner: Option<Inner>,
) -> Vec<Instruction> {
    let mut program = only_tcp_in(netns, DONE).to_vec();
    program.extend(note_place(family));
    program.extend(lookup(maps.places, NOTED));
    program.extend([JumpIfEqual(R0, 0, DONE), Copy(R7, R0)]);
    program.extend(note_owner(inner, NUMBER, INNER));
    program.extend([
        Load(R2, Stack, NUMBER),
        Load(R3, R7, PLACE_USER as i16),
        JumpUnlessSame(R2, R3, DONE),
        Copy(R1, R6),
        Call(Helper::SocketCookie),
        StoreWide(Stack, COOKIE, R0),
        Copy(R8, R0),
        Set(R0, 0),
        CompareExchange(R7, R8),
        JumpIfEqual(R0, 0, CLAIMED),
        // A second bind(2) of the same socket.
        JumpUnlessSame(R0, R8, OTHERS),
        Jump(SHARE),
        Here(OTHERS),
        StoreWide(Stack, OTHER, R0),
    ]);
    program.extend(refuse_if_lent(maps, inner));
    program.extend([
        Here(CLAIMED),
        Call(Helper::ControlGroupId),
        StoreWide(R7, PLACE_GROUP as i16, R0),
    ]);
    program.extend(note_socket(maps.sockets));
    program.push(Here(SHARE));
    program.push(StoreValue(Stack, OPTION, 1));
    program.extend(reuseport(Helper::SetSockOpt));
    program.extend([Here(DONE), Set(R0, ALLOW), Exit]);
    program
}

/// Has the place free again when the socket that has it is closed: before the kernel closes the listener.
pub(super) fn note_release(maps: Maps) -> Vec<Instruction> {
    let mut program = vec![
        Copy(R6, R1),
        Load(R2, R6, SOCK_PROTOCOL),
        JumpUnlessEqual(R2, libc::IPPROTO_TCP, DONE),
        // One that listens, or was bound and does not. Not a connection, unless it was reset.
        Load(R2, R6, STATE),
        JumpIfEqual(R2, LISTEN, CLAIMED),
        JumpUnlessEqual(R2, CLOSED, DONE),
        Here(CLAIMED),
        Call(Helper::SocketCookie),
        StoreWide(Stack, COOKIE, R0),
        Copy(R8, R0),
    ];
    program.extend(lookup(maps.sockets, COOKIE));
    program.extend([
        JumpIfEqual(R0, 0, DONE),
        SetMap(R1, maps.places),
        Copy(R2, R0),
        Call(Helper::MapLookup),
        JumpIfEqual(R0, 0, FORGET),
        Copy(R7, R0),
        Copy(R0, R8),
        Set(R2, 0),
        CompareExchange(R7, R2),
        Here(FORGET),
        SetMap(R1, maps.sockets),
        Copy(R2, Stack),
        Add(R2, COOKIE as i32),
        Call(Helper::MapDelete),
        Here(DONE),
        Set(R0, ALLOW),
        Exit,
    ]);
    program
}

/// What is known of the socket, to the stack. See [`key`](super::first_comer::key).
fn note_place(family: Family) -> Vec<Instruction> {
    let (family, from, length) = match family {
        Family::V4 => (libc::AF_INET, USER_IP4, 4),
        Family::V6 => (libc::AF_INET6, USER_IP6, 16),
    };
    let mut program = vec![
        StoreValue(Stack, NOTED, family),
        Load(R2, R6, USER_PORT),
        Store(Stack, PORT, R2),
    ];
    for at in (0..16).step_by(4) {
        match at < length {
            true => program.extend([Load(R2, R6, from + at), Store(Stack, ADDRESS + at, R2)]),
            false => program.push(StoreValue(Stack, ADDRESS + at, 0)),
        }
    }
    program.extend([StoreValue(Stack, SHARES, 0), StoreValue(Stack, END, 0)]);
    program
}

/// Notes the socket that has just got a place.
fn note_socket(sockets: i32) -> Vec<Instruction> {
    let mut program = vec![StoreValue(Stack, OPTION, 0)];
    program.extend(reuseport(Helper::GetSockOpt));
    program.extend([
        Load(R2, Stack, OPTION),
        Store(Stack, SHARES, R2),
        SetMap(R1, sockets),
        Copy(R2, Stack),
        Add(R2, COOKIE as i32),
        Copy(R3, Stack),
        Add(R3, NOTED as i32),
        Set(R4, 0),
        Call(Helper::MapUpdate),
        JumpIfEqual(R0, 0, SHARE),
        // Nobody would have the place free again.
        Set(R2, 0),
        StoreWide(R7, 0, R2),
        Jump(DONE),
    ]);
    program
}

/// Refuses the socket if the one that has the place got SO_REUSEPORT from syngate.
fn refuse_if_lent(maps: Maps, inner: Option<Inner>) -> Vec<Instruction> {
    let mut program = vec![StoreValue(Stack, NUMBER, 0)];
    program.extend(lookup(maps.busy, NUMBER));
    program.extend([
        JumpIfEqual(R0, 0, DONE),
        Load(R2, R0, 0),
        JumpIfEqual(R2, 0, CALM),
        StoreValue(Stack, OPTION, 0),
    ]);
    program.extend(reuseport(Helper::GetSockOpt));
    program.extend([
        Load(R2, Stack, OPTION),
        // A room has the option.
        JumpUnlessEqual(R2, 0, DONE),
        StoreWide(R7, 0, R8),
        Jump(CLAIMED),
        Here(CALM),
    ]);
    program.extend(lookup(maps.sockets, OTHER));
    program.extend([
        JumpIfEqual(R0, 0, DONE),
        Load(R2, R0, SOCKET_SHARES as i16),
        JumpUnlessEqual(R2, 0, DONE),
        Load(R2, R7, PLACE_SHARED as i16),
        JumpIfEqual(R2, 0, REFUSED),
        Call(Helper::ControlGroupId),
        LoadWide(R2, R7, PLACE_GROUP as i16),
        JumpUnlessSame(R0, R2, REFUSED),
        Jump(DONE),
        Here(REFUSED),
    ]);
    program.extend(note_refused(inner));
    program.extend([
        Set(R1, -libc::EADDRINUSE),
        Call(Helper::SetReturnValue),
        Set(R0, REFUSE),
        Exit,
    ]);
    program
}

/// Notes the process if its socket has the option: it may be the service's own, which begins to set that itself.
fn note_refused(inner: Option<Inner>) -> Vec<Instruction> {
    let Some(Process { leader, started }) = inner.and_then(|inner| inner.process) else {
        return Vec::new();
    };
    let mut program = vec![StoreValue(Stack, OPTION, 0)];
    program.extend(reuseport(Helper::GetSockOpt));
    program.extend([
        Load(R2, Stack, OPTION),
        JumpIfEqual(R2, 0, NOTED_REFUSED),
        Call(Helper::CurrentTask),
        LoadWide(R2, R0, leader.byte()),
        LoadWide(R2, R2, started.byte()),
        StoreWide(R7, PLACE_REFUSED as i16, R2),
        Load(R2, R7, PLACE_REFUSALS as i16),
        Add(R2, 1),
        Store(R7, PLACE_REFUSALS as i16, R2),
        Here(NOTED_REFUSED),
    ]);
    program
}
