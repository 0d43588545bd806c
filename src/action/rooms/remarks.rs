//! What a run with rooms tells beforehand: where it takes more connections than rules would, or fewer than it may.

use super::make::filling;
use super::options::RoomOptions;
use crate::action::contract::Seen;
use crate::gate::backend::Remark;
use crate::kernel::room::{longest_queue, programs_are_seen};
use crate::words::gated::Gated;

/// A room stands beside a listener, and takes what that would.
pub(crate) fn beyond_to(gated: &Gated) -> Option<String> {
    let to = &gated.scope.to;
    (!to.is_empty()).then(|| {
        format!("where a listener takes all addresses, connections to others than --to {to} wait as well")
    })
}

pub(crate) fn remarks(seen: &Seen, options: RoomOptions) -> Vec<Remark> {
    let mut listeners = seen.before.listeners.iter();
    let wildcard = listeners.any(|listener| listener.address.is_unspecified());
    let beyond = beyond_to(seen.gated).filter(|_| wildcard);
    let longest = longest_queue(seen.netns);
    let (count, filling) = filling(options, longest);
    let (most, asked) = (count * filling.size, options.max_held);
    let fewer = (most < asked).then(|| {
        format!(
            "no more than {most} connections may wait beside a listener (--max-held {asked}): net.core.somaxconn \
             is {longest}"
        )
    });
    let unseen = (!programs_are_seen()).then(|| {
        "if the service gives its listeners a program of its own (SO_ATTACH_REUSEPORT_CBPF or _EBPF), \
         syngate can't see that here (Linux 6.1, /sys/kernel/btf/vmlinux, CAP_PERFMON), and replaces it: \
         --syn hold leaves it alone"
            .to_owned()
    });
    beyond
        .into_iter()
        .chain(fewer)
        .chain(unseen)
        .map(Remark::Detail)
        .collect()
}
