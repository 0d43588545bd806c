//! The wire format that all netlink families share (linux/netlink.h): messages, attributes,
//! acknowledgements. Pure.

use nix::errno::Errno;
use nix::libc;

/// The length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
// linux/netlink.h; not in the libc crate.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    /// The kernel's own words, where it has some (NETLINK_EXT_ACK).
    pub(crate) text: Option<String>,
    /// Whether the errno is the kernel's answer: then the kernel has done nothing. Otherwise nobody
    /// knows what it has done.
    pub(crate) answered: bool,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.errno.desc())?;
        match &self.text {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal {
            errno,
            text: None,
            answered: false,
        }
    }
}

pub(crate) fn message_bytes(kind: u16, flags: u16, seq: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend((((HEADER + body.len()) as u32).to_ne_bytes()).iter());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(seq.to_ne_bytes());
    bytes.extend([0; 4]); // The kernel fills in the sender's port id.
    bytes.extend(body);
    bytes
}

/// Appends an attribute: its length, kind and value, and padding to four bytes.
pub(crate) fn put_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message of a datagram that the kernel sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_flags`.
    pub(crate) flags: u16,
    /// The sequence number of the request that the message answers.
    pub(crate) seq: u32,
    pub(crate) payload: &'a [u8],
}

/// The end of an answer: an acknowledgement, a refusal, or the end of a dump.
pub(super) struct Ack {
    pub(super) seq: u32,
    pub(super) refusal: Option<Refusal>,
}

impl Message<'_> {
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.ack()?.refusal
    }

    pub(super) fn ack(&self) -> Option<Ack> {
        let kind = i32::from(self.kind);
        if kind != libc::NLMSG_ERROR && kind != libc::NLMSG_DONE {
            return None;
        }
        // Both carry a negated errno, NLMSG_DONE only since Linux 4.x.
        let code = get(self.payload, 0).map_or(0, i32::from_ne_bytes);
        let refusal = (code < 0).then(|| Refusal {
            answered: true,
            errno: Errno::from_raw(code.saturating_neg()),
            text: self.refusal_text(),
        });
        Some(Ack {
            seq: self.seq,
            refusal,
        })
    }

    /// NLMSGERR_ATTR_MSG behind the error code and the header (or the whole) of the request.
    fn refusal_text(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let request_length = get(self.payload, 4).map(u32::from_ne_bytes)? as usize;
        let skip = if self.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            request_length.checked_next_multiple_of(4)?
        };
        let rest = self.payload.get(4usize.checked_add(skip)?..)?;
        let (_, text) = attributes(rest).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
        let text = text.split(|b| *b == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// The datagram is not made of whole netlink messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) fn messages(
    mut datagram: &[u8],
) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let Some((message, rest)) = split_message(datagram) else {
            datagram = &[];
            return Some(Err(Malformed));
        };
        datagram = rest;
        Some(Ok(message))
    })
}

fn split_message(datagram: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32::from_ne_bytes(get(datagram, 0)?) as usize;
    let message = Message {
        kind: u16::from_ne_bytes(get(datagram, 4)?),
        flags: u16::from_ne_bytes(get(datagram, 6)?),
        seq: u32::from_ne_bytes(get(datagram, 8)?),
        payload: datagram.get(HEADER..length)?,
    };
    let next = length.checked_next_multiple_of(4)?;
    // The last message of a datagram need not be padded: those of nfnetlink_queue are not.
    Some((message, datagram.get(next..).unwrap_or_default()))
}

/// The attributes in `bytes`: the kind without its flag bits, and the value. Ends at an attribute that
/// is cut short: the kernel sends whole ones.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(get(bytes, 0)?));
        let kind = u16::from_ne_bytes(get(bytes, 2)?) & libc::NLA_TYPE_MASK as u16;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(k, value)| (k == kind).then_some(value))
}

/// The `N` bytes at `at`, if there are so many.
pub(crate) fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// What holds for any datagram.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let mut rest = bytes.len();
    for message in messages(bytes) {
        let Ok(message) = message else {
            break;
        };
        let Message {
            kind,
            flags,
            seq,
            payload,
        } = message;
        rest = rest
            .checked_sub(HEADER + payload.len())
            .expect("they do not overlap");
        let same = message_bytes(kind, flags, seq, payload);
        assert_eq!(messages(&same).next(), Some(Ok(message)));
        if let Some(refusal) = message.refusal() {
            assert!(refusal.answered && !refusal.to_string().is_empty());
        }
        withstand_attributes(payload);
    }
    withstand_attributes(bytes);
}

#[cfg(any(fuzzing, test))]
fn withstand_attributes(bytes: &[u8]) {
    let mut written = Vec::new();
    for (kind, value) in attributes(bytes) {
        put_attribute(&mut written, kind, value);
        assert!(attribute(bytes, kind).is_some());
    }
    assert!(attributes(&written).eq(attributes(bytes)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A refusal as a 6.18 kernel sent it, in the byte order of this machine: NLMSG_ERROR, capped, with the
    /// kernel's own words.
    fn refusal() -> Vec<u8> {
        let refused = message_bytes(0x18, 0x0405, 6, &[0; 20]);
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend(&refused[..HEADER]);
        put_attribute(
            &mut body,
            NLMSGERR_ATTR_MSG,
            b"Invalid prefix for given prefix length\0",
        );
        message_bytes(2, NLM_F_CAPPED | NLM_F_ACK_TLVS, 6, &body)
    }

    /// What [`message_bytes`] and [`put_attribute`] write is what a kernel where the lowest byte comes first wrote.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_refusal_is_written_as_the_kernel_wrote_it() {
        // Length; kind; NLM_F_CAPPED | NLM_F_ACK_TLVS; sequence number; port id, here 0; -EINVAL; the header of the
        // request; NLMSGERR_ATTR_MSG with its NUL and padding.
        const RECORDED: &[u8] = b"\x50\0\0\0\
            \x02\0\
            \x00\x03\
            \x06\0\0\0\
            \x00\0\0\0\
            \xea\xff\xff\xff\
            \x24\0\0\0\x18\0\x05\x04\x06\0\0\0\0\0\0\0\
            \x2b\0\x01\0Invalid prefix for given prefix length\0\0";
        assert_eq!(refusal(), RECORDED);
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let refusal = refusal();
        let message = messages(&refusal).next().unwrap().unwrap();
        let ack = message.ack().unwrap();
        assert_eq!(ack.seq, 6);
        let refusal = ack.refusal.unwrap();
        assert_eq!(refusal.errno, Errno::EINVAL);
        assert_eq!(
            refusal.to_string(),
            "Invalid argument (Invalid prefix for given prefix length)"
        );
    }

    #[test]
    fn an_acknowledgement_is_an_error_of_zero() {
        let mut bytes = message_bytes(2, NLM_F_CAPPED, 7, &[0; 20]);
        bytes.extend(message_bytes(3, 2, 8, &[0; 4])); // NLMSG_DONE
        let answers: Vec<_> = messages(&bytes)
            .map(|m| m.unwrap().ack().unwrap())
            .map(|a| (a.seq, a.refusal))
            .collect();
        assert_eq!(answers, [(7, None), (8, None)]);
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        let refusal = refusal();
        for length in 1..refusal.len() {
            let all: Vec<_> = messages(&refusal[..length]).collect();
            assert_eq!(all, [Err(Malformed)], "{length}");
        }
        let mut lies = refusal;
        lies[..4].copy_from_slice(&4u32.to_ne_bytes()); // shorter than a header
        assert_eq!(messages(&lies).next(), Some(Err(Malformed)));
    }

    #[test]
    fn attributes_as_written() {
        let mut bytes = Vec::new();
        put_attribute(&mut bytes, 1, b"abc");
        put_attribute(&mut bytes, 2, &[]);
        put_attribute(&mut bytes, 0x8003, b"nest"); // NLA_F_NESTED is not part of the kind
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(1, &b"abc"[..]), (2, &[]), (3, b"nest")]);
        assert_eq!(attribute(&bytes, 2), Some(&[][..]));
        assert_eq!(attribute(&bytes, 9), None);
    }

    proptest! {
        /// Valid frames around hostile contents: these get further.
        #[test]
        fn hostile_answers_never_panic(
            kind in 2u16..4,
            flags in any::<u16>(),
            body in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            withstand(&message_bytes(kind, flags, 1, &body));
        }
    }
}
