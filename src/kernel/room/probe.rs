//! Tries whether the kernel moves connections as it should, in a network namespace of its own.
//!
//! A version tells little, since distributions take single changes back. Before 6.1.175, 6.6.140, 6.12.86, 6.18.27
//! and 7.0.4 the kernel wakes no process when it moves a queue, and may use memory that it has freed
//! (CVE-2026-46015). Such a kernel is known by the service that stays asleep.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::copy;
use super::programs::choose_from;
use super::reuseport::{Bindings, Newcomers, programs};
use super::socket::trial;
use crate::kernel::bpf::{Kind, Program};
use crate::kernel::maps::Listeners;
use crate::kernel::netlink::{Bus, Netlink};
use crate::kernel::sockets::netns;
use crate::words::fault;

/// How long the service may sleep on. The kernel wakes it as it moves the queue, in some µs.
const WAKES_WITHIN: Duration = Duration::from_millis(250);
const NO_MIGRATION: &str = "this kernel does not move connections between listeners (Linux 5.14)";
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);

/// # Errors
/// What this kernel lacks, or this process may not do.
pub(crate) fn moves_connections() -> Result<()> {
    // The setting has come with the migration. Debian's 5.10 has it as well, and moves nothing.
    ensure!(is_new_enough(), NO_MIGRATION);
    let tried = std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().spawn_scoped(threads, || {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("a network namespace to try it in needs CAP_SYS_ADMIN")?;
            bring_loopback_up().context("a network namespace to try it in has no network")?;
            try_out()
        })?;
        let ended = thread.join();
        Ok::<_, io::Error>(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    tried.context("no thread to try it in")?
}

/// Whether a service that does not set SO_REUSEPORT can be given that as it binds: loads the program, and links
/// it to nothing.
///
/// # Errors
/// What this kernel lacks, or this process may not do.
pub(crate) fn lends() -> Result<()> {
    const ANY_PORT: u16 = 1;
    let newcomers = Newcomers::new(&[ANY_PORT])?;
    programs(
        &[ANY_PORT],
        netns::identity(),
        &Bindings::new()?,
        &newcomers,
    )
    .map(drop)
}

fn try_out() -> Result<()> {
    let (room, address) = trial(None)?;
    room.open(1)?;
    let _client = connected(address)?;
    let (service, _) = trial(Some(address))?;
    service.open(1)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let sleeps = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
    epoll.add(service.as_fd(), sleeps)?;
    let array = Listeners::new(1)?;
    array.put(0, service.as_fd())?;
    let program = choose_from(array.number(), 1);
    let program = Program::load(Kind::SelectOrMigrate, "gate_probe", &program)?;
    program.choose_for_group_of(room.as_fd())?;
    room.shut();
    let moved = copy::accept_queue(&service) == Some(1) && !fault::is("moves-nobody");
    ensure!(moved, NO_MIGRATION);
    let mut events = [EpollEvent::empty()];
    let within = EpollTimeout::try_from(WAKES_WITHIN)?;
    let woken = epoll.wait(&mut events, within)? == 1 && !fault::is("wakes-nobody");
    ensure!(
        woken,
        "this kernel does not wake a service when it moves connections to it (CVE-2026-46015): a newer \
         kernel of the same series does"
    );
    Ok(())
}

fn connected(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, CONNECTED_WITHIN)
}

fn bring_loopback_up() -> Result<()> {
    // The first interface of each network namespace.
    const LOOPBACK: i32 = 1;
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    // struct ifinfomsg, linux/rtnetlink.h: family and type are unspecified; flags, and which to change.
    let body = [&[0; 4][..], &LOOPBACK.to_ne_bytes(), &up, &up].concat();
    let acknowledged = libc::NLM_F_ACK as u16;
    Netlink::open(Bus::Route)?.request(libc::RTM_NEWLINK, acknowledged, &body, |_, _| ())?;
    Ok(())
}

/// Whether the kernel has what moves connections (Linux 5.14). It may be refused all the same.
pub(crate) fn is_new_enough() -> bool {
    std::path::Path::new("/proc/sys/net/ipv4/tcp_migrate_req").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_moves_connections_or_says_why_not() {
        match moves_connections() {
            Ok(()) => (),
            Err(error) => {
                let text = format!("{error:#}");
                let known = ["kernel", "needs CAP_SYS_ADMIN"];
                assert!(known.iter().any(|why| text.contains(why)), "{text}");
            }
        }
    }
}
