//! The gate: its contents in the kernel (`rules`); the backends that put them there (`backend`, `nft`, `iptables`);
//! and the guard value that opens it on each way out of a run (`gate`).
//!
//! # Why the gate can't stay shut
//!
//! 1. On nf_tables, one netlink socket of the run owns the table. The kernel destroys the table when the
//!    socket is closed, so at the end of the process, however it comes. The socket is close-on-exec, so no
//!    daemon that COMMAND starts keeps it open; children close it before execve(2), which may hang.
//!    Where the kernel has no such tables, and with iptables, a watchdog (`gate/watchdog.rs`) starts before the first
//!    change. It is a process with a session of its own. It removes the rules when its line to the run closes. The
//!    run replaces one that was killed, or that does not answer (`process/pulse.rs`).
//! 2. The kernel stops matching by itself, at the latest at `--max-closed`. On nf_tables the ports are
//!    elements of a set that expire; on iptables a rule looks for an entry of xt_recent that is not too
//!    old. A hung or stopped syngate can't prevent that, nor can the death of both processes.
//! 3. `Gate` is a guard: it opens when it is dropped, so on every early return and in every panic. Clippy
//!    denies `process::exit`, `mem::forget` and the print macros, which panic when stderr is gone. On the
//!    good path the run opens the gate explicitly, so that an error reaches the user.
//! 4. Opening has three ways: remove the ports or the rule; if that fails, the table; if that fails, close
//!    the socket, or leave it to the watchdog.
//! 5. What stays in the kernel when both processes are killed matches nothing any more. The next run
//!    sweeps it (`gate/standing.rs`): a gate is stale if no run of its id holds a lock.
//!
//! The actions add nothing that could keep it shut. Held SYNs: the policy ends the rounds at
//! `--release-timeout`, and at `--max-closed` the kernel sends no SYN into the queue any more. Redirected
//! and diverted connections: what stays through the linger stops nobody.
//!
//! Nothing that may hang holds the run up while the gate is closed:
//!
//! | what | how |
//! |---|---|
//! | COMMAND, `--ready-check`, `--listen-netns-from` | `process/child.rs` forks, and waits for execve(2) for 200 ms at most; nobody waits for the program's end but by SIGCHLD. The process that becomes COMMAND is there before the gate closes (`process/starter.rs`) |
//! | programs of iptables | killed after 5 s; the rules are listed beside the run, which reads held SYNs and decides meanwhile (`gate/iptables/listing.rs`); a signal ends the look before COMMAND, or a change of the ports, after 500 ms; where the run waits for one of them, it reads held SYNs (`process/meanwhile.rs`); they die with the run, so the watchdog need not wait for them (`gate/iptables/running.rs`). The crate `iptables`, which waits without limit, is asked only before the gate closes |
//! | another watchdog | the run does not wait until it is ready |
//! | a change that fails again and again | the run waits between two tries, and hears signals |
//! | stderr | not written to while it takes nothing: a pipe, a terminal (`tell/say.rs`); if it is a file on a server (NFS, FUSE), not before the gate is open (`tell/remote.rs`) |
//! | the services database, files of the command line, the lock file, command lines of others in /proc | read before the gate closes, or once it is open |
//! | the report | written once the gate is open; a pipe without a reader is not waited for |
//!
//! From /proc the run reads only what the kernel tells without a lock of the process's memory (stat, status,
//! cgroup, the links in fd), so one that hangs in the kernel does not hold it up. A namespace file for
//! `--listen-netns` on a server is refused (`tell/remote.rs`). There are no other services that the run would
//! talk to: no DNS, no syslog, no sd_notify; the journal is stderr.
//!
//! The order of drops matters, and the fields of `Run` have it. The action goes first, so that held SYNs go on and
//! are not dropped with the rules. Then the gate goes. What was prepared, such as a standby, goes last, when no rule
//! steers connections to it any more.
//!
//! A held SYN must not pass the host's firewall either. The verdict ACCEPT, and the bypass of a queue
//! without a reader, end the base chain of the rule that queued it. So no rule may come behind that one. On nf_tables
//! the chain has no others. With iptables the jump is the last rule of a table that few use
//! (`gate/iptables/compile.rs`, `places`). `gate/iptables/around.rs` reads what stands before and behind the jump;
//! where SYNs would pass before they are queued, they are dropped instead.
//!
//! What a redirect would lead past is `gate/by_port.rs`'s decision, before anything is gated. Where the gate stands
//! is `run/place.rs`'s decision, from what `gate/firewall.rs` has found. The input hook is the default: there the
//! routing is decided, ports and addresses are translated, and SYNs that the host's firewall refuses are not stopped
//! twice. Prerouting before connection tracking knows none of that, but no rule has used the SYN up. So a run takes
//! it for dropped SYNs only, and only where such rules are. It never takes it where NAT may send packets elsewhere,
//! because it must not gate more than the input hook would. It gates no less either: on nf_tables a second chain in
//! the input hook stops what reaches this host by other ways (a VRF, a local route of another table).
//!
//! Where nft has no `queue`, `run/backend.rs` takes iptables-legacy for SYNs that are held: what nft lists of
//! them otherwise can't be loaded again.
//!
//! That the gate does not open early is the other half. Where others can remove its rules
//! (`Backend::exposed`), `decide` asks for a look again and again (`Task::Guard`), and closes again.
//!
//! # How to add a backend
//!
//! 1. A folder below `gate/`, with a pure `compile(&Rules)` and a type that implements `Backend`; a `Kind`
//!    in `gate/kinds.rs`, and its arms in `gate/backends.rs`. `install` and `set_ports` are atomic: they
//!    are done, or nothing has changed. `shut` reads back from the kernel, not from memory. `remove` can be
//!    called again.
//! 2. What it has put into the kernel must go when the process goes. Where the kernel does not do that by
//!    itself: `Watchdog::start` before the first change, and an arm in `backends::erase` for the watchdog,
//!    the next run and `clear`; a deadline that the kernel keeps; `exposed` and `intact` where others can
//!    remove the rules. `gate/standing.rs` finds it for `status`.
//! 3. Run it through the tests: `gate/tests.rs` shows what any backend has to do, and `tests/harness` has a
//!    `Backend` on which the whole suite runs (`SYNGATE_TEST_BACKEND`).

pub(crate) mod backend;
pub(crate) mod backends;
pub(crate) mod by_port;
pub(crate) mod consumers;
pub(crate) mod counted;
pub(crate) mod counts;
pub(crate) mod door;
pub(crate) mod firewall;
pub(crate) mod found;
#[expect(
    clippy::module_inception,
    reason = "the folder is about the gate, this file is it"
)]
pub(crate) mod gate;
pub(crate) mod here;
pub(crate) mod iptables;
pub(crate) mod kinds;
pub(crate) mod nat;
pub(crate) mod nft;
pub(crate) mod rooms;
pub(crate) mod rules;
pub(crate) mod settings;
pub(crate) mod standing;
pub(crate) mod watchdog;
pub(crate) mod who;
