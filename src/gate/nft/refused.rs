//! Explains the kernel's refusals to the user.

use anyhow::anyhow;
use nix::errno::Errno;

use super::ruleset::Ruleset;
use crate::kernel::netlink::Refusal;
use crate::words::lacking::Lacking;

/// Whether the kernel refuses the owner flag because it does not know it.
pub(super) fn refuses_owners(refusal: &Refusal) -> bool {
    matches!(refusal.errno, Errno::EINVAL | Errno::EOPNOTSUPP)
}

/// The kernel refuses owner tables.
#[derive(Debug)]
pub(super) struct OwnerRefused;

impl std::error::Error for OwnerRefused {}

impl std::fmt::Display for OwnerRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this kernel refuses nf_tables tables with an owner")
    }
}

/// Whether the kernel refuses a rule because it can't compare the wall clock (nft_meta_get_init(), before
/// Linux 5.4), or lacks an expression for that.
pub(super) fn refuses_clock(refusal: &Refusal) -> bool {
    refuses_owners(refusal) || refusal.errno == Errno::ENOENT
}

/// The kernel refuses rules that end by the wall clock.
#[derive(Debug)]
pub(super) struct ClockRefused;

impl std::error::Error for ClockRefused {}

impl std::fmt::Display for ClockRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this kernel refuses rules that end by the wall clock")
    }
}

/// A kernel feature that the rules need and the kernel may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    Nat,
    Dup,
    Reject,
    Other,
}

impl Lack {
    pub(super) fn of(rules: &Ruleset) -> Lack {
        match (rules.translates(), rules.diverts()) {
            (true, _) => Lack::Nat,
            (_, true) => Lack::Dup,
            _ if rules.refuses() => Lack::Reject,
            _ => Lack::Other,
        }
    }
}

/// Explains a refusal to create the tables, and says what to do.
pub(super) fn explain(refusal: &Refusal, lacks: Lack) -> anyhow::Error {
    match refusal.errno {
        Errno::EPERM | Errno::EACCES => anyhow!(crate::kernel::caps::NEEDED),
        Errno::EMSGSIZE => anyhow!(
            "--port: too many separate ranges for this user namespace, whose netlink messages are \
             bounded by net.core.wmem_default; join ranges, or run it as the host's root"
        ),
        // EOPNOTSUPP: the kernel lacks nf_tables as a whole (nfnetlink_rcv_batch()).
        Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
            match lacks {
                Lack::Nat => Lacking::nat(refusal),
                Lack::Dup => Lacking(format!(
                    "--syn divert needs nft's dup (are the modules nft_dup_ipv4 and nft_dup_ipv6 \
                     missing?): {refusal}"
                )),
                Lack::Reject => Lacking(format!(
                    "--leave needs nft's reject (is the module nft_reject_inet missing?): {refusal}"
                )),
                Lack::Other => Lacking(format!("this kernel lacks a part of nf_tables: {refusal}")),
            }
            .into()
        }
        _ => anyhow!("nf_tables refused the rules: {refusal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_kernel_refuses_is_known() {
        let refuses = |errno: Errno| (refuses_owners(&errno.into()), refuses_clock(&errno.into()));
        assert_eq!(refuses(Errno::EINVAL), (true, true));
        assert_eq!(refuses(Errno::EOPNOTSUPP), (true, true));
        assert_eq!(refuses(Errno::ENOENT), (false, true));
        assert_eq!(refuses(Errno::EPERM), (false, false));
        let owners = OwnerRefused.to_string();
        assert!(owners.contains("tables with an owner"), "{owners}");
        let clock = ClockRefused.to_string();
        assert!(clock.contains("by the wall clock"), "{clock}");
    }

    #[test]
    fn refusals_say_what_is_missing() {
        for (errno, says) in [
            (Errno::EPERM, "CAP_NET_ADMIN"),
            (Errno::ENOENT, "lacks a part of nf_tables"),
            (Errno::EOPNOTSUPP, "lacks a part of nf_tables"),
            (Errno::EMSGSIZE, "--port"),
            (Errno::ENOMEM, "refused the rules"),
        ] {
            let said = explain(&errno.into(), Lack::Other).to_string();
            assert!(said.contains(says), "{errno}: {said}");
            assert!(!said.contains('\n'), "{errno}: {said}");
        }
        let no_dup = explain(&Errno::ENOENT.into(), Lack::Dup).to_string();
        assert!(no_dup.contains("nft_dup_ipv4"), "{no_dup}");
        let no_nat = explain(&Errno::ENOENT.into(), Lack::Nat);
        assert!(no_nat.is::<Lacking>());
        assert!(no_nat.to_string().contains("nf_nat"), "{no_nat}");
    }
}
