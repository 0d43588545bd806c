//! Pid 1 of a host: sets it up, reaps orphans, and takes everything along
//! when its stdin closes.

use std::{
    fs,
    io::{Read, stdin},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, id},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::Signal,
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{say, signals};

#[derive(clap::Args)]
pub struct Args {
    /// The host's directory, to be removed at the end
    dir: PathBuf,
}

/// Becomes the init of the namespaces that `unshare` has just made.
pub fn run(args: &Args) -> Result<()> {
    // Elsewhere, what follows would be done to the machine itself.
    ensure!(id() == 1, "testkit init is for Host, not for you");
    let children = signals([Signal::SIGCHLD])?;
    // The old /proc still tells our pid as the test sees it.
    let pid = fs::read_link("/proc/self").context("/proc/self")?;
    set_up()?;
    say(&format!("ready {}", pid.display()))?;
    reap_until_stdin_closes(&children)?;
    unmount_below(&args.dir)?;
    // The test may have been killed: then nobody else would do it.
    fs::remove_dir_all(&args.dir).context("the host's directory")
}

/// What a test has mounted in its directory may be a part of the machine, which must not be removed
/// with it.
fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("mountinfo")?;
    // The fifth field, the youngest last (proc(5)).
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for point in points
        .rev()
        .filter(|point| Path::new(point).starts_with(dir))
    {
        umount2(point, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {point}"))?;
    }
    Ok(())
}

fn set_up() -> Result<()> {
    remount()?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    ensure!(status.success(), "ip link set lo up: {status}");
    // A load client with one address needs more ports than the usual 28,000.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 65535")
        .context("ip_local_port_range")
}

fn remount() -> Result<()> {
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).context("mounts to private")?;
    mount(
        Some("run"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("/run")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("/proc")?;
    // Debian's start-stop-daemon and init scripts expect it.
    fs::create_dir("/run/lock").context("/run/lock")
}

fn reap_until_stdin_closes(children: &SignalFd) -> Result<()> {
    let stdin = stdin();
    loop {
        let mut fds =
            [stdin.as_fd(), children.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let [stdin_closed, child_ended] = fds.map(|fd| fd.any() == Some(true));
        if stdin_closed && stdin.lock().read(&mut [0])? == 0 {
            return Ok(());
        }
        if child_ended {
            children.read_signal()?;
            reap();
        }
    }
}

fn reap() {
    let anyone = Pid::from_raw(-1);
    while let Ok(status) = waitpid(anyone, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
