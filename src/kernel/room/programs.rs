//! The programs of waiting rooms, as instructions. Pure.

use crate::kernel::btf::Bit;
use crate::kernel::instructions::Instruction::{
    Add, And, Call, Copy, Divide, Exit, FetchAdd, Here, Jump, JumpIfEqual, JumpUnlessEqual,
    JumpUnlessSame, Load, LoadWide, Modulo, Set, SetMap, Store, StoreValue, StoreWide, ToNetwork16,
};
use crate::kernel::instructions::Register::{R0, R1, R2, R3, R4, R5, R6, R7, Stack};
use crate::kernel::instructions::{Helper, Instruction, Label, Register};
use nix::libc;
use std::ops::Range;

/// enum sk_action, linux/bpf.h: with a socket chosen, that one; without, the kernel's own choice.
const SK_PASS: i32 = 1;
/// The same: the client is refused, as where nobody listens.
const SK_DROP: i32 = 0;
/// struct sk_reuseport_md: the type of the packet, in network byte order.
const ETH_PROTOCOL: i16 = 20;
/// The same: the connection that moves (struct bpf_sock), if one does. Linux 5.14.
const MIGRATING_SK: i16 = 48;
/// struct bpf_sock, linux/bpf.h. Port and addresses are in network byte order.
const SOCK_FAMILY: i16 = 4;
const SOCK_CLIENT_PORT: i16 = 48;
const SOCK_CLIENT_IP4: i16 = 52;
const SOCK_LAST_OF_CLIENT_IP6: i16 = 68;
/// linux/if_ether.h
const ETH_P_IP: u16 = 0x0800;
/// linux/bpf.h: offsets count from the IP header.
const BPF_HDR_START_NET: i32 = 1;
/// Where the client's address begins in a header of IPv4 (RFC 791), and where the last four bytes of it do
/// in one of IPv6 (RFC 8200).
const SOURCE_V4: i32 = 12;
const SOURCE_V6: i32 = 20;
/// The same of the address that it connects to.
const DESTINATION_V4: i32 = 16;
const DESTINATION_V6: i32 = 36;
/// struct bpf_sock_ops, linux/bpf.h. The port is in the host's byte order, addresses are in the network's.
const OPERATION: i16 = 0;
const FAMILY: i16 = 20;
const LOCAL_IP4: i16 = 28;
const LAST_OF_LOCAL_IP6: i16 = 60;
const LOCAL_PORT: i16 = 68;
const NEW_STATE: i16 = 8;
const REMOTE_PORT: i16 = 64;
const TOLD_OF: i16 = 84;
/// BPF_SOCK_OPS_TCP_CONNECT_CB: a connection is about to send its SYN.
const CONNECT: i32 = 3;
/// BPF_SOCK_OPS_STATE_CB: its state changes.
const STATE: i32 = 10;
/// BPF_SOCK_OPS_STATE_CB_FLAG: the program is told of that.
const TELL_STATE: i32 = 4;
/// TCP_CLOSE, net/tcp_states.h: the connection has no port any more.
pub(super) const CLOSED: i32 = 7;
/// The key of a connection on the stack: the client's port, as the network has it, and then the last four
/// bytes of its address.
const KEY: i16 = -16;
const KEY_ADDRESS: i16 = KEY + 4;
/// The two bytes of the port within its four.
const KEY_PORT: i16 = match cfg!(target_endian = "big") {
    true => KEY + 2,
    false => KEY,
};
/// What a program of a control group returns to let the system call go on.
pub(super) const ALLOW: i32 = 1;
/// struct sk_reuseport_md, linux/bpf.h: a hash of the connection's addresses and ports.
const HASH: i16 = 32;
/// Where the programs keep a value on their stack.
const VALUE: i16 = -4;

const DONE: Label = 0;
const OURS: Label = 1;
const V6: Label = 2;
const OTHERS: Label = 3;
const THERE: Label = 4;
const CLOSES: Label = 5;
const GATED: Label = 6;
const FORGET: Label = 7;
const PACKET: Label = 8;
const MOVES_V6: Label = 9;
const ADDRESS: Label = 10;
const KNOWN: Label = 11;
/// And those behind it.
const NEXT_PASS: Label = 100;
/// And those behind it: one for each key of [`Newcomers`] in each pass.
const NOT_NEW: Label = 200;

/// The kernel chooses among all listeners of the group, by the connection's hash. Merely that there is a
/// program makes it move connections when a listener closes.
pub(crate) fn spread() -> Vec<Instruction> {
    vec![Here(DONE), Set(R0, SK_PASS), Exit]
}

/// Notes the connections that begin in a control group, by their clients' ports and addresses, until they close. It
/// notes those to one of these `ports` of a server, or all if there are no `ports`.
pub(crate) fn note_connections(connections: i32, ports: &[u16]) -> Vec<Instruction> {
    let mut program = vec![
        Copy(R6, R1),
        Load(R7, R6, OPERATION),
        JumpIfEqual(R7, STATE, CLOSES),
        JumpUnlessEqual(R7, CONNECT, DONE),
    ];
    program.extend(only_to(ports));
    program.extend([
        Here(CLOSES),
        Load(R2, R6, NEW_STATE),
        JumpUnlessEqual(R2, CLOSED, DONE),
        Here(GATED),
        Load(R2, R6, LOCAL_PORT),
        ToNetwork16(R2),
        Store(Stack, KEY, R2),
    ]);
    let address = (LOCAL_IP4, LAST_OF_LOCAL_IP6);
    program.extend(note_address(R6, FAMILY, address, (V6, OURS)));
    program.extend([
        JumpIfEqual(R7, STATE, FORGET),
        StoreValue(Stack, VALUE, 1),
        SetMap(R1, connections),
        Copy(R2, Stack),
        Add(R2, KEY as i32),
        Copy(R3, Stack),
        Add(R3, VALUE as i32),
        Set(R4, 0),
        Call(Helper::MapUpdate),
        // Another program may want to be told of more.
        Copy(R1, R6),
        Load(R2, R6, TOLD_OF),
        And(R2, !TELL_STATE),
        Add(R2, TELL_STATE),
        Call(Helper::TellOfConnection),
        Jump(DONE),
        Here(FORGET),
        SetMap(R1, connections),
        Copy(R2, Stack),
        Add(R2, KEY as i32),
        Call(Helper::MapDelete),
        Here(DONE),
        Set(R0, ALLOW),
        Exit,
    ]);
    program
}

/// Ends the program for connections to other ports. The port is in network byte order, in the upper half of its four
/// bytes on a machine whose lowest byte comes first (sock_ops_convert_ctx_access(), net/core/filter.c).
fn only_to(ports: &[u16]) -> Vec<Instruction> {
    if ports.is_empty() {
        return vec![Jump(GATED)];
    }
    let mut program = vec![Load(R2, R6, REMOTE_PORT)];
    if cfg!(target_endian = "little") {
        program.push(Divide(R2, 1 << 16));
    }
    let is_one = |port: &u16| JumpIfEqual(R2, i32::from(port.to_be()), GATED);
    program.extend(ports.iter().map(is_one));
    program.push(Jump(DONE));
    program
}

/// Connections that were noted, and the listeners that they go to: of each array the first `count`.
pub(crate) struct Pass {
    pub connections: i32,
    pub listeners: Vec<(i32, u32)>,
    /// Where there is no listener, they wait as all others do, if one of these numbers is not 0.
    pub newcomers: Option<Newcomers>,
}

/// A map of numbers, and the keys of two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newcomers {
    pub map: i32,
    pub keys: [u32; 2],
}

/// As [`fill_in_turn`]; but connections with a pass go to its listeners, and are refused where there are none.
pub(crate) fn fill_but_for(passes: &[Pass], fill: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = vec![Copy(R6, R1), LoadWide(R2, R6, MIGRATING_SK)];
    // It has waited for a listener that closes. COMMAND may wait for it.
    program.extend(client_of_moving());
    program.extend([
        Here(PACKET),
        StoreValue(Stack, KEY, 0),
        Copy(R1, R6),
        Set(R2, 0),
        Copy(R3, Stack),
        Add(R3, KEY_PORT as i32),
        Set(R4, 2),
        Call(Helper::LoadBytes),
        JumpUnlessEqual(R0, 0, OTHERS),
    ]);
    program.extend(load_of_header((SOURCE_V4, SOURCE_V6), KEY_ADDRESS, V6));
    program.push(Here(KNOWN));
    for (pass, next) in passes.iter().zip(NEXT_PASS..NOT_NEW) {
        program.extend(lookup(pass.connections, KEY));
        program.push(JumpIfEqual(R0, 0, next));
        for listeners in &pass.listeners {
            program.extend(in_order(*listeners));
        }
        let label = NOT_NEW + 2 * (next - NEXT_PASS);
        program.extend(pass.newcomers.iter().flat_map(|new| wait_for(new, label)));
        program.extend([Set(R0, SK_DROP), Exit, Here(next)]);
    }
    program.extend(otherwise(fill));
    program
}

/// As [`fill_in_turn`]; but a connection whose two addresses are the same is this host's own. It goes to one of the
/// first `count` listeners of another array, as long as there is one.
pub(crate) fn fill_but_for_host(listeners: (i32, u32), fill: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = vec![Copy(R6, R1)];
    program.extend(load_of_header((SOURCE_V4, SOURCE_V6), KEY_ADDRESS, V6));
    program.extend(load_of_header((DESTINATION_V4, DESTINATION_V6), KEY, OURS));
    program.extend([
        Load(R2, Stack, KEY),
        Load(R3, Stack, KEY_ADDRESS),
        JumpUnlessSame(R2, R3, OTHERS),
    ]);
    program.extend(in_order(listeners));
    program.extend(otherwise(fill));
    program
}

/// Notes the client of a connection that moves, and goes on with [`KNOWN`]. A packet of a client's comes behind that.
fn client_of_moving() -> Vec<Instruction> {
    let mut program = vec![
        JumpIfEqual(R2, 0, PACKET),
        Load(R3, R2, SOCK_CLIENT_PORT),
        Store(Stack, KEY, R3),
    ];
    let address = (SOCK_CLIENT_IP4, SOCK_LAST_OF_CLIENT_IP6);
    program.extend(note_address(R2, SOCK_FAMILY, address, (MOVES_V6, ADDRESS)));
    program.push(Jump(KNOWN));
    program
}

/// The last four bytes of a client's address, from a structure of the kernel's to the key.
fn note_address(
    from: Register,
    family: i16,
    (v4, v6): (i16, i16),
    (of_v6, noted): (Label, Label),
) -> [Instruction; 8] {
    [
        Load(R3, from, family),
        JumpUnlessEqual(R3, libc::AF_INET, of_v6),
        Load(R3, from, v4),
        Jump(noted),
        Here(of_v6),
        Load(R3, from, v6),
        Here(noted),
        Store(Stack, KEY_ADDRESS, R3),
    ]
}

/// Goes on with [`OTHERS`] if one of the numbers is not 0.
fn wait_for(newcomers: &Newcomers, label: Label) -> Vec<Instruction> {
    let look = |(key, label): (&u32, Label)| {
        let mut program = vec![StoreValue(Stack, VALUE, *key as i32)];
        program.extend(lookup(newcomers.map, VALUE));
        program.extend([
            JumpIfEqual(R0, 0, label),
            Load(R2, R0, 0),
            JumpUnlessEqual(R2, 0, OTHERS),
            Here(label),
        ]);
        program
    };
    let keys = newcomers.keys.iter().zip(label..);
    keys.flat_map(look).collect()
}

/// Four bytes of the packet's IP header, to a place on the stack. A queue that moves has no packet, and is one of
/// [`OTHERS`].
fn load_of_header((v4, v6): (i32, i32), to: i16, label: Label) -> [Instruction; 12] {
    [
        Set(R2, v6),
        Load(R3, R6, ETH_PROTOCOL),
        JumpUnlessEqual(R3, ETH_P_IP.to_be() as i32, label),
        Set(R2, v4),
        Here(label),
        Copy(R1, R6),
        Copy(R3, Stack),
        Add(R3, to as i32),
        Set(R4, 4),
        Set(R5, BPF_HDR_START_NET),
        Call(Helper::LoadBytesRelative),
        JumpUnlessEqual(R0, 0, OTHERS),
    ]
}

/// The first listener that is there.
fn in_order((listeners, count): (i32, u32)) -> Vec<Instruction> {
    let mut program = Vec::new();
    for place in 0..count {
        program.push(StoreValue(Stack, VALUE, place as i32));
        program.extend(select(listeners));
    }
    program
}

/// For [`OTHERS`], and where none of those listeners is there: what `fill` chooses.
fn otherwise(fill: Vec<Instruction>) -> Vec<Instruction> {
    // The rest begins with its context where the kernel puts it.
    let mut program = vec![Here(OTHERS), Copy(R1, R6)];
    program.extend(fill);
    program
}

/// The rooms in the order of their places: each takes `size` new connections, then the next one does. So
/// those who came first are handed over first. Where the room is gone, the first that is there; without
/// any, the kernel chooses.
pub(crate) fn fill_in_turn(array: i32, count: u32, size: u32, counter: i32) -> Vec<Instruction> {
    let mut program = vec![
        // A call keeps this register.
        Copy(R6, R1),
        StoreValue(Stack, VALUE, 0),
    ];
    program.extend(lookup(counter, VALUE));
    program.extend([
        // The verifier wants to see that it is not 0.
        JumpIfEqual(R0, 0, DONE),
        Set(R7, 1),
        FetchAdd(R0, R7),
        Divide(R7, size.max(1) as i32),
        Modulo(R7, count.max(1) as i32),
        Store(Stack, VALUE, R7),
    ]);
    program.extend(first_there(array, count));
    program
}

/// One of the first `count` listeners of the array, by the connection's hash; where that place is empty,
/// the first that is there. If all have gone, the kernel chooses.
pub(crate) fn choose_from(array: i32, count: u32) -> Vec<Instruction> {
    let mut program = vec![
        // A call keeps this register.
        Copy(R6, R1),
        Load(R7, R6, HASH),
        Modulo(R7, count.max(1) as i32),
        Store(Stack, VALUE, R7),
    ];
    program.extend(first_there(array, count));
    program
}

/// For [`prefer`]: the kernel chooses where none of the first `count` places of the array has a room any more,
/// since nobody is there who would change the program. A room that is chosen here gives way to the next choice.
pub(crate) fn while_there(array: i32, count: u32) -> Vec<Instruction> {
    let mut program = Vec::new();
    for place in 0..count {
        program.push(StoreValue(Stack, VALUE, place as i32));
        program.extend(choose_or_go_to(array, THERE));
    }
    program.extend([Jump(DONE), Here(THERE)]);
    program
}

/// How often a connection whose place is empty is given another one by its hash.
const HASHED_TRIES: u32 = 4;

/// One of the `first` places of the array, by the connection's hash; where these are empty, the first listener
/// that is there among all `count` places. If all have gone, the rooms, which `fill` chooses from. Before all that,
/// `check` may end the program.
pub(crate) fn prefer(
    (array, count): (i32, u32),
    first: &Range<u32>,
    (check, fill): (Vec<Instruction>, Vec<Instruction>),
) -> Vec<Instruction> {
    let places = first.len() as i32;
    // A call keeps these registers.
    let mut program = vec![Copy(R6, R1), Load(R7, R6, HASH)];
    program.extend(check);
    for _ in 0..if places > 1 { HASHED_TRIES } else { 0 } {
        program.extend([
            Copy(R1, R7),
            Modulo(R1, places),
            Add(R1, first.start as i32),
            Store(Stack, VALUE, R1),
            // The next try has another part of the hash.
            Divide(R7, places),
        ]);
        program.extend(select(array));
    }
    for place in 0..count {
        program.push(StoreValue(Stack, VALUE, place as i32));
        program.extend(select(array));
    }
    // The rest begins with its context where the kernel puts it.
    program.push(Copy(R1, R6));
    program.extend(fill);
    program
}

/// The listener in the place whose number is on the stack, else the first that is there, else the kernel's
/// choice.
fn first_there(array: i32, count: u32) -> Vec<Instruction> {
    let mut program = select(array).to_vec();
    for place in 0..count {
        program.push(StoreValue(Stack, VALUE, place as i32));
        program.extend(select(array));
    }
    program.extend([Here(DONE), Set(R0, SK_PASS), Exit]);
    program
}

/// The address of the value whose key is on the stack, to `R0`; 0 if there is none.
pub(super) fn lookup(map: i32, key: i16) -> [Instruction; 4] {
    [
        SetMap(R1, map),
        Copy(R2, Stack),
        Add(R2, key as i32),
        Call(Helper::MapLookup),
    ]
}

/// Chooses the listener in the place whose number is on the stack, and is done if there is one.
fn select(array: i32) -> [Instruction; 7] {
    choose_or_go_to(array, DONE)
}

/// Chooses the listener in the place whose number is on the stack, and goes to `label` if there is one.
fn choose_or_go_to(array: i32, label: Label) -> [Instruction; 7] {
    [
        Copy(R1, R6),
        SetMap(R2, array),
        Copy(R3, Stack),
        Add(R3, VALUE as i32),
        Set(R4, 0),
        Call(Helper::SelectReusePort),
        JumpIfEqual(R0, 0, label),
    ]
}

/// What struct bpf_iter__task_file has (kernel/bpf/task_iter.c), in words of 8 bytes.
const OUTPUT: i16 = 0;
const DESCRIPTOR: i16 = 16;
const FILE: i16 = 24;
/// What is told of a socket: its descriptor, in the first 4 bytes, and the name of the program.
pub(super) const TOLD_LENGTH: usize = 24;
pub(super) const TOLD_NAME: usize = 8;
const TOLD: i16 = -(TOLD_LENGTH as i16);
const NAME: i16 = TOLD + TOLD_NAME as i16;

/// Where the kernel's own structures have the way from a socket to the name of its group's program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// In struct socket.
    pub sock: Bit,
    /// In struct sock.
    pub group: Bit,
    /// In struct sock_reuseport.
    pub program: Bit,
    /// In struct bpf_prog.
    pub aux: Bit,
    /// In struct bpf_prog_aux.
    pub name: Bit,
}

/// For each file of a process: tells of a socket whose SO_REUSEPORT group has a program. A pointer that is null is
/// read as null.
pub(super) fn tell_of_group(way: Way) -> Vec<Instruction> {
    vec![
        Copy(R6, R1),
        LoadWide(R1, R6, FILE),
        // The last call is for no file.
        JumpIfEqual(R1, 0, DONE),
        Call(Helper::SocketOfFile),
        JumpIfEqual(R0, 0, DONE),
        LoadWide(R7, R0, way.sock.byte()),
        LoadWide(R7, R7, way.group.byte()),
        LoadWide(R7, R7, way.program.byte()),
        JumpIfEqual(R7, 0, DONE),
        LoadWide(R7, R7, way.aux.byte()),
        LoadWide(R2, R7, way.name.byte()),
        StoreWide(Stack, NAME, R2),
        LoadWide(R2, R7, way.name.byte() + 8),
        StoreWide(Stack, NAME + 8, R2),
        Load(R2, R6, DESCRIPTOR),
        Store(Stack, TOLD, R2),
        StoreValue(Stack, TOLD + 4, 0),
        LoadWide(R1, R6, OUTPUT),
        // struct bpf_iter_meta, linux/bpf.h: the file is the first member.
        LoadWide(R1, R1, 0),
        Copy(R2, Stack),
        Add(R2, TOLD as i32),
        Set(R3, TOLD_LENGTH as i32),
        Call(Helper::SeqWrite),
        Here(DONE),
        Set(R0, 0),
        Exit,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::instructions::assemble;

    #[test]
    fn each_place_is_tried_once_by_hash_and_once_in_turn() {
        let calls = |count| {
            let program = choose_from(3, count);
            let calls = program.iter().filter(|one| matches!(one, Call(_)));
            calls.count()
        };
        assert_eq!((calls(1), calls(4)), (2, 5));
    }

    /// A jump of a program reaches 32,767 instructions far; the kernel takes a million.
    #[test]
    fn many_places_fit() {
        assert!(assemble(&choose_from(3, 1024)).len() / 8 < 32_767);
        let rooms = (while_there(4, 64), fill_in_turn(4, 64, 1, 5));
        assert!(assemble(&prefer((3, 1024), &(512..1024), rooms)).len() / 8 < 32_767);
    }
}
