//! Maps and programs of eBPF, by bpf(2). Each lives as long as its descriptor, and as long as something
//! that the kernel keeps uses it.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Result, anyhow, ensure};
use nix::errno::Errno;
use nix::libc;

use super::instructions::{Instruction, assemble};
use super::sys::set_socket_option;

// enum bpf_cmd, linux/bpf.h
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const ITER_CREATE: libc::c_int = 33;
const LINK_DETACH: libc::c_int = 34;

/// The kernel's own name for this many bytes at most, with a NUL at the end (BPF_OBJ_NAME_LEN).
const NAME_LENGTH: usize = 16;
/// How much the verifier may say about a program that it refuses.
const LOG_LENGTH: usize = 64 * 1024;

/// Where a program is called (enum bpf_prog_type and enum bpf_attach_type, linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A SO_REUSEPORT group chooses the listener of a new connection, or of one whose listener is closed
    /// (BPF_SK_REUSEPORT_SELECT_OR_MIGRATE). Linux 5.14. Earlier kernels take the program since 5.8 or so,
    /// and migrate nothing.
    SelectOrMigrate,
    /// Something happens to a TCP connection (BPF_CGROUP_SOCK_OPS). Linux 4.13.
    SockOps,
    /// A process makes a socket (BPF_CGROUP_INET_SOCK_CREATE). Linux 4.10; it may set a mark since 4.14.
    Made,
    /// A process binds an IPv4 socket. Linux 4.17.
    Bind4,
    /// A process binds an IPv6 socket. Linux 4.17.
    Bind6,
    /// A process closes the last descriptor of a socket (BPF_CGROUP_INET_SOCK_RELEASE). Linux 5.9.
    Release,
    /// A process has bound an IPv4 socket. Linux 4.17.
    Bound4,
    /// A process has bound an IPv6 socket. Linux 4.17.
    Bound6,
    /// Somebody asks for the files of a process (BPF_TRACE_ITER). By the number of the kernel's function
    /// `bpf_iter_task_file` among its types. Linux 5.8.
    Files(u32),
}

impl Kind {
    fn numbers(self) -> (u32, u32) {
        match self {
            Kind::SelectOrMigrate => (21, 40),
            Kind::SockOps => (13, 3),
            Kind::Made => (9, 2),
            Kind::Bind4 => (18, 8),
            Kind::Bind6 => (18, 9),
            Kind::Release => (9, 34),
            Kind::Bound4 => (9, 12),
            Kind::Bound6 => (9, 13),
            Kind::Files(_) => (26, 28),
        }
    }
}

/// What kind of map it is (enum bpf_map_type, linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapKind {
    /// When it is full, it takes no others. Linux 3.19.
    Hash = 1,
    /// By numbers from 0. Linux 3.19.
    Array = 2,
    /// When it is full, the oldest one is forgotten. Linux 4.10.
    ForgetfulHash = 9,
    /// The listeners that programs choose from (BPF_MAP_TYPE_REUSEPORT_SOCKARRAY). Linux 4.19.
    Listeners = 20,
}

/// A map from so many bytes to so many.
#[derive(Debug)]
pub(crate) struct Map<const KEY: usize, const VALUE: usize>(OwnedFd);

impl<const KEY: usize, const VALUE: usize> Map<KEY, VALUE> {
    /// Room for `size`.
    ///
    /// # Errors
    /// The kernel has no such maps, or this process may not make one.
    pub(crate) fn new(kind: MapKind, size: u32) -> Result<Map<KEY, VALUE>> {
        #[repr(C)]
        struct MapCreate {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            map_flags: u32,
        }
        let attributes = MapCreate {
            map_type: kind as u32,
            key_size: KEY as u32,
            value_size: VALUE as u32,
            max_entries: size,
            map_flags: 0,
        };
        // SAFETY: MAP_CREATE reads the attributes only.
        let made = unsafe { bpf(MAP_CREATE, &attributes) };
        made.map(Map).map_err(|error| refused("a map", error))
    }

    /// That of another process.
    ///
    /// # Errors
    /// The descriptor is no map with keys and values of these sizes.
    pub(crate) fn adopt(map: OwnedFd) -> Result<Map<KEY, VALUE>> {
        // proc_pid_fdinfo(5); the kernel reads and writes as many bytes as the map says.
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
        let is = |line: String| info.lines().any(|there| there == line);
        let fits = is(format!("key_size:\t{KEY}")) && is(format!("value_size:\t{VALUE}"));
        ensure!(fits, "not a map of such values");
        Ok(Map(map))
    }

    /// The same map once more.
    ///
    /// # Errors
    /// This process may open no more files.
    pub(crate) fn again(&self) -> io::Result<Map<KEY, VALUE>> {
        Ok(Map(self.0.try_clone()?))
    }

    pub(crate) fn get(&self, key: [u8; KEY]) -> Option<[u8; VALUE]> {
        let mut value = [0; VALUE];
        let read = self.element(MAP_LOOKUP_ELEM, &key, value.as_mut_ptr());
        read.is_ok().then_some(value)
    }

    /// # Errors
    /// The map is full, or does not take that.
    pub(crate) fn put(&self, key: [u8; KEY], mut value: [u8; VALUE]) -> io::Result<()> {
        self.element(MAP_UPDATE_ELEM, &key, value.as_mut_ptr())
    }

    /// If it is there.
    pub(crate) fn remove(&self, key: [u8; KEY]) {
        let _ = self.element(MAP_DELETE_ELEM, &key, std::ptr::null_mut());
    }

    /// `nobodys`: a key that is not there, which is followed by the first one.
    pub(crate) fn keys(&self, nobodys: [u8; KEY]) -> Vec<[u8; KEY]> {
        let (mut all, mut seen, mut next) = (Vec::new(), BTreeSet::new(), nobodys);
        loop {
            let present = next;
            let found = self.element(MAP_GET_NEXT_KEY, &present, next.as_mut_ptr());
            match found {
                Ok(()) if seen.insert(next) => all.push(next),
                _ => return all,
            }
        }
    }

    /// For [`Instruction::SetMap`].
    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// `to`: what the command reads or writes: a value, the next key, or nothing.
    fn element(&self, number: libc::c_int, key: &[u8; KEY], to: *mut u8) -> io::Result<()> {
        #[repr(C)]
        struct MapElement {
            map_fd: u32,
            reserved: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let attributes = MapElement {
            map_fd: self.0.as_raw_fd() as u32,
            reserved: 0,
            key: key.as_ptr() as u64,
            value: to as u64,
            flags: 0,
        };
        // SAFETY: the map was made with keys and values of these sizes, or says so. The callers give an array of
        // that size, which outlives the call; MAP_DELETE_ELEM reads the key only.
        let done = unsafe { command(number, &attributes) };
        done.map(drop)
    }
}

impl<const KEY: usize, const VALUE: usize> AsFd for Map<KEY, VALUE> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The attributes of PROG_LOAD. Those that the kernel knows and nobody here needs are 0.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_LENGTH],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

#[derive(Debug)]
pub(crate) struct Program(OwnedFd);

impl Program {
    /// Lets the kernel verify and take the program. `name` is for `bpftool prog`.
    ///
    /// # Errors
    /// The kernel refuses it; what its verifier said is in the error.
    pub(crate) fn load(kind: Kind, name: &str, program: &[Instruction]) -> Result<Program> {
        let code = assemble(program);
        let (prog_type, expected_attach_type) = kind.numbers();
        let attach_btf_id = match kind {
            Kind::Files(function) => function,
            _ => 0,
        };
        let mut prog_name = [0; NAME_LENGTH];
        let letters = name.bytes().take(NAME_LENGTH - 1);
        prog_name
            .iter_mut()
            .zip(letters)
            .for_each(|(to, from)| *to = from);
        let load = |log: &mut [u8]| {
            let attributes = ProgLoad {
                prog_type,
                insn_cnt: (code.len() / 8) as u32,
                insns: code.as_ptr() as u64,
                // The MIT licence lets its holder pass this on under the GPL as well, which the kernel
                // asks for where a program reads its structures (linux/license.h).
                license: c"Dual MIT/GPL".as_ptr() as u64,
                log_level: u32::from(!log.is_empty()),
                log_size: log.len() as u32,
                log_buf: match log.is_empty() {
                    true => 0,
                    false => log.as_mut_ptr() as u64,
                },
                prog_name,
                expected_attach_type,
                attach_btf_id,
                ..ProgLoad::default()
            };
            // SAFETY: code, licence and log outlive the call, and have the lengths that are given.
            unsafe { bpf(PROG_LOAD, &attributes) }
        };
        load(&mut []).map(Program).map_err(|error| {
            // A second time, now with what the verifier has to say.
            let mut log = vec![0; LOG_LENGTH];
            let _ = load(&mut log);
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let said = String::from_utf8_lossy(&log[..end])
                .trim()
                .replace('\n', "; ");
            match said.is_empty() {
                true => refused("the program", error),
                false => anyhow!(
                    "the kernel refuses the program {name}: {}: {said}",
                    words(&error)
                ),
            }
        })
    }

    /// From now on the program chooses for the whole SO_REUSEPORT group of the socket, in place of another
    /// one.
    ///
    /// # Errors
    /// EINVAL: the socket is in no group.
    pub(crate) fn choose_for_group_of(&self, socket: BorrowedFd) -> io::Result<()> {
        let program = self.0.as_raw_fd().to_ne_bytes();
        set_socket_option(socket, libc::SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &program)
    }

    /// The kernel calls the program in this control group and those below, until the link is dropped.
    ///
    /// # Errors
    /// The kernel has no links to control groups (Linux 5.7), or this process may not make one.
    pub(crate) fn link(&self, kind: Kind, control_group: BorrowedFd) -> Result<Link> {
        let target = control_group.as_raw_fd() as u32;
        let made = self.linked(kind, target, &[]);
        Ok(Link(made.map_err(|error| refused("a link", error))?))
    }

    /// `about`: union bpf_iter_link_info, linux/bpf.h.
    fn linked(&self, kind: Kind, target: u32, about: &[u32]) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct LinkCreate {
            prog_fd: u32,
            target_fd: u32,
            attach_type: u32,
            flags: u32,
            iter_info: u64,
            iter_info_len: u32,
            reserved: u32,
        }
        let (_, attach_type) = kind.numbers();
        let attributes = LinkCreate {
            prog_fd: self.0.as_raw_fd() as u32,
            target_fd: target,
            attach_type,
            flags: 0,
            iter_info: match about.is_empty() {
                true => 0,
                false => about.as_ptr() as u64,
            },
            iter_info_len: size_of_val(about) as u32,
            reserved: 0,
        };
        // SAFETY: LINK_CREATE reads the attributes, and what they name, which outlives the call.
        unsafe { bpf(LINK_CREATE, &attributes) }
    }

    /// What a program of [`Kind::Files`] writes as the kernel calls it for each file of this process. Nobody else
    /// meets it.
    ///
    /// # Errors
    /// The kernel has no files of one process alone (Linux 6.1), or this process may not ask.
    pub(crate) fn asked_of_own_files(&self) -> io::Result<Vec<u8>> {
        #[repr(C)]
        struct IterCreate {
            link_fd: u32,
            flags: u32,
        }
        // Of a thread, of a process, or of the process of a pidfd.
        let link = self.linked(Kind::Files(0), 0, &[0, std::process::id(), 0])?;
        let attributes = IterCreate {
            link_fd: link.as_raw_fd() as u32,
            flags: 0,
        };
        // SAFETY: ITER_CREATE reads the attributes only.
        let files = unsafe { bpf(ITER_CREATE, &attributes)? };
        let mut written = Vec::new();
        File::from(files).read_to_end(&mut written)?;
        Ok(written)
    }
}

/// A program in its place. It stays there as long as somebody has the descriptor.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// That of another process.
    pub(crate) fn adopt(link: OwnedFd) -> Link {
        Link(link)
    }

    /// Takes the program out of its place, also while other processes hold the descriptor. Linux 5.9.
    pub(crate) fn detach(self) {
        #[repr(C)]
        struct LinkDetach {
            link_fd: u32,
        }
        let attributes = LinkDetach {
            link_fd: self.0.as_raw_fd() as u32,
        };
        // SAFETY: LINK_DETACH reads the attributes only.
        let _ = unsafe { command(LINK_DETACH, &attributes) };
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

// asm-generic/socket.h, which the libc crate does not have for all architectures.
const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = 52;
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;

/// The kernel's own choice is back in the SO_REUSEPORT group of the socket.
///
/// # Errors
/// ENOENT: the group has no program.
pub(crate) fn leave_choice_to_kernel(socket: BorrowedFd) -> io::Result<()> {
    let unused = 0i32.to_ne_bytes();
    set_socket_option(socket, libc::SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &unused)
}

/// # Safety
/// `attributes` must be what the command reads, without padding, and each address in it must be good for
/// the length that goes with it.
unsafe fn command<T>(number: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes as it is told, and takes those that it was not given for
    // zeroes. The rest is promised by the caller.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            number,
            &raw const *attributes,
            size_of::<T>(),
        )
    };
    Ok(Errno::result(result)?)
}

/// A command that makes a descriptor, which is close-on-exec.
///
/// # Safety
/// As for [`command`].
unsafe fn bpf<T>(number: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as promised by the caller; the descriptor is new, so nothing else owns it.
    unsafe { command(number, attributes).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

fn refused(what: &str, error: io::Error) -> anyhow::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => {
            " (CAP_BPF and CAP_NET_ADMIN in the host's own user namespace are needed)"
        }
        Some(libc::ENOSYS) => " (this kernel has no bpf(2))",
        _ => "",
    };
    anyhow!("the kernel refuses {what} of eBPF: {}{hint}", words(&error))
}

fn words(error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.map_or_else(|| error.to_string(), |errno| errno.desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_verifier_says_of_a_program_is_in_the_error() {
        let error = Program::load(Kind::SelectOrMigrate, "gate_nothing", &[Instruction::Exit]);
        let error = format!("{:#}", error.unwrap_err());
        let says = "the kernel refuses the program gate_nothing: ";
        assert!(error.starts_with(says), "{error}");
        assert!(error.contains("R0 !read_ok"), "{error}");
    }
}
