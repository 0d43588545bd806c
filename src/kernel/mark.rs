//! A mark (SO_MARK, socket(7)) for all sockets of a control group, by which rules tell them apart.

use std::os::fd::BorrowedFd;

use anyhow::Result;

use super::bpf::{Kind, Link, Program};
use super::instructions::Instruction::{self, Exit, Set, Store};
use super::instructions::Register::{R0, R1, R2};

/// Where `mark` is in struct bpf_sock (linux/bpf.h).
const MARK: i16 = 16;
/// The socket is made.
const ALLOW: i32 = 1;

/// While the link is open, sockets that are made in that control group have the mark.
///
/// # Errors
/// The kernel has no such programs (Linux 5.7), or this process may not link one.
pub(crate) fn mark_sockets(group: BorrowedFd, mark: u32) -> Result<Link> {
    let program = Program::load(Kind::Made, "gate_mark", &marking(mark))?;
    program.link(Kind::Made, group)
}

fn marking(mark: u32) -> [Instruction; 4] {
    [
        Set(R2, mark as i32),
        Store(R1, MARK, R2),
        Set(R0, ALLOW),
        Exit,
    ]
}
