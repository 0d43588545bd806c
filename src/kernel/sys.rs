//! What only the C library offers, each function made safe. Besides this file only `gate/nft/raw.rs` and
//! `kernel/bpf.rs` have `unsafe` code.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use crate::words::exit::{NOT_EXECUTABLE, NOT_FOUND};

/// The C library keeps an answer of the services database, and its place in it, in static memory: one
/// thread at a time may ask.
static SERVICES: Mutex<()> = Mutex::new(());

/// The TCP port that the services database (`/etc/services`, and what else nsswitch.conf names) has for
/// `name`.
pub(crate) fn service_port(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let _alone = SERVICES.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: both arguments are NUL-terminated strings that outlive the call. The entry that
    // comes back lives in static memory of the C library: it is read before the next call.
    unsafe {
        let entry = libc::getservbyname(name.as_ptr(), c"tcp".as_ptr());
        if entry.is_null() {
            return None;
        }
        // s_port is an int that holds the port in network byte order (getservbyname(3)).
        Some(u16::from_be((*entry).s_port as u16))
    }
}

/// The names of all TCP services in that database, without aliases.
pub(crate) fn service_names() -> Vec<String> {
    let _alone = SERVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut names = Vec::new();
    // SAFETY: none takes an argument but an int. The entry that comes back lives in static memory of the
    // C library: it is read before the next call, and its strings are NUL-terminated.
    unsafe {
        libc::setservent(0);
        while let Some(entry) = libc::getservent().as_ref() {
            if CStr::from_ptr(entry.s_proto) == c"tcp" {
                names.push(CStr::from_ptr(entry.s_name).to_string_lossy().into_owned());
            }
        }
        libc::endservent();
    }
    names
}

/// How a child has ended, as wait(2) describes the status; `None` while it has not. Not by the nix
/// crate: it has no names for real-time signals, and loses the status of a child that one has ended.
///
/// # Errors
/// ECHILD: this process has no such child, or has waited for it already.
pub(crate) fn ended(child: Pid) -> nix::Result<Option<libc::c_int>> {
    Ok(reap(child)?.map(|(_, status)| status))
}

/// Which child has ended, and how.
///
/// # Errors
/// ECHILD: there is no child left.
pub(crate) fn any_ended() -> nix::Result<Option<(Pid, libc::c_int)>> {
    const ANY: Pid = Pid::from_raw(-1);
    reap(ANY)
}

/// Tries again after an error, because the signal that tells of a child's end comes only once.
fn reap(child: Pid) -> nix::Result<Option<(Pid, libc::c_int)>> {
    const TRIES: usize = 10;
    let mut status = 0;
    let mut wait = || {
        // SAFETY: `status` is a live int.
        let result = unsafe { libc::waitpid(child.as_raw(), &mut status, libc::WNOHANG) };
        nix::errno::Errno::result(result)
    };
    let mut tries = 1..TRIES;
    let pid = loop {
        match wait() {
            Err(error) if error != nix::errno::Errno::ECHILD && tries.next().is_some() => (),
            waited => break waited?,
        }
    };
    Ok((pid > 0).then_some((Pid::from_raw(pid), status)))
}

/// How a child becomes another program.
pub(crate) struct Birth<'a> {
    pub(crate) program: &'a CStr,
    pub(crate) argv: &'a [CString],
    pub(crate) environment: &'a [CString],
    pub(crate) mask: &'a SigSet,
    /// These get their default action back.
    pub(crate) defaults: &'a [Signal],
    pub(crate) own_group: bool,
    pub(crate) own_session: bool,
    /// The kernel kills it when the thread that has started it ends.
    pub(crate) dies_with_parent: bool,
    /// Descriptors that it gets under other numbers: (here, there).
    pub(crate) files: &'a [(RawFd, RawFd)],
    /// Descriptors that it closes before it asks for the program.
    pub(crate) close: &'a [RawFd],
    /// Where it writes the error of execve(2), as an int. Close-on-exec, so that it ends without a word
    /// when the program runs.
    pub(crate) line: RawFd,
}

/// Starts a child, and does not wait until the kernel has opened the program's file. posix_spawn(3) does:
/// it shares the memory of this process until then.
///
/// # Errors
/// Those of fork(2).
pub(crate) fn give_birth(birth: &Birth) -> nix::Result<Pid> {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        let texts = texts.iter().map(|text| text.as_ptr());
        texts.chain([std::ptr::null()]).collect()
    };
    let (argv, environment) = (pointers(birth.argv), pointers(birth.environment));
    let parent = getpid();
    // SAFETY: another thread may hold a lock at this moment, so the child makes system calls only: it
    // neither allocates nor panics, and it ends in `become_program`.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => become_program(birth, &argv, &environment, parent),
    }
}

/// The child's part of [`give_birth`].
fn become_program(
    birth: &Birth,
    argv: &[*const libc::c_char],
    environment: &[*const libc::c_char],
    parent: Pid,
) -> ! {
    birth.defaults.iter().copied().for_each(set_default);
    // SAFETY: all of these take plain numbers, but for execve, write and sigprocmask, whose pointers are to
    // texts and values that outlive the calls; `argv` and `environment` end with a null pointer.
    unsafe {
        if birth.own_group {
            libc::setpgid(0, 0);
        }
        if birth.own_session {
            libc::setsid();
        }
        if birth.dies_with_parent {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if getppid() != parent {
                libc::_exit(libc::EXIT_FAILURE);
            }
        }
        for (from, to) in birth.files {
            if from == to {
                libc::fcntl(*to, libc::F_SETFD, 0);
            } else {
                libc::dup2(*from, *to);
            }
        }
        for fd in birth.close {
            libc::close(*fd);
        }
        libc::sigprocmask(libc::SIG_SETMASK, birth.mask.as_ref(), std::ptr::null_mut());
        libc::execve(birth.program.as_ptr(), argv.as_ptr(), environment.as_ptr());
        let refusal = Errno::last_raw();
        libc::write(
            birth.line,
            (&raw const refusal).cast(),
            size_of::<libc::c_int>(),
        );
        libc::_exit(match refusal {
            libc::ENOENT => NOT_FOUND.into(),
            _ => NOT_EXECUTABLE.into(),
        });
    }
}

/// Starts a child that does `work`. What `work` returns is the child's exit status.
///
/// # Errors
/// Those of fork(2).
pub(crate) fn in_child(work: impl FnOnce() -> u8) -> nix::Result<Pid> {
    // SAFETY: the child never returns from here. It may allocate: the C libraries hold malloc's locks over
    // fork(2), and let go of them in the child. No other thread of this process holds another lock that
    // `work` needs, since it has one thread at this time.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let status = worked.map_or(libc::EXIT_FAILURE, i32::from);
            // SAFETY: it takes a number, and runs nothing of this process's.
            unsafe { libc::_exit(status) }
        }
    }
}

/// A process, so that a signal can't reach another one that has got its pid meanwhile (pidfd_open(2), Linux
/// 5.3).
///
/// # Errors
/// ESRCH: there is none. ENOSYS: the kernel is older.
pub(crate) fn pidfd(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: it takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the kernel has just opened it for this process. It is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process of [`pidfd`].
///
/// # Errors
/// The errors of kill(2). ESRCH: the process has ended.
pub(crate) fn signal_by(pidfd: BorrowedFd, signal: Signal) -> nix::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: it takes numbers, and a null pointer for what kill(2) would tell.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            no_info,
            0,
        )
    };
    Errno::result(sent).map(drop)
}

/// The blocked signals that have come for this process, or this thread, and that nobody has read.
pub(crate) fn pending() -> SigSet {
    let mut set = SigSet::empty();
    let mut raw = *set.as_ref();
    // SAFETY: `raw` is a live sigset_t.
    if unsafe { libc::sigpending(&mut raw) } == 0 {
        // SAFETY: the kernel has filled it, and SigSet has no other state.
        set = unsafe { SigSet::from_sigset_t_unchecked(raw) };
    }
    set
}

/// The descriptor of a netlink socket, which the mnl crate gives as a bare number.
pub(crate) fn descriptor(socket: &mnl::Socket) -> BorrowedFd<'_> {
    // SAFETY: the socket keeps its descriptor open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// A descriptor that this process was started with, as its own from here on. `None`: there is none.
pub(crate) fn inherited(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes any number as the descriptor, and no further argument.
    let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    // SAFETY: it is open, and the caller has it from the command line, so nothing else owns it.
    open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether exec(2) closes this descriptor. `false` also if it is not open.
pub(crate) fn closes_on_exec(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes any number as the descriptor, and no further argument.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC != 0
}

/// Switches an option of linux/netlink.h on, of those that take a flag.
pub(crate) fn netlink_option_on(fd: BorrowedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is a live int and its size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Sets an option of a socket to these bytes (setsockopt(2)).
pub(crate) fn set_socket_option(
    fd: BorrowedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the kernel reads no more than the length that is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Makes a socket take only the packets that the program lets through (socket(7), SO_ATTACH_FILTER).
pub(crate) fn attach_filter(fd: BorrowedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let told = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `told` and the program that it points to are live, with their lengths. The kernel copies
    // the program, and does not write to it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const told).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// The value of a socket's option, which has `longest` bytes at most (getsockopt(2)).
pub(crate) fn socket_option(
    fd: BorrowedFd,
    level: libc::c_int,
    name: libc::c_int,
    longest: usize,
) -> io::Result<Vec<u8>> {
    let mut value = vec![0; longest];
    let mut length = longest as libc::socklen_t;
    // SAFETY: the kernel writes no more than the length that is given.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    value.truncate(length as usize);
    Ok(value)
}

/// Whether a program of classic BPF filters what the socket gets (SO_GET_FILTER: with no place for the program,
/// the kernel tells the number of its instructions).
///
/// # Errors
/// EACCES: the program is one of eBPF.
pub(crate) fn has_filter(fd: BorrowedFd) -> nix::Result<bool> {
    let mut instructions: libc::socklen_t = 0;
    // SAFETY: the kernel writes nothing but the length, since there is no place for more.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &mut instructions,
        )
    };
    Errno::result(result).map(|_| instructions > 0)
}

/// The cookie of the network namespace of a socket (SO_NETNS_COOKIE).
///
/// # Errors
/// ENOPROTOOPT before Linux 5.14.
pub(crate) fn netns_cookie(fd: BorrowedFd) -> io::Result<u64> {
    let bytes = socket_option(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, 8)?;
    Ok(bytes.try_into().map_or(0, u64::from_ne_bytes))
}

/// Whether the interface of that name joins received packets into larger ones (large receive offload), which can't be
/// sent on as they came. `false` also if the kernel can't tell.
pub(crate) fn joins_received(name: &str) -> bool {
    // linux/ethtool.h
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETH_FLAG_LRO: u32 = 1 << 15;
    const ASK: libc::Ioctl = libc::SIOCETHTOOL as libc::Ioctl;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let flags = SockFlag::SOCK_CLOEXEC;
    let Ok(socket) = socket(AddressFamily::Inet, SockType::Datagram, flags, None) else {
        return false;
    };
    // struct ethtool_value: a command, and the answer.
    let mut value = [ETHTOOL_GFLAGS, 0];
    // SAFETY: all zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return false;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the name is NUL-terminated, since it is shorter than its place, which was zeroed;
    // `value` outlives the call, and is as long as ETHTOOL_GFLAGS writes.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), ASK, &mut request) };
    asked == 0 && value[1] & ETH_FLAG_LRO != 0
}

/// Whether the kernel has started this process with other rights than its caller had (AT_SECURE). Some
/// security modules say so too when the process has gained none.
pub(crate) fn started_with_other_rights() -> bool {
    // SAFETY: getauxval takes any number, and reads a value that the kernel has left on the stack.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The signals that this process ignores, since they would end it. SIGPIPE and SIGXFSZ: the system call
/// returns an error instead, EPIPE, or EFBIG beyond RLIMIT_FSIZE (setrlimit(2)). Rust's runtime ignores
/// SIGPIPE before `main`. SIGXCPU: beyond the soft limit of RLIMIT_CPU the run is carried on. Children get the
/// caller's setting.
const IGNORED_HERE: [Signal; 3] = [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGXCPU];

/// Whether `signal` was ignored when this process was started (`nohup` and `trap '' HUP` do that).
pub(crate) fn ignored_at_exec(signal: Signal) -> bool {
    let mut noted = IGNORED_HERE.iter().zip(&IGNORED_AT_EXEC);
    match noted.find(|(told, _)| **told == signal) {
        Some((_, ignored)) => ignored.load(Ordering::Relaxed),
        None => is_ignored(signal as libc::c_int),
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: a null new action only asks for the present one, which is written to `action`, a
    // plain C structure for which all zeroes are valid.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// What the caller has set for each of [`IGNORED_HERE`]. It must be read before Rust's runtime starts.
static IGNORED_AT_EXEC: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

extern "C" fn note_ignored() {
    for (signal, ignored) in IGNORED_HERE.into_iter().zip(&IGNORED_AT_EXEC) {
        ignored.store(is_ignored(signal as libc::c_int), Ordering::Relaxed);
    }
}

// SAFETY: functions listed in .init_array are called by the C library's start-up code with the C
// calling convention, before main, on the only thread; this one makes system calls and stores to
// atomics.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = note_ignored;

/// Gives `signal` its default action back. The caller may have had SIGCHLD ignored, and then there is no
/// exit status to wait for.
pub(crate) fn set_default(signal: Signal) {
    // SAFETY: SIG_DFL runs no code of this process.
    let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
}

/// See [`IGNORED_HERE`].
pub(crate) fn ignore_here() {
    IGNORED_HERE.into_iter().for_each(ignore);
}

/// The signals that this process ignores and its caller did not.
pub(crate) fn ignored_here_alone() -> impl Iterator<Item = Signal> {
    let told = IGNORED_HERE.into_iter();
    told.filter(|signal| !ignored_at_exec(*signal))
}

/// Undoes [`ignore_here`], before this process becomes another program.
pub(crate) fn have_callers_dispositions() {
    ignored_here_alone().for_each(set_default);
}

fn ignore(signal: Signal) {
    // SAFETY: SIG_IGN runs no code of this process.
    let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) };
}

/// Ignores `signal`, and no longer blocks it: a program that this process starts and that handles the
/// signal gets it.
pub(crate) fn ignore_but_leave_to_children(signal: Signal) {
    ignore(signal);
    let _ = SigSet::from(signal).thread_unblock();
}

/// Takes one of these blocked signals, so that it has no effect. `false`: none has come.
pub(crate) fn take_pending(signals: &SigSet) -> bool {
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both are live, and nobody asks for the siginfo_t (sigtimedwait(2)).
    unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &at_once) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_database_knows_http() {
        assert_eq!(service_port("http"), Some(80));
        assert_eq!(service_port("no such service"), None);
        assert_eq!(service_port("nul\0nul"), None);
        assert_eq!(service_port("tftp"), None, "a UDP service");
        let names = service_names();
        assert!(names.contains(&"https".to_owned()) && !names.contains(&"tftp".to_owned()));
        assert!(names.iter().all(|name| service_port(name).is_some()));
    }
}
