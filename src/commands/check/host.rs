//! What this host can do: looked at, tried without a trace, and never guessed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::unistd::geteuid;
use serde::Serialize;

use crate::gate::iptables::holdings::{self, VariantHoldings};
use crate::gate::iptables::present::default_variant;
use crate::gate::kinds::{Choice, Kind, Variant};
use crate::gate::nft::{probe, published};
use crate::kernel::caps;
use crate::kernel::netlink::Refusal;
use crate::kernel::sockets::netstat;
use crate::words::family::Family;
use crate::words::lacking::Lacking;
use crate::words::run_id::new_id;

/// The settings of this network namespace that matter, below /proc/sys.
const SYSCTLS: [&str; 7] = [
    "net.core.somaxconn",
    "net.ipv4.ip_forward",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_migrate_req",
    "net.ipv4.tcp_syn_linear_timeouts",
    "net.ipv4.tcp_syncookies",
];
/// The counts of its TCP that matter.
const COUNTS: [&str; 3] = ["ListenDrops", "ListenOverflows", "SyncookiesSent"];

/// Whether something is there, or works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub enum Answer {
    /// It was tried.
    Yes,
    /// And why.
    No(String),
    /// It can't be told, and why.
    Unknown(String),
}

/// What is known of a host.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The privileges of this process.
    pub privileges: Privileges,
    /// A table.
    pub nf_tables: Answer,
    /// Sets whose elements expire, in a whole gate.
    pub timed_sets: Answer,
    /// Tables that go with the socket that made them.
    pub owner_tables: Answer,
    /// A gate in the prerouting hook, for `--hook prerouting`.
    pub prerouting: Answer,
    /// Copies of packets to a neighbour, for `--syn divert`.
    pub nft_dup: Answer,
    /// Queues that a program can read.
    pub nfqueue: Answer,
    /// nft's own expression that sends packets there.
    pub nft_queue: Answer,
    /// The target of x_tables that does the same, in an nft rule.
    pub nft_nfqueue_target: Answer,
    /// The variants of iptables that are installed.
    pub iptables: Vec<Iptables>,
    /// What an iptables gate opens by, if all of syngate is killed.
    pub xt_recent: Answer,
    /// Listing the host's sockets.
    pub sock_diag: Answer,
    /// The virtual TCP services of IPVS; null if it is not there.
    pub ipvs: Option<Vec<String>>,
    /// Connection tracking; null if it is not there.
    pub conntrack: Option<Conntrack>,
    /// Settings; null where this kernel has no such.
    pub sysctls: BTreeMap<&'static str, Option<u64>>,
    /// Counts since the network namespace was made; null where this kernel has no such.
    pub counts: BTreeMap<&'static str, Option<u64>>,
    /// Ports that are sent elsewhere before the input hook.
    pub published: Vec<Published>,
    /// Why some may be missing.
    pub published_unseen: Option<String>,
    /// The IP versions for which rules of others do NAT; null if that can't be told.
    pub nat: Option<Vec<Family>>,
}

/// The privileges of this process.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Privileges {
    /// The user.
    pub uid: u32,
    /// CAP_NET_ADMIN.
    pub net_admin: bool,
    /// CAP_SYS_PTRACE: other users' processes can be looked into.
    pub sys_ptrace: bool,
    /// It is the root of the host, not of a user namespace.
    pub host_root: bool,
}

/// A variant of iptables.
#[derive(Debug, Clone, Serialize)]
pub struct Iptables {
    /// `iptables-nft`, `iptables-legacy`.
    pub variant: &'static str,
    /// Plain `iptables` is this one.
    pub default: bool,
    /// ip6tables is installed, too.
    pub ipv6: bool,
    /// How many rules it holds; null if that can't be told.
    pub rules: Option<usize>,
    /// Why.
    pub unseen: Option<String>,
}

/// How full it is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Conntrack {
    /// Entries.
    pub count: u64,
    /// And how many there may be.
    pub max: u64,
}

/// A port that is sent elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Published {
    /// The port.
    pub port: u16,
    /// Table and chain of the rule.
    pub by: String,
}

/// Which backend `--backend auto` takes here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its name.
    pub name: &'static str,
    /// Why it is not the first choice; null if it is.
    pub because: Option<String>,
}

impl Answer {
    /// Whether it is a yes.
    pub fn is_yes(&self) -> bool {
        *self == Answer::Yes
    }
}

impl From<Result<(), Refusal>> for Answer {
    fn from(asked: Result<(), Refusal>) -> Answer {
        let Err(refusal) = asked else {
            return Answer::Yes;
        };
        match refusal.errno {
            Errno::EPERM | Errno::EACCES => Answer::Unknown(NOT_PRIVILEGED.to_owned()),
            Errno::ENOENT => Answer::No("not in this kernel".to_owned()),
            Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
                Answer::No(format!("this kernel refuses it: {refusal}"))
            }
            _ => Answer::Unknown(format!("the kernel says: {refusal}")),
        }
    }
}

const NOT_PRIVILEGED: &str = "asking needs CAP_NET_ADMIN";

impl Host {
    /// Looks. `sock_diag` was tried by whoever listed the sockets.
    pub fn look(sock_diag: Answer) -> Host {
        let asked = NfTables::ask();
        let holdings = holdings::take(caps::net_admin());
        let default = default_variant();
        let (published, published_unseen) = published(&holdings);
        Host {
            kernel: kernel(),
            privileges: Privileges::mine(),
            nf_tables: asked.table,
            timed_sets: asked.gate,
            owner_tables: asked.owner,
            prerouting: asked.prerouting,
            nft_dup: asked.dup,
            nfqueue: asked.nfqueue,
            nft_queue: asked.queue,
            nft_nfqueue_target: asked.nfqueue_target,
            iptables: holdings
                .iter()
                .map(|i| Iptables::counted(i, default))
                .collect(),
            xt_recent: asked.recent,
            sock_diag,
            ipvs: ipvs(),
            conntrack: conntrack(),
            sysctls: SYSCTLS
                .into_iter()
                .map(|name| (name, sysctl(name)))
                .collect(),
            counts: COUNTS
                .into_iter()
                .map(|name| (name, netstat(name)))
                .collect(),
            published,
            published_unseen,
            nat: nat(&holdings),
        }
    }

    /// A setting, if this kernel has it.
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctls.get(name).copied().flatten()
    }

    /// A count.
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().flatten().unwrap_or(0)
    }

    /// Which backend `--backend auto` takes here, or in one line why none. Pure.
    pub fn backend(&self) -> Result<Backend, String> {
        if let Answer::No(why) | Answer::Unknown(why) = &self.sock_diag {
            return Err(format!("the service's listeners can't be seen: {why}"));
        }
        if !self.privileges.net_admin {
            return Err(caps::NEEDED.to_owned());
        }
        let lacking = match (&self.nf_tables, &self.timed_sets) {
            (Answer::Yes, Answer::Yes) => None,
            (Answer::Unknown(why), _) if why == NOT_PRIVILEGED => {
                return Err(format!(
                    "{}; what this process has is over another user namespace",
                    caps::NEEDED
                ));
            }
            (Answer::Unknown(why), _) | (Answer::Yes, Answer::Unknown(why)) => {
                return Err(format!("nf_tables: {why}"));
            }
            (Answer::No(why), _) | (_, Answer::No(why)) => Some(why),
        };
        let Some(why) = lacking else {
            let name = Kind::Nft.name();
            return Ok(Backend {
                name,
                because: None,
            });
        };
        let mut others = Choice::Auto
            .kinds()
            .into_iter()
            .filter_map(|kind| self.installed(kind));
        match others.next() {
            Some(name) => Ok(Backend {
                name,
                because: Some(format!("nft does not work here ({why})")),
            }),
            None => Err(format!(
                "nft does not work here ({why}), and no iptables is installed"
            )),
        }
    }

    /// The variant's name, if it is installed and has what it stands on.
    fn installed(&self, kind: Kind) -> Option<&'static str> {
        let Kind::Iptables(variant) = kind else {
            return None;
        };
        let found = self.iptables.iter().find(|installed| match variant {
            Variant::Default => installed.default,
            known => installed.variant == known.name(),
        })?;
        let on_nf_tables = found.variant == Variant::Nft.name();
        (!on_nf_tables || self.nf_tables.is_yes()).then_some(found.variant)
    }
}

/// What nf_tables was asked.
struct NfTables {
    table: Answer,
    gate: Answer,
    owner: Answer,
    prerouting: Answer,
    dup: Answer,
    nfqueue: Answer,
    queue: Answer,
    nfqueue_target: Answer,
    recent: Answer,
}

impl NfTables {
    fn ask() -> NfTables {
        match probe::probe(&new_id()) {
            Ok(probed) => NfTables {
                table: of_gate(probed.table),
                gate: of_gate(probed.gate),
                owner: probed.owner.into(),
                prerouting: probed.prerouting.into(),
                dup: probed.dup.into(),
                nfqueue: nfqueue(probed.nfnetlink_queue.into()),
                queue: probed.queue.into(),
                nfqueue_target: probed.nfqueue_target.into(),
                recent: recent(probed.recent.into()),
            },
            Err(error) => {
                let no = || Answer::No(format!("{error:#}"));
                NfTables {
                    table: no(),
                    gate: no(),
                    owner: no(),
                    prerouting: no(),
                    dup: no(),
                    nfqueue: no(),
                    queue: no(),
                    nfqueue_target: no(),
                    recent: recent(Answer::Unknown(format!("{error:#}"))),
                }
            }
        }
    }
}

/// A run takes another backend only where a part of nf_tables is missing: whatever else the kernel
/// objects to, the run would end with.
fn of_gate(asked: Result<(), Refusal>) -> Answer {
    match asked {
        Err(refusal) if matches!(refusal.errno, Errno::EINVAL | Errno::EOPNOTSUPP) => {
            Answer::Unknown(format!("this kernel refuses it: {refusal}"))
        }
        asked => asked.into(),
    }
}

/// That its file is there can be seen by anybody; that it is not may be because nobody has loaded
/// it yet.
fn nfqueue(asked: Answer) -> Answer {
    match asked {
        Answer::Unknown(_) if exists("/proc/net/netfilter/nfnetlink_queue") => Answer::Yes,
        asked => asked,
    }
}

/// Its files belong to the host's root, also in other network namespaces.
fn recent(asked: Answer) -> Answer {
    if !host_root() {
        return Answer::No("its files can be written by the host's root only".to_owned());
    }
    match asked {
        _ if exists("/proc/net/xt_recent") => Answer::Yes,
        asked => asked,
    }
}

/// /proc/sys belongs to root; a user namespace that lacks the host's root shows it as nobody's.
fn host_root() -> bool {
    geteuid().is_root() && fs::metadata("/proc/sys/kernel").is_ok_and(|m| m.uid() == 0)
}

impl Privileges {
    fn mine() -> Privileges {
        Privileges {
            uid: geteuid().as_raw(),
            net_admin: caps::net_admin(),
            sys_ptrace: caps::sys_ptrace(),
            host_root: host_root(),
        }
    }
}

impl Iptables {
    fn counted(installed: &VariantHoldings, default: Option<Variant>) -> Iptables {
        let holdings = installed.holdings.iter();
        let refused = holdings
            .clone()
            .find_map(|(_, holding)| holding.as_ref().err());
        let rules = holdings.map(|(_, holding)| Some(holding.as_ref().ok()?.rules));
        Iptables {
            variant: installed.variant.name(),
            default: default == Some(installed.variant),
            ipv6: installed
                .holdings
                .iter()
                .any(|(family, _)| *family == Family::V6),
            rules: rules.sum(),
            unseen: refused.cloned(),
        }
    }
}

/// From nf_tables, and from iptables, whose own rules nf_tables may show in another form.
fn published(holdings: &[VariantHoldings]) -> (Vec<Published>, Option<String>) {
    let mut found = Vec::new();
    let mut unseen = None;
    for (_, holding) in holdings.iter().flat_map(|of| &of.holdings) {
        match holding {
            Ok(holding) => found.extend(holding.redirected.iter().cloned()),
            Err(why) => unseen = Some(why.clone()),
        }
    }
    match published::find() {
        Ok(redirected) => found.extend(redirected),
        Err(error) => unseen = Some(format!("{error:#}")),
    }
    found.sort();
    found.dedup_by_key(|redirected| redirected.port);
    let published = found.into_iter().map(|redirected| Published {
        port: redirected.port,
        by: redirected.by,
    });
    (published.collect(), unseen)
}

/// From iptables and from nf_tables; a host without nf_tables has none there.
fn nat(holdings: &[VariantHoldings]) -> Option<Vec<Family>> {
    if !caps::net_admin() {
        return None;
    }
    let by_nft = match published::nat_families() {
        Ok(families) => families,
        Err(error) if error.is::<Lacking>() => Vec::new(),
        Err(_) => return None,
    };
    let holdings = holdings.iter().flat_map(|of| &of.holdings);
    let by_iptables = |family: &Family| {
        let mut holdings = holdings.clone();
        holdings.any(|(of, holding)| of == family && holding.as_ref().is_ok_and(|h| h.nat))
    };
    let does = |family: &Family| by_nft.contains(family) || by_iptables(family);
    Some(Family::ALL.into_iter().filter(does).collect())
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.unwrap_or_default().trim().to_owned()
}

fn sysctl(name: &str) -> Option<u64> {
    number(&format!("/proc/sys/{}", name.replace('.', "/")))
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn conntrack() -> Option<Conntrack> {
    Some(Conntrack {
        count: sysctl("net.netfilter.nf_conntrack_count")?,
        max: sysctl("net.netfilter.nf_conntrack_max")?,
    })
}

fn exists(file: &str) -> bool {
    fs::exists(file).unwrap_or(false)
}

fn ipvs() -> Option<Vec<String>> {
    Some(virtual_services(
        &fs::read_to_string("/proc/net/ip_vs").ok()?,
    ))
}

/// `TCP  0A4D0001:0050 rr`, or `TCP  [fd77:…:0001]:0050 rr`: address and port in hexadecimal.
fn virtual_services(table: &str) -> Vec<String> {
    let place = |line: &str| {
        let (address, port) = line
            .strip_prefix("TCP")?
            .split_whitespace()
            .next()?
            .rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let address = match u32::from_str_radix(address, 16) {
            Ok(v4) => std::net::Ipv4Addr::from(v4).to_string(),
            Err(_) => {
                let v6 = address
                    .trim_matches(['[', ']'])
                    .parse::<std::net::Ipv6Addr>();
                format!("[{}]", v6.ok()?)
            }
        };
        Some(format!("{address}:{port}"))
    };
    table.lines().filter_map(place).collect()
}

/// What holds for any text as the kernel's list of virtual services.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    for service in virtual_services(text) {
        assert!(service.parse::<std::net::SocketAddr>().is_ok(), "{service}");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A host with all that is needed, and nothing worth a word.
    pub fn usual() -> Host {
        let settings = [4096, 0, 0, 2048, 0, 4, 1].map(Some);
        Host {
            kernel: "6.18.0".to_owned(),
            privileges: Privileges {
                uid: 0,
                net_admin: true,
                sys_ptrace: true,
                host_root: true,
            },
            nf_tables: Answer::Yes,
            timed_sets: Answer::Yes,
            owner_tables: Answer::Yes,
            prerouting: Answer::Yes,
            nft_dup: Answer::Yes,
            nfqueue: Answer::Yes,
            nft_queue: Answer::Yes,
            nft_nfqueue_target: Answer::Yes,
            iptables: vec![
                iptables(Variant::Legacy, false),
                iptables(Variant::Nft, true),
            ],
            xt_recent: Answer::Yes,
            sock_diag: Answer::Yes,
            ipvs: None,
            conntrack: None,
            sysctls: SYSCTLS.into_iter().zip(settings).collect(),
            counts: COUNTS.into_iter().zip([Some(0); 3]).collect(),
            published: Vec::new(),
            published_unseen: None,
            nat: Some(Vec::new()),
        }
    }

    fn iptables(variant: Variant, default: bool) -> Iptables {
        Iptables {
            variant: variant.name(),
            default,
            ipv6: true,
            rules: Some(0),
            unseen: None,
        }
    }

    fn no() -> Answer {
        Answer::No("not in this kernel".to_owned())
    }

    #[test]
    fn which_backend_and_why() {
        type Change = fn(&mut Host);
        let cases: [(Change, Result<&str, &str>); 10] = [
            (|_| (), Ok("nft")),
            (|h| h.owner_tables = no(), Ok("nft")),
            // iptables-nft stands on a table as well, and does without timed sets.
            (|h| h.timed_sets = no(), Ok("iptables-nft")),
            (
                |h| (h.nf_tables, h.timed_sets) = (no(), no()),
                Ok("iptables-legacy"),
            ),
            (
                |h| {
                    h.timed_sets = no();
                    h.iptables.clear();
                },
                Err("no iptables is installed"),
            ),
            (
                |h| {
                    (h.nf_tables, h.timed_sets) = (no(), no());
                    h.iptables.remove(0);
                },
                Err("no iptables is installed"),
            ),
            (|h| h.privileges.net_admin = false, Err("run it as root")),
            (
                |h| h.nf_tables = Answer::Unknown(NOT_PRIVILEGED.to_owned()),
                Err("another user namespace"),
            ),
            (
                |h| h.timed_sets = Answer::Unknown("it refuses".to_owned()),
                Err("nf_tables: it refuses"),
            ),
            (|h| h.sock_diag = no(), Err("listeners can't be seen")),
        ];
        for (n, (change, expected)) in cases.into_iter().enumerate() {
            let mut host = usual();
            change(&mut host);
            match (host.backend(), expected) {
                (Ok(backend), Ok(name)) => {
                    assert_eq!(backend.name, name, "case {n}");
                    assert_eq!(backend.because.is_none(), name == "nft", "case {n}");
                }
                (Err(why), Err(says)) => assert!(why.contains(says), "case {n}: {why}"),
                (backend, expected) => panic!("case {n}: {backend:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn refusals_are_no_or_not_known() {
        for (errno, no) in [
            (Errno::ENOENT, true),
            (Errno::EINVAL, true),
            (Errno::EOPNOTSUPP, true),
            (Errno::EPERM, false),
            (Errno::ENOMEM, false),
            (Errno::ETIMEDOUT, false),
        ] {
            let answer = Answer::from(Err(errno.into()));
            assert_eq!(matches!(answer, Answer::No(_)), no, "{errno}");
            assert_eq!(matches!(answer, Answer::Unknown(_)), !no, "{errno}");
        }
    }

    /// As ip_vs_info_seq_show() prints it.
    #[test]
    fn virtual_services_of_ipvs() {
        let table = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A4D0001:0050 rr
  -> 0A4D0002:0050      Masq    1      0          0
UDP  0A4D0001:0035 rr
TCP  [fd77:0000:0000:0000:0000:0000:0000:0001]:01BB wlc
FWM  00000001 rr
";
        assert_eq!(virtual_services(table), ["10.77.0.1:80", "[fd77::1]:443"]);
    }
}
