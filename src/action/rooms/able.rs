//! What `--syn park` and `--syn handover` need of the host. Pure.

use serde::Serialize;

use super::choice::COOKIES_RESET;
use crate::kernel::support::Support;

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Rooms {
    /// The kernel moves connections between listeners, and wakes the service. Tried.
    pub(crate) moves: Support,
    /// The service's listeners can be copied.
    pub(crate) copies: Support,
    /// A service that does not set SO_REUSEPORT can be given that. The program was loaded.
    pub(crate) lends: Support,
    /// COMMAND can have a control group of its own, by which its connections are known.
    pub(crate) own_group: Support,
}

impl Rooms {
    /// Why no service can be parked here; `None`: some can.
    pub(crate) fn refusal(&self) -> Option<&str> {
        [&self.moves, &self.copies]
            .into_iter()
            .find_map(Support::why)
    }

    /// Whether that is not known, for lack of privilege.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.moves, Support::Unknown(_))
    }

    /// Whether connections to a service can be parked here, as far as can be told without a room. `reuseport`: it sets
    /// SO_REUSEPORT, if that is known. `unparkable`: why its connections can't be.
    ///
    /// # Errors
    /// What is missing, in one line.
    pub(crate) fn park(
        &self,
        reuseport: Option<bool>,
        unparkable: Option<&str>,
    ) -> Result<(), String> {
        if let Some(why) = self.refusal().or(unparkable) {
            return Err(why.to_owned());
        }
        match self.lends.why() {
            Some(why) if reuseport == Some(false) => Err(format!(
                "the service does not set SO_REUSEPORT, and can't be given that ({why})"
            )),
            _ => Ok(()),
        }
    }

    /// The same for `--syn auto`, which takes another action where the kernel may reset clients. `cookies`: the kernel
    /// answers each SYN with a cookie.
    ///
    /// # Errors
    /// What is missing, in one line.
    pub(crate) fn park_by_auto(
        &self,
        cookies: bool,
        reuseport: Option<bool>,
        unparkable: Option<&str>,
    ) -> Result<(), String> {
        match cookies && reuseport == Some(false) {
            true => Err(COOKIES_RESET.to_owned()),
            false => self.park(reuseport, unparkable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_be_tried_is_no_refusal_alone() {
        let rooms = |moves: Support| Rooms {
            moves,
            copies: Support::Yes,
            lends: Support::No("no hook".to_owned()),
            own_group: Support::Yes,
        };
        let no = || "no".to_owned();
        for (moves, is_unknown, parks) in [
            (Support::Yes, false, true),
            (Support::No(no()), false, false),
            (Support::Unknown(no()), true, false),
        ] {
            let rooms = rooms(moves);
            assert_eq!(rooms.is_unknown(), is_unknown, "{rooms:?}");
            assert_eq!(rooms.park(Some(true), None).is_ok(), parks, "{rooms:?}");
        }
        let rooms = rooms(Support::Yes);
        assert_eq!(rooms.park(None, Some("MPTCP")), Err("MPTCP".to_owned()));
        assert!(rooms.park(None, None).is_ok());
        let why = rooms.park(Some(false), None).unwrap_err();
        assert!(why.ends_with("(no hook)"), "{why}");
    }
}
