//! What a fault does to a system call: at its entry, and at its exit.

use anyhow::Result;
use nix::{
    libc::user_regs_struct,
    sys::{
        ptrace,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use syscalls::Sysno;

use super::memory;
use crate::fault::Fault;

/// NETLINK_ROUTE and NETLINK_NETFILTER: who lists there says if that has changed meanwhile.
const CONSISTENT: [u32; 2] = [0, 12];
/// Of a `nlmsghdr`: where its flags are, NLM_F_MULTI, NLM_F_DUMP_INTR.
const FLAGS_AT: usize = 6;
const MULTI: u8 = 2;
const DUMP_INTR: u8 = 0x10;
/// Of a `msghdr` on x86-64: where its first buffer is told, and its flags are; MSG_TRUNC.
const IOV_AT: u64 = 16;
const MSG_FLAGS_AT: u64 = 48;
const TRUNC: u32 = 0x20;

/// A call between its entry and its exit.
#[derive(Clone, Copy)]
pub struct Within {
    pub number: u64,
    /// What happens to it.
    pub fault: Option<Fault>,
    /// Its third argument, which may be another one in the meantime.
    third: u64,
}

/// Whether the fault can happen to this call, at its entry; what a netlink socket lists is seen only at
/// its exit.
pub fn takes(pid: Pid, registers: &user_regs_struct, fault: Fault) -> bool {
    let is = |call: Sysno| registers.orig_rax == call as u64;
    match fault {
        Fault::Short => {
            let to = memory::leads_to(pid, registers.rdi);
            let calls = [Sysno::read, Sysno::pread64, Sysno::write, Sysno::pwrite64];
            // What the kernel reads and writes of these comes as a whole.
            let whole = to.starts_with("anon_inode:")
                || memory::netlink_protocol(pid, registers.rdi).is_some();
            calls.into_iter().any(is) && !whole && registers.rdx > 1
        }
        Fault::DumpIntr | Fault::Truncate => is(Sysno::recvfrom) || is(Sysno::recvmsg),
        _ => true,
    }
}

/// At the entry.
pub fn enter(pid: Pid, registers: &mut user_regs_struct, fault: Option<Fault>) -> Within {
    let within = Within {
        number: registers.orig_rax,
        fault,
        third: registers.rdx,
    };
    match fault {
        Some(Fault::KillBefore) => {
            let _ = kill(pid, Signal::SIGKILL);
        }
        Some(Fault::Short) => {
            registers.rdx = 1;
            let _ = ptrace::setregs(pid, *registers);
        }
        Some(fault) if fault.errno().is_some() => {
            registers.orig_rax = u64::MAX; // no call at all
            let _ = ptrace::setregs(pid, *registers);
        }
        _ => (),
    }
    within
}

/// At the exit. Whether it has happened: a netlink message may have been no list.
pub fn leave(pid: Pid, registers: &mut user_regs_struct, within: Within) -> bool {
    let Some(fault) = within.fault else {
        return false;
    };
    match fault {
        Fault::KillAfter => {
            let _ = kill(pid, Signal::SIGKILL);
        }
        Fault::Short => {
            registers.rdx = within.third;
            let _ = ptrace::setregs(pid, *registers);
        }
        Fault::DumpIntr | Fault::Truncate => {
            return tear(pid, registers, within, fault).unwrap_or(false);
        }
        _ => {
            if let Some(errno) = fault.errno() {
                registers.rax = (-(errno as i64)).cast_unsigned();
                let _ = ptrace::setregs(pid, *registers);
            }
        }
    }
    true
}

/// Changes what was received, if it is a part of a list.
fn tear(pid: Pid, registers: &mut user_regs_struct, within: Within, fault: Fault) -> Result<bool> {
    let by_message = within.number == Sysno::recvmsg as u64;
    let at = match by_message {
        true => memory::word(pid, memory::word(pid, registers.rsi + IOV_AT)?)?,
        false => registers.rsi,
    };
    let received = registers.rax;
    let protocol = memory::netlink_protocol(pid, registers.rdi);
    let (Some(protocol), 32..=65_536) = (protocol, received) else {
        return Ok(false);
    };
    let bytes = memory::read(pid, at, received)?;
    let flags = bytes[FLAGS_AT];
    if flags & MULTI == 0 || (fault == Fault::DumpIntr && !CONSISTENT.contains(&protocol)) {
        return Ok(false);
    }
    if fault == Fault::DumpIntr {
        memory::write(pid, at + FLAGS_AT as u64, &[flags | DUMP_INTR])?;
        return Ok(true);
    }
    registers.rax = received - 8;
    ptrace::setregs(pid, *registers)?;
    if by_message {
        let flags_at = registers.rsi + MSG_FLAGS_AT;
        let flags = memory::read(pid, flags_at, 4)?;
        let flags = u32::from_ne_bytes(flags.as_slice().try_into()?) | TRUNC;
        memory::write(pid, flags_at, &flags.to_ne_bytes())?;
    }
    Ok(true)
}
