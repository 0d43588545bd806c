//! Whether this host supports something.

use nix::errno::Errno;
use serde::Serialize;

use crate::kernel::netlink::Refusal;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub(crate) enum Support {
    /// It was tried, and worked.
    Yes,
    No(String),
    Unknown(String),
}

pub(crate) const NOT_PRIVILEGED: &str = "asking needs CAP_NET_ADMIN";

impl Support {
    pub(crate) fn is_yes(&self) -> bool {
        *self == Support::Yes
    }

    /// Why it is not a yes.
    pub(crate) fn why(&self) -> Option<&str> {
        match self {
            Support::Yes => None,
            Support::No(why) | Support::Unknown(why) => Some(why),
        }
    }
}

impl From<Result<(), Refusal>> for Support {
    fn from(asked: Result<(), Refusal>) -> Support {
        let Err(refusal) = asked else {
            return Support::Yes;
        };
        match refusal.errno {
            Errno::EPERM | Errno::EACCES => Support::Unknown(NOT_PRIVILEGED.to_owned()),
            Errno::ENOENT => Support::No("not in this kernel".to_owned()),
            Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
                Support::No(format!("this kernel refuses it: {refusal}"))
            }
            _ => Support::Unknown(format!("the kernel says: {refusal}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let support = Support::from(Err(errno.into()));
            assert_eq!(matches!(support, Support::No(_)), no, "{errno}");
            assert_eq!(matches!(support, Support::Unknown(_)), !no, "{errno}");
        }
    }

    #[test]
    fn who_may_not_ask_is_told_so() {
        for errno in [Errno::EPERM, Errno::EACCES] {
            let support = Support::from(Err(errno.into()));
            assert_eq!(support, Support::Unknown(NOT_PRIVILEGED.to_owned()));
        }
    }
}
