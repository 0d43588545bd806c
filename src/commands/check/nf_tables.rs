//! What nf_tables of this kernel supports: tried, without a trace.

use std::fs;

use nix::errno::Errno;

use super::privileges::host_root;
use crate::gate::nft::probe;
use crate::kernel::netlink::Refusal;
use crate::kernel::support::Support;
use crate::words::lacking::Lacking;
use crate::words::run_id::new_id;

pub(crate) struct NfTables {
    pub(crate) table: Support,
    pub(crate) gate: Support,
    pub(crate) owner: Support,
    pub(crate) prerouting: Support,
    pub(crate) dup: Support,
    pub(crate) reject: Support,
    pub(crate) nfqueue: Support,
    pub(crate) queue: Support,
    pub(crate) xt_nfqueue: Support,
    pub(crate) recent: Support,
}

impl NfTables {
    pub(crate) fn ask() -> NfTables {
        match probe::probe(&new_id()) {
            Ok(probed) => NfTables {
                table: of_gate(probed.table),
                gate: of_gate(probed.gate),
                owner: probed.owner.into(),
                prerouting: probed.prerouting.into(),
                dup: probed.dup.into(),
                reject: probed.reject.into(),
                nfqueue: nfqueue(probed.nfnetlink_queue.into()),
                queue: probed.queue.into(),
                xt_nfqueue: xt_nfqueue(probed.xt_nfqueue),
                recent: recent(probed.recent.into()),
            },
            Err(error) => {
                let why = format!("{error:#}");
                let no = || match error.is::<Lacking>() {
                    true => Support::No(why.clone()),
                    false => Support::Unknown(why.clone()),
                };
                NfTables {
                    table: no(),
                    gate: no(),
                    owner: no(),
                    prerouting: no(),
                    dup: no(),
                    reject: no(),
                    nfqueue: no(),
                    queue: no(),
                    xt_nfqueue: Support::Unknown(why.clone()),
                    recent: recent(Support::Unknown(why.clone())),
                }
            }
        }
    }
}

/// A run takes another backend only where a part of nf_tables is missing. It ends with any other
/// refusal, so such a refusal is not taken for a no.
fn of_gate(asked: Result<(), Refusal>) -> Support {
    match asked {
        Err(refusal) if matches!(refusal.errno, Errno::EINVAL | Errno::EOPNOTSUPP) => {
            Support::Unknown(format!("this kernel refuses it: {refusal}"))
        }
        asked => asked.into(),
    }
}

/// Anybody can see that the file is there. If it is missing, the module may just not be loaded yet.
fn nfqueue(asked: Support) -> Support {
    match asked {
        Support::Unknown(_) if exists("/proc/net/netfilter/nfnetlink_queue") => Support::Yes,
        asked => asked,
    }
}

/// nft_compat answers, which the kernel may lack (nfnetlink_rcv_msg()).
fn xt_nfqueue(asked: Result<(), Refusal>) -> Support {
    match asked {
        Err(refusal) if refusal.errno == Errno::EINVAL => Support::Unknown(format!(
            "this kernel has no nft_compat, which tells: {refusal}"
        )),
        asked => asked.into(),
    }
}

/// The root of the host owns the files of xt_recent, also in other network namespaces.
fn recent(asked: Support) -> Support {
    if !host_root() {
        return Support::No("its files can be written by the host's root only".to_owned());
    }
    match asked {
        _ if exists("/proc/net/xt_recent") => Support::Yes,
        asked => asked,
    }
}

fn exists(file: &str) -> bool {
    fs::exists(file).unwrap_or(false)
}
