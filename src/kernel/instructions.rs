//! Programs for the kernel's virtual machine (eBPF), as instructions with names. Pure.
//!
//! An instruction is 8 bytes: the operation, the two registers, an offset and a value (struct bpf_insn,
//! linux/bpf.h). A 64-bit value takes two instructions.

/// A register. The kernel calls a program with its context in `R1`, and takes the result from `R0`. A call
/// takes its arguments from `R1` to `R5`, gives its result in `R0`, and keeps `R6` to `R9` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    /// The end of the stack, 512 bytes that lie below it.
    Stack = 10,
}

/// What a program may call (enum bpf_func_id, linux/bpf.h), with the release that brought it. All are older than the
/// moving of connections (5.14), but for what `SetSockOpt` may set and `SetReturnValue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Helper {
    /// `(map, &key)`: the address of the value, or 0. Linux 3.19.
    MapLookup = 1,
    /// `(map, &key, &value, flags)`: 0, or an error. Linux 3.19.
    MapUpdate = 2,
    /// `(map, &key)`: 0, or an error. Linux 3.19.
    MapDelete = 3,
    /// `()`: the group and, in the lower 32 bits, the user of the process. Linux 4.2.
    UserAndGroup = 15,
    /// `(context, offset, to, length)`: 0 if the packet has so many bytes there. Linux 4.5.
    LoadBytes = 26,
    /// `(context)`: the cookie of the socket. Linux 4.12.
    SocketCookie = 46,
    /// `(context, level, name, &value, length)`: sets an option of the socket; 0, or an error. Linux 4.13;
    /// SO_REUSEPORT since 6.1.
    SetSockOpt = 49,
    /// `(context, level, name, &value, length)`: reads an option of the socket; 0, or an error. Linux 4.15;
    /// SO_REUSEPORT since 6.1.
    GetSockOpt = 57,
    /// `(context, flags)`: what the program is told of this connection. Linux 4.16.
    TellOfConnection = 59,
    /// `(context, offset, to, length, header)`: as `LoadBytes`; the offset counts from that header. Linux 4.18.
    LoadBytesRelative = 68,
    /// `()`: the id of the process's control group. Linux 4.18.
    ControlGroupId = 80,
    /// `(context, map, &key, flags)`: 0 if the socket in the map is chosen. Linux 4.19.
    SelectReusePort = 82,
    /// `(context)`: the cookie of the socket's network namespace. Linux 5.7.
    NetnsCookie = 122,
    /// `(file, from, length)`: to those who read the file of an iterator. Linux 5.7.
    SeqWrite = 127,
    /// `(socket)`: the kernel's own structure of a TCP socket, to read from, or 0. Linux 5.9.
    TcpSocket = 137,
    /// `()`: the kernel's own structure of the thread. Linux 5.11.
    CurrentTask = 158,
    /// `(file)`: the kernel's own structure of the socket that the file is, or 0. Linux 5.11.
    SocketOfFile = 162,
    /// `(error)`: what the system call returns if the program does not allow it. Linux 5.18.
    SetReturnValue = 187,
}

/// A place in a program that a jump goes to.
pub(crate) type Label = u16;

/// All are of the first version of the virtual machine (Linux 3.18), unless another release is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// The first register gets the second one's value.
    Copy(Register, Register),
    /// The register gets the value, with its sign to 64 bits.
    Set(Register, i32),
    /// A value of 64 bits.
    SetWide(Register, u64),
    /// The register gets the map with this descriptor.
    SetMap(Register, i32),
    /// Adds the value to all 64 bits.
    Add(Register, i32),
    /// Keeps the bits that the value has, with its sign to 64 bits.
    And(Register, i32),
    /// Divides the register's lower 32 bits, without a sign.
    Divide(Register, i32),
    /// Keeps the remainder of the register's lower 32 bits.
    Modulo(Register, i32),
    /// Adds the second register to the 32 bits at the address in the first one, and leaves there what
    /// was before, as one step. Linux 5.12.
    FetchAdd(Register, Register),
    /// If the 64 bits at the address in the first register are those of `R0`, they become those of the second
    /// register. `R0` gets what was there before. One step. Linux 5.12.
    CompareExchange(Register, Register),
    /// The lower 16 bits in network byte order, and nothing else.
    ToNetwork16(Register),
    /// The first register gets the 32 bits at the address in the second one, plus the offset.
    Load(Register, Register, i16),
    /// The same with one byte.
    LoadByte(Register, Register, i16),
    /// The same with 64 bits.
    LoadWide(Register, Register, i16),
    /// Stores the second register's lower 32 bits at the address in the first one, plus the offset.
    Store(Register, i16, Register),
    /// Stores all 64 bits.
    StoreWide(Register, i16, Register),
    /// Stores these 32 bits.
    StoreValue(Register, i16, i32),
    /// Calls into the kernel. See [`Register`] for arguments and result.
    Call(Helper),
    /// Goes on at the label if all 64 bits of the register are that value.
    JumpIfEqual(Register, i32, Label),
    /// Goes on at the label if they are not.
    JumpUnlessEqual(Register, i32, Label),
    /// Goes on at the label if two registers differ.
    JumpUnlessSame(Register, Register, Label),
    /// Goes on at the label.
    Jump(Label),
    /// The label. Takes no place in the program.
    Here(Label),
    /// Ends the program with the result in `R0`.
    Exit,
}

// linux/bpf_common.h and linux/bpf.h: the class (the lowest three bits), the source or size, and
// the operation.
const MOV64_REGISTER: u8 = 0xbf;
const MOV64_VALUE: u8 = 0xb7;
const LOAD_WIDE: u8 = 0x18;
const ADD64_VALUE: u8 = 0x07;
const AND64_VALUE: u8 = 0x57;
const DIV32_VALUE: u8 = 0x34;
const MOD32_VALUE: u8 = 0x94;
const ATOMIC_WORD: u8 = 0xc3;
const ADD_AND_FETCH: i32 = 0x01;
const ATOMIC_WIDE: u8 = 0xdb;
const COMPARE_EXCHANGE: i32 = 0xf1;
const LOAD_WORD: u8 = 0x61;
const LOAD_BYTE: u8 = 0x71;
const LOAD_DOUBLE_WORD: u8 = 0x79;
const STORE_WORD_REGISTER: u8 = 0x63;
const STORE_WIDE: u8 = 0x7b;
const STORE_WORD_VALUE: u8 = 0x62;
const TO_BIG_ENDIAN: u8 = 0xdc;
const CALL: u8 = 0x85;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_SAME: u8 = 0x5d;
const JUMP: u8 = 0x05;
const EXIT: u8 = 0x95;
// As the source of LOAD_WIDE: the value is the descriptor of a map.
const PSEUDO_MAP_FD: u8 = 1;

/// The program as the kernel takes it.
///
/// # Panics
/// A jump's label is not in the program, or is too far away.
pub(crate) fn assemble(program: &[Instruction]) -> Vec<u8> {
    let mut at = 0;
    let mut labels = Vec::new();
    for instruction in program {
        if let Instruction::Here(label) = instruction {
            labels.push((*label, at));
        }
        at += instruction.length();
    }
    let mut code = Vec::with_capacity(at * 8);
    for instruction in program {
        let next = code.len() / 8 + 1;
        let offset = |label: Label| {
            let found = labels.iter().find(|(name, _)| *name == label);
            let (_, at) = found.expect("the label is in the program");
            i16::try_from(*at as i64 - next as i64).expect("the label is near")
        };
        instruction.encode(offset, &mut code);
    }
    code
}

/// The first register has the four bits that come first: the lower ones where the lowest byte comes first.
fn registers(to: u8, from: u8) -> u8 {
    match cfg!(target_endian = "big") {
        true => to << 4 | from,
        false => from << 4 | to,
    }
}

impl Instruction {
    /// In units of 8 bytes.
    fn length(self) -> usize {
        match self {
            Instruction::Here(_) => 0,
            Instruction::SetWide(..) | Instruction::SetMap(..) => 2,
            _ => 1,
        }
    }

    fn encode(self, offset: impl Fn(Label) -> i16, code: &mut Vec<u8>) {
        use Instruction as I;
        use Register::R0;
        let mut put = |operation, to: Register, from: u8, offset: i16, value: i32| {
            code.extend([operation, registers(to as u8, from)]);
            code.extend(offset.to_ne_bytes());
            code.extend(value.to_ne_bytes());
        };
        match self {
            I::Copy(to, from) => put(MOV64_REGISTER, to, from as u8, 0, 0),
            I::Set(to, value) => put(MOV64_VALUE, to, 0, 0, value),
            I::SetWide(to, value) => {
                put(LOAD_WIDE, to, 0, 0, value as i32);
                put(0, R0, 0, 0, (value >> 32) as i32);
            }
            I::SetMap(to, map) => {
                put(LOAD_WIDE, to, PSEUDO_MAP_FD, 0, map);
                put(0, R0, 0, 0, 0);
            }
            I::Add(to, value) => put(ADD64_VALUE, to, 0, 0, value),
            I::And(to, value) => put(AND64_VALUE, to, 0, 0, value),
            I::Divide(to, value) => put(DIV32_VALUE, to, 0, 0, value),
            I::FetchAdd(at, with) => put(ATOMIC_WORD, at, with as u8, 0, ADD_AND_FETCH),
            I::CompareExchange(at, with) => put(ATOMIC_WIDE, at, with as u8, 0, COMPARE_EXCHANGE),
            I::Modulo(to, value) => put(MOD32_VALUE, to, 0, 0, value),
            I::Load(to, from, at) => put(LOAD_WORD, to, from as u8, at, 0),
            I::LoadByte(to, from, at) => put(LOAD_BYTE, to, from as u8, at, 0),
            I::LoadWide(to, from, at) => put(LOAD_DOUBLE_WORD, to, from as u8, at, 0),
            I::Store(to, at, from) => put(STORE_WORD_REGISTER, to, from as u8, at, 0),
            I::StoreWide(to, at, from) => put(STORE_WIDE, to, from as u8, at, 0),
            I::StoreValue(to, at, value) => put(STORE_WORD_VALUE, to, 0, at, value),
            I::ToNetwork16(of) => put(TO_BIG_ENDIAN, of, 0, 0, 16),
            I::Call(helper) => put(CALL, R0, 0, 0, helper as i32),
            I::JumpIfEqual(left, value, to) => put(JUMP_IF_EQUAL, left, 0, offset(to), value),
            I::JumpUnlessEqual(left, value, to) => {
                put(JUMP_UNLESS_EQUAL, left, 0, offset(to), value)
            }
            I::JumpUnlessSame(left, right, to) => {
                put(JUMP_UNLESS_SAME, left, right as u8, offset(to), 0)
            }
            I::Jump(to) => put(JUMP, R0, 0, offset(to), 0),
            I::Here(_) => (),
            I::Exit => put(EXIT, R0, 0, 0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Instruction::*;
    use super::Register::*;
    use super::*;

    /// The two halves of the byte change places where the highest byte comes first.
    fn here(registers: u8) -> u8 {
        match cfg!(target_endian = "big") {
            true => registers.rotate_left(4),
            false => registers,
        }
    }

    /// Against the encodings of Documentation/bpf/standardization/instruction-set.rst.
    #[test]
    fn each_instruction_is_encoded() {
        // The registers as they are where the lowest byte comes first.
        let bytes = |operation: u8, registers: u8, offset: i16, value: i32| {
            let mut bytes = vec![operation, here(registers)];
            bytes.extend(offset.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        for (instruction, expected) in [
            (Copy(R6, R1), bytes(0xbf, 0x16, 0, 0)),
            (Set(R0, -1), bytes(0xb7, 0x00, 0, -1)),
            (Add(R3, -4), bytes(0x07, 0x03, 0, -4)),
            (And(R2, 0x20), bytes(0x57, 0x02, 0, 0x20)),
            (Divide(R7, 4096), bytes(0x34, 0x07, 0, 4096)),
            (CompareExchange(R7, R8), bytes(0xdb, 0x87, 0, 0xf1)),
            (Modulo(R7, 3), bytes(0x94, 0x07, 0, 3)),
            (FetchAdd(R0, R7), bytes(0xc3, 0x70, 0, 1)),
            (Load(R7, R6, 32), bytes(0x61, 0x67, 32, 0)),
            (LoadByte(R7, R6, 18), bytes(0x71, 0x67, 18, 0)),
            (LoadWide(R7, R6, 64), bytes(0x79, 0x67, 64, 0)),
            (Store(Stack, -4, R7), bytes(0x63, 0x7a, -4, 0)),
            (StoreWide(Stack, -8, R7), bytes(0x7b, 0x7a, -8, 0)),
            (StoreValue(Stack, -4, 5), bytes(0x62, 0x0a, -4, 5)),
            (Call(Helper::SelectReusePort), bytes(0x85, 0, 0, 82)),
            (ToNetwork16(R2), bytes(0xdc, 0x02, 0, 16)),
            (Exit, bytes(0x95, 0, 0, 0)),
        ] {
            assert_eq!(assemble(&[instruction]), expected, "{instruction:?}");
        }
        let wide = assemble(&[SetWide(R2, 0x1_0000_0002)]);
        assert_eq!(wide, [bytes(0x18, 2, 0, 2), bytes(0, 0, 0, 1)].concat());
        let map = assemble(&[SetMap(R2, 9)]);
        assert_eq!(map, [bytes(0x18, 0x12, 0, 9), bytes(0, 0, 0, 0)].concat());
    }

    #[test]
    fn jumps_count_from_the_next_instruction() {
        let program = [
            JumpIfEqual(R0, 0, 1),
            SetMap(R2, 3),
            JumpUnlessEqual(R2, 7, 1),
            JumpUnlessSame(R0, R6, 1),
            Jump(1),
            Here(1),
            Exit,
        ];
        let code = assemble(&program);
        let offsets: Vec<i16> = code
            .chunks(8)
            .map(|one| i16::from_ne_bytes([one[2], one[3]]))
            .collect();
        assert_eq!(offsets, [5, 0, 0, 2, 1, 0, 0]);
        assert_eq!(code[0], 0x15);
        assert_eq!(code[3 * 8], 0x55);
        assert_eq!(code[4 * 8..4 * 8 + 2], [0x5d, here(0x60)]);
        assert_eq!(code[5 * 8], 0x05);
    }
}
