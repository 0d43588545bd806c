//! What waiting rooms could leave on their host, and shall not. For inside a host.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::setting::Place;

/// What is left to see only by a copy of the service's socket: that it has SO_REUSEPORT, another backlog than
/// the server's 4096 (the last member of a `tcp_info` that is read here), and a program that chooses among the
/// listeners, which is removed by that. 438 is pidfd_getfd(2), 68 SO_DETACH_REUSEPORT_BPF.
const OF_THE_SOCKET: &str = "
import ctypes, os, socket, sys
libc, pid = ctypes.CDLL(None), int(sys.argv[1])
shares, may_stay = int(sys.argv[2]), int(sys.argv[3])
pidfd = os.pidfd_open(pid)
for fd in os.listdir(f'/proc/{pid}/fd'):
    try:
        if not os.readlink(f'/proc/{pid}/fd/{fd}').startswith('socket:'):
            continue
    except FileNotFoundError:
        continue # a connection that has ended
    copied = libc.syscall(438, pidfd, int(fd), 0)
    if copied < 0:
        continue
    copy = socket.socket(fileno=copied)
    if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        continue
    is_shared = copy.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    if is_shared != shares:
        print(f'SO_REUSEPORT of the service is {is_shared}')
    backlog = int.from_bytes(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)[28:32], sys.byteorder)
    if backlog != 4096:
        print(f'the backlog of the service is {backlog}')
    try:
        copy.setsockopt(socket.SOL_SOCKET, 68, 0)
        if not may_stay:
            print('a program chooses among the listeners')
    except OSError:
        pass
";

/// The kernel's cookie for this network namespace (SO_NETNS_COOKIE is 71), which the names of control groups
/// end with.
const COOKIE: &str = "
import socket, sys
print(int.from_bytes(socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder))
";

/// Where rooms could have left something.
pub struct Traces {
    cookie: String,
}

impl Traces {
    pub fn new() -> Result<Traces> {
        let cookie = python(COOKIE, &[])?;
        Ok(Traces {
            cookie: cookie.trim().to_owned(),
        })
    }

    /// Notes and control groups.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut left = notes()?;
        left.extend(self.control_groups()?);
        Ok(left)
    }

    /// Rooms, descriptors of programs, and what the service's socket has. These have gone with the run and its
    /// guard.
    pub fn sockets(
        &self,
        place: &Place,
        shares_port: bool,
        program_may_stay: bool,
    ) -> Result<Vec<String>> {
        let mut left = programs()?;
        let pids: BTreeSet<String> = ["pid", "first"]
            .iter()
            .filter_map(|file| fs::read_to_string(place.file(file)).ok())
            .map(|pid| pid.trim().to_owned())
            .filter(|pid| Path::new("/proc").join(pid).exists())
            .collect();
        let is_its = |line: &String| pids.iter().any(|pid| line.contains(&format!("pid={pid},")));
        let listeners = ss("-Hltnp")?;
        let rooms = listeners.iter().filter(|line| !is_its(line)).count();
        if rooms > 0 {
            left.push(format!("{rooms} rooms"));
        }
        let shares = if shares_port { "1" } else { "0" };
        // Until a handshake is over that was under way in a room, a program stays that moves it.
        let may_stay = program_may_stay || !ss("-Htn state syn-recv")?.is_empty();
        let may_stay = if may_stay { "1" } else { "0" };
        for pid in &pids {
            let said = python(OF_THE_SOCKET, &[pid, shares, may_stay])?;
            left.extend(said.lines().map(str::to_owned));
        }
        Ok(left)
    }

    fn control_groups(&self) -> Result<Vec<String>> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let root = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 ") && line.split(' ').nth(3) == Some("/"));
        let root = root.and_then(|line| line.split(' ').nth(4));
        let mut found = Vec::new();
        let mut folders: Vec<PathBuf> = root.into_iter().map(PathBuf::from).collect();
        while let Some(folder) = folders.pop() {
            // It may have gone meanwhile.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("syngate_") && name.ends_with(&format!(".{}", self.cookie)) {
                    found.push(format!("the control group {name}"));
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}

fn notes() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/run/syngate").into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains(".rooms-") {
            found.push(format!("the note {name}"));
        }
    }
    Ok(found)
}

/// The sockets of port 80, as `ss` lists them.
fn ss(which: &str) -> Result<Vec<String>> {
    let mut ss = Command::new("ss");
    ss.args(which.split(' ')).arg("sport = :80");
    let listed = ss.output()?;
    let said = String::from_utf8_lossy(&listed.stderr);
    ensure!(listed.status.success(), "ss: {said}");
    let listed = String::from_utf8_lossy(&listed.stdout);
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Programs, links and maps that a process has: the service would keep them.
fn programs() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        for file in fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let to = fs::read_link(file.path()).unwrap_or_default();
            if to.to_string_lossy().starts_with("anon_inode:bpf") {
                found.push(format!("{} of {}", to.display(), name(&path)));
            }
        }
    }
    Ok(found)
}

fn name(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).unwrap_or_default()
}

fn python(script: &str, arguments: &[&str]) -> Result<String> {
    let mut python = Command::new("python3");
    let output = python.args(["-c", script]).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}{said}");
    String::from_utf8(output.stdout).context("text")
}
