//! Programs that hang while the gate is closed: it opens when it has to all the same.

mod harness;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::latch::Latch;
use harness::{
    Backend, SOON, SYNGATE, call, lease, ms, noted, python, queues, wait_open, wait_shut, words,
};
use nix::sys::signal::Signal;
use testkit::services::Serve;
use testkit::{Host, Load, Pair, Running, RunningLoad, SERVER, slow, wait_until};

/// How long a gate may stay shut that has to open.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// A pair with a server on port 80.
fn served() -> (Pair, Running) {
    let pair = Pair::new().unwrap();
    let server = Serve::on("0.0.0.0:80").start(&pair.server).unwrap();
    (pair, server)
}

/// Whether a SYN is answered at once; it is given up before it is sent again.
fn connects(pair: &Pair, port: u16) -> bool {
    let connect = format!("timeout 0.3 bash -c 'exec 3<>/dev/tcp/{SERVER}/{port}'");
    pair.client.sh(&connect).unwrap().ok()
}

#[track_caller]
fn opens(pair: &Pair, port: u16) {
    wait_until(OPEN_WITHIN, "an open port", || connects(pair, port)).unwrap();
}

/// Ends a run that may still wait for something.
fn end(mut run: Running) {
    let _ = run.signal(Signal::SIGKILL);
    let _ = run.wait();
}

/// A server that takes the mount, and then answers nothing.
#[test]
fn a_namespace_file_on_a_server_is_refused() {
    let host = Host::new().unwrap();
    let far = host.dir().join("far");
    std::fs::create_dir(&far).unwrap();
    let mount = format!(
        "import ctypes, os, time
fd = os.open('/dev/fuse', os.O_RDWR); libc = ctypes.CDLL(None, use_errno=True)
options = f'fd={{fd}},rootmode=40000,user_id=0,group_id=0'.encode()
assert libc.mount(b'far', b'{}', b'fuse.far', 0, options) == 0, ctypes.get_errno()
print('up', flush=True); time.sleep(60)",
        far.display()
    );
    let _server = python(&host, &mount);
    let link = host.dir().join("link");
    std::os::unix::fs::symlink(far.join("ns"), &link).unwrap();
    for path in [far.join("ns"), link] {
        let (path, print) = (path.display(), format!("echo {}", path.display()));
        for options in [
            vec!["--listen-netns".to_owned(), path.to_string()],
            vec!["--listen-netns-from".to_owned(), print],
        ] {
            let outcome = call(&host, words("--port 80")).args(options).run(["true"]);
            assert_eq!(outcome.code, 125, "{outcome:?}");
            let told = outcome
                .stderr
                .contains("/far is on a server, which may not answer");
            assert!(told, "{outcome:?}");
        }
    }
}

/// The programs of iptables, with a switch for each kind of them (`save`, `restore`) that has it hang.
struct Programs {
    dir: PathBuf,
}

impl Programs {
    fn of(host: &Host, variants: &str) -> Programs {
        let dir = host.dir().join("programs");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        for (kind, variant) in ["save", "restore"].iter().flat_map(|kind| {
            let variants = variants.split(',');
            variants.map(move |variant| (kind, variant))
        }) {
            for family in ["iptables", "ip6tables"] {
                let name = format!("{family}-{variant}-{kind}");
                let here = dir.display();
                let script = format!(
                    "#!/bin/sh\n[ ! -e {here}/{kind}.hangs ] || >{here}/{kind}.tried\n\
                     while [ -e {here}/{kind}.hangs ]; do sleep 0.02; done\n\
                     exec /usr/sbin/{name} \"$@\"\n"
                );
                let file = dir.join(&name);
                std::fs::write(&file, script).unwrap();
                std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
            }
        }
        Programs { dir }
    }

    fn path(&self) -> String {
        format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap())
    }

    fn hang(&self, kind: &str) -> PathBuf {
        let switch = self.dir.join(format!("{kind}.hangs"));
        std::fs::write(&switch, "").unwrap();
        switch
    }

    fn go_on(&self, kind: &str) {
        std::fs::remove_file(self.dir.join(format!("{kind}.hangs"))).unwrap();
    }

    #[track_caller]
    fn wait_tried(&self, kind: &str) {
        let tried = self.dir.join(format!("{kind}.tried"));
        wait_until(SOON, "a program that hangs", || tried.exists()).unwrap();
    }
}

const IPTABLES: [(Backend, &str); 2] = [
    (Backend::IptablesNft, "nft"),
    (Backend::IptablesLegacy, "legacy"),
];

/// iptables-save hangs, with which the run looks at its rules again and again.
#[test]
fn a_look_at_the_rules() {
    for (backend, variant) in IPTABLES {
        let (pair, _server) = served();
        let host = &pair.server;
        for signal in [Signal::SIGUSR1, Signal::SIGTERM] {
            let programs = Programs::of(host, variant);
            let latch = Latch::new(host, signal.as_str());
            let call = call(host, words("--port 80 --max-closed 5m --drain 0"))
                .on(backend)
                .env("PATH", &programs.path());
            let mut run = call.start(["sh".to_owned(), "-c".to_owned(), latch.hold()]);
            latch.wait();
            wait_shut(host, &[80]);
            programs.hang("save");
            // iptables-nft looks when somebody has changed nf_tables.
            host.must(["nft", "add", "table", "ip", signal.as_str()]);
            programs.wait_tried("save");
            assert!(!connects(&pair, 80), "it is closed");
            run.signal(signal).unwrap();
            opens(&pair, 80);
            end(run);
        }
    }
}

/// The same when COMMAND ends: the port is ready, and nothing but the look keeps it shut.
#[test]
fn a_look_at_the_rules_when_command_ends() {
    for (backend, variant) in IPTABLES {
        let (pair, _server) = served();
        let host = &pair.server;
        let programs = Programs::of(host, variant);
        let mut latch = Latch::new(host, "latch");
        let call = call(host, words("--port 80 --max-closed 5m --drain 0"))
            .on(backend)
            .env("PATH", &programs.path());
        let run = call.start(["sh".to_owned(), "-c".to_owned(), latch.hold()]);
        latch.wait();
        wait_shut(host, &[80]);
        programs.hang("save");
        host.must(["nft", "add", "table", "ip", "other"]);
        programs.wait_tried("save");
        assert!(!connects(&pair, 80), "it is closed");
        latch.release();
        opens(&pair, 80);
        end(run);
    }
}

/// Meanwhile SYNs are held: the run reads each of them at once, and lets all go as soon as COMMAND has ended.
#[test]
fn a_look_at_the_rules_while_syns_are_held() {
    for (backend, variant) in IPTABLES {
        if backend.to_hold() != backend {
            continue;
        }
        let (pair, _server) = served();
        let host = &pair.server;
        let programs = Programs::of(host, variant);
        let mut latch = Latch::new(host, "held");
        let call = call(
            host,
            words("--port 80 --max-closed 5m --drain 0 --syn hold"),
        )
        .on(backend)
        .env("PATH", &programs.path());
        let run = call.start(["sh".to_owned(), "-c".to_owned(), latch.hold()]);
        latch.wait();
        wait_shut(host, &[80]);
        programs.hang("save");
        host.must(["nft", "add", "table", "ip", "other"]);
        programs.wait_tried("save");
        let clients = ten_whose_syns_are_read(&pair, 80);
        latch.release();
        opens(&pair, 80);
        programs.go_on("save");
        let outcome = call.end(run);
        let clients = clients.finish().unwrap();
        assert_eq!((clients.ok, clients.failed()), (10, 0), "{clients}");
        let told = ms(&outcome.report["hold"], "longest_ms");
        let most = told + 50.0 * f64::from(slow());
        assert!(clients.connect.max_ms <= most, "{clients}: {outcome:?}");
    }
}

/// Bytes that the kernel has sent over netlink to programs of the host which have not read them
/// (netlink_native_seq_show()).
fn unread(host: &Host) -> u64 {
    let sockets = host.must(["cat", "/proc/net/netlink"]);
    let unread = sockets.lines().skip(1).map(|socket| {
        let unread = socket.split_ascii_whitespace().nth(4);
        unread.unwrap().parse::<u64>().unwrap()
    });
    unread.sum()
}

/// Ten clients of the port. The run has read their SYNs, and holds them.
#[track_caller]
fn ten_whose_syns_are_read(pair: &Pair, port: u16) -> RunningLoad {
    let host = &pair.server;
    let clients = Load::to(format!("{SERVER}:{port}")).rate(100).timeout(SOON);
    let clients = clients.duration(Duration::from_millis(100));
    let clients = clients.start(&pair.client).unwrap();
    let waiting = || queues(host).split_ascii_whitespace().nth(2) == Some("10");
    wait_until(SOON, "ten SYNs", waiting).unwrap();
    wait_until(OPEN_WITHIN, "SYNs that are read", || unread(host) == 0).unwrap();
    clients
}

/// iptables-restore hangs, with which the run opens one port of two.
#[test]
fn a_change_of_the_ports() {
    for (backend, variant) in IPTABLES {
        for signal in [Signal::SIGUSR1, Signal::SIGKILL] {
            let (pair, _server) = served();
            let host = &pair.server;
            let programs = Programs::of(host, variant);
            let other = host.dir().join("other.pid");
            host.must(Serve::on("0.0.0.0:82").daemon_argv(&other).unwrap());
            let call = call(host, words("--port 80,82 --max-closed 5m --drain 0"))
                .args(words("--ready-timeout 5m"))
                .on(backend)
                .env("PATH", &programs.path());
            let hangs = programs.dir.join("restore.hangs");
            let script = format!("kill $(cat {}); >{}", other.display(), hangs.display());
            let mut run = call.start(["sh".to_owned(), "-c".to_owned(), script]);
            programs.wait_tried("restore");
            assert!(!connects(&pair, 80), "it is closed");
            run.signal(signal).unwrap();
            opens(&pair, 80);
            end(run);
        }
    }
}

/// The same with held SYNs: the run reads them meanwhile.
#[test]
fn held_syns_are_read_beside_a_change_of_the_ports() {
    let (pair, _server) = served();
    let host = &pair.server;
    let programs = Programs::of(host, "legacy");
    let other = host.dir().join("other.pid");
    host.must(Serve::on("0.0.0.0:82").daemon_argv(&other).unwrap());
    let call = call(
        host,
        words("--port 80,82 --syn hold --max-closed 5m --drain 0"),
    )
    .args(words("--ready-timeout 5m"))
    .on(Backend::IptablesLegacy)
    .env("PATH", &programs.path());
    let hangs = programs.dir.join("restore.hangs");
    let script = format!("kill $(cat {}); >{}", other.display(), hangs.display());
    let mut run = call.start(["sh".to_owned(), "-c".to_owned(), script]);
    programs.wait_tried("restore");
    let _clients = ten_whose_syns_are_read(&pair, 82);
    run.signal(Signal::SIGUSR1).unwrap();
    opens(&pair, 80);
    end(run);
}

/// Without xt_recent only iptables-restore opens a port before the deadline, and it hangs: the rules end by
/// themselves with their date. The run leaves the rest to its watchdog.
#[test]
fn the_opening_of_a_gate_by_date() {
    const MAX_CLOSED: Duration = Duration::from_secs(3);
    let (pair, _server) = served();
    let host = &pair.server;
    let programs = Programs::of(host, "legacy");
    let mut latch = Latch::new(host, "by-date");
    let options = "--port 80 --max-closed 3s --drain 0 --xtables-wait 1s";
    let call = call(host, words(options))
        .on(Backend::IptablesLegacy)
        .fault("no-xt-recent")
        .env("PATH", &programs.path());
    let mut run = call.start(["sh".to_owned(), "-c".to_owned(), latch.hold()]);
    latch.wait();
    wait_shut(host, &[80]);
    programs.hang("restore");
    latch.release();
    programs.wait_tried("restore");
    let open = || connects(&pair, 80);
    wait_until(MAX_CLOSED + OPEN_WITHIN, "an open port", open).unwrap();
    wait_until(SOON, "the end of the run", || !run.is_running()).unwrap();
    programs.go_on("restore");
    wait_open(host, SOON);
    let outcome = call.end(run);
    assert_eq!(outcome.code, 124, "{outcome:?}");
    assert_eq!(outcome.report["outcome"], "open_failed", "{outcome:?}");
    assert!(outcome.stderr.contains("hangs"), "{outcome:?}");
}

/// A copy of a program, for a lease.
fn copy(host: &Host, program: &str, name: &str) -> PathBuf {
    let file = host.write(name, std::fs::read(program).unwrap());
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    file
}

/// The shell hangs that has to run the check.
#[test]
fn a_ready_check() {
    for signal in [Signal::SIGUSR1, Signal::SIGTERM] {
        let (pair, _server) = served();
        let host = &pair.server;
        let shell = copy(host, "/bin/sh", "sh");
        let bind = format!("mount --bind {} /bin/sh; exec \"$@\"", shell.display());
        let call = call(host, words("--port 80 --max-closed 5m --drain 0"))
            .args(["--ready-timeout", "5m", "--ready-check", "true"])
            .by(["unshare", "-m", "bash", "-c", &bind, "bash"]);
        let mut lease = lease(host, &shell);
        let mut run = call.start(["true"]);
        wait_until(SOON, "execve(2) of the shell", || noted(&shell, "tried")).unwrap();
        assert!(!connects(&pair, 80), "it is closed");
        run.signal(signal).unwrap();
        opens(&pair, 80);
        end(run);
        lease.signal(Signal::SIGKILL).unwrap();
    }
}

/// `syngate clear` can't look at the rules, and tells the run to open. It asks all programs at once, and so
/// waits no longer than for one.
#[test]
fn a_clear() {
    const ONE_HANGS: Duration = Duration::from_secs(5);
    let (pair, _server) = served();
    let host = &pair.server;
    Backend::IptablesLegacy.prime(host);
    let programs = Programs::of(host, "nft,legacy");
    let latch = Latch::new(host, "cleared");
    let call = call(host, words("--port 80 --max-closed 5m --drain 0"))
        .on(Backend::IptablesNft)
        .env("PATH", &programs.path());
    let run = call.start(["sh".to_owned(), "-c".to_owned(), latch.hold()]);
    latch.wait();
    wait_shut(host, &[80]);
    programs.hang("save");
    let began = Instant::now();
    let mut clear = host.command(SYNGATE);
    let cleared = clear
        .arg("clear")
        .env("PATH", programs.path())
        .output()
        .unwrap();
    assert_eq!(cleared.status.code(), Some(1), "it can't see: {cleared:?}");
    let said = String::from_utf8_lossy(&cleared.stderr);
    for variant in ["nft", "legacy"] {
        assert!(
            said.contains(&format!("not seen: iptables-{variant}: ")),
            "{said}"
        );
    }
    assert!(began.elapsed() < ONE_HANGS * 2, "{:?}", began.elapsed());
    opens(&pair, 80);
    end(run);
}

/// What holds programs up here takes a real root.
mod of_root {
    use super::*;

    /// The watchdog was killed, and the kernel does not execute another one: somebody has to allow that first
    /// (fanotify(7)), and does not answer.
    #[test]
    fn another_watchdog() {
        const NOBODY_ALLOWS: &str = r#"
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
CLASS_CONTENT, MARK_ADD, OPEN_EXEC_PERM, AT_FDCWD = 4, 1, 0x40000, -100
group = libc.fanotify_init(CLASS_CONTENT, os.O_RDONLY)
mask = ctypes.c_uint64(OPEN_EXEC_PERM)
assert libc.fanotify_mark(group, MARK_ADD, mask, AT_FDCWD, b"FILE") == 0, ctypes.get_errno()
print("up", flush=True)
os.read(group, 24)
open("FILE.tried", "w").close()
time.sleep(1000)
"#;
        let (pair, _server) = served();
        let host = &pair.server;
        let binary = std::env::var("SYNGATE_TEST_BINARY").unwrap_or(SYNGATE.to_owned());
        let syngate = copy(host, &binary, "syngate");
        let latch = Latch::new(host, "watchdog");
        let call = call(host, words("--port 80 --max-closed 5m --drain 0")).on(Backend::NftPlain);
        let mut words = call.argv(["sh".to_owned(), "-c".to_owned(), latch.hold()]);
        words[0] = syngate.clone().into();
        let mut command = host.command(&words[0]);
        command.args(&words[1..]).envs(call.variables());
        let mut run = host.spawn(command.stdin(Stdio::null())).unwrap();
        latch.wait();
        let nobody = python(
            host,
            &NOBODY_ALLOWS.replace("FILE", syngate.to_str().unwrap()),
        );
        host.must(["pkill", "-KILL", "-x", "gate-watchdog"]);
        wait_until(SOON, "another watchdog", || noted(&syngate, "tried")).unwrap();
        assert!(!connects(&pair, 80), "it is closed");
        run.signal(Signal::SIGUSR1).unwrap();
        opens(&pair, 80);
        end(run);
        drop(nobody);
    }

    /// stderr is a file on a server that is gone.
    #[test]
    fn stderr() {
        let (pair, _server) = served();
        let host = &pair.server;
        let mount = host.dir().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let gone = host.dir().join("gone");
        let server = SERVER_OF_FILES
            .replace("MOUNT", mount.to_str().unwrap())
            .replace("GONE", gone.to_str().unwrap());
        let server = python(host, &server);
        let to = format!("exec \"$@\" 2>>{}/file", mount.display());
        let call = call(
            host,
            words("-v --port 80 --max-closed 5m --drain 0 --settle 0"),
        )
        .by(["sh", "-c", &to, "sh"]);
        let mut latch = Latch::new(host, "stderr");
        let script = format!("{}; >{}", latch.hold(), gone.display());
        let run = call.start(["sh".to_owned(), "-c".to_owned(), script]);
        latch.wait();
        assert!(!connects(&pair, 80), "it is closed");
        latch.release();
        opens(&pair, 80);
        // Until then not even SIGKILL ends a process that writes.
        drop(server);
        end(run);
    }

    /// Serves one file by FUSE, which takes all that is written to it until a file says that the server is gone.
    const SERVER_OF_FILES: &str = r#"
import ctypes, os, struct, time
fd = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd
mounted = ctypes.CDLL(None, use_errno=True).mount(b"file", b"MOUNT", b"fuse", 0, options)
assert mounted == 0, ctypes.get_errno()
print("up", flush=True)
LOOKUP, GETATTR, SETATTR, OPEN, WRITE, RELEASE, FLUSH, INIT, FORGET = 1, 3, 4, 14, 16, 18, 25, 26, 2
def attr(inode):
    mode = 0o40755 if inode == 1 else 0o100644
    return struct.pack("<6Q10I", inode, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
while True:
    request = os.read(fd, 1 << 20)
    _, code, unique, inode = struct.unpack("<IIQQ", request[:24])
    error, answer = 0, b""
    if code == INIT:
        answer = struct.pack("<IIIIHHIII28x", 7, 23, 0, 0, 1, 1, 65536, 1, 0)[:24]
    elif code == LOOKUP:
        answer = struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + attr(2)
    elif code in (GETATTR, SETATTR):
        answer = struct.pack("<QII", 3600, 0, 0) + attr(inode)
    elif code == OPEN:
        answer = struct.pack("<QII", 1, 1, 0)
    elif code == WRITE:
        if os.path.exists("GONE"):
            time.sleep(10)
            break
        answer = struct.pack("<II", struct.unpack("<I", request[56:60])[0], 0)
    elif code == FORGET:
        continue
    elif code not in (RELEASE, FLUSH):
        error = -38
    os.write(fd, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
"#;
}
