//! Where the running kernel has what in its structures, by its description of its own types (BTF,
//! Documentation/bpf/btf.rst in the kernel's sources). Pure, but for the file.

use std::fs::File;
use std::io::Read;

/// The types of the running kernel, if it was built with CONFIG_DEBUG_INFO_BTF. Linux 5.4.
const OF_KERNEL: &str = "/sys/kernel/btf/vmlinux";
/// More than glibc keeps for later of what is given back to it (DEFAULT_MMAP_THRESHOLD_MAX, mallopt(3)). It would keep
/// the file, which has some MiB, for as long as the process lives.
const NOT_KEPT: usize = 33 << 20;
/// struct btf_header, linux/btf.h: the magic number, and where the header has its numbers.
const MAGIC: u16 = 0xeb9f;
const HEADER_LENGTH: usize = 4;
const TYPES: usize = 8;
const NAMES: usize = 16;
/// The length of struct btf_type, and of struct btf_member.
const TYPE: usize = 12;
const MEMBER: usize = 12;
/// BTF_KIND_STRUCT and BTF_KIND_FUNC.
const STRUCT: u32 = 4;
const FUNC: u32 = 12;

/// Which bit of a structure it begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bit(pub u32);

impl Bit {
    /// The byte that it is in.
    pub(crate) fn byte(self) -> i16 {
        i16::try_from(self.0 / 8).unwrap_or(i16::MAX)
    }

    /// What is left of that byte if it alone is set. Its first bit is the lowest one where the lowest byte comes
    /// first, and the highest one elsewhere.
    pub(crate) fn mask(self) -> i32 {
        let nth = self.0 % 8;
        match cfg!(target_endian = "big") {
            true => 0x80 >> nth,
            false => 1 << nth,
        }
    }
}

/// Where members are in structures of the running kernel. `None`: it does not tell.
pub(crate) fn of_kernel<const N: usize>(members: [(&str, &str); N]) -> Option<[Bit; N]> {
    let described = described()?;
    let found = members.map(|(structure, member)| place(&described, structure, member));
    let mut found = found.into_iter();
    let all = [(); N].map(|()| found.next().flatten());
    all.iter()
        .all(Option::is_some)
        .then(|| all.map(|one| one.unwrap_or(Bit(0))))
}

/// The number of a function of the running kernel among its types. `None`: it does not tell.
pub(crate) fn function_of_kernel(name: &str) -> Option<u32> {
    function(&described()?, name)
}

fn described() -> Option<Vec<u8>> {
    // Memory that nothing is written to takes no room.
    let mut described = Vec::with_capacity(NOT_KEPT);
    let mut file = File::open(OF_KERNEL).ok()?;
    file.read_to_end(&mut described).ok()?;
    Some(described)
}

/// Where a member begins in the structure with that name.
fn place(btf: &[u8], structure: &str, member: &str) -> Option<Bit> {
    let described = Described::of(btf)?;
    let (_, found) = described.find(STRUCT, structure)?;
    let mut members = found[TYPE..].chunks_exact(MEMBER);
    let is = |one: &&[u8]| word(one, 0).is_some_and(|at| is_named(described.names, at, member));
    let at = word(members.find(is)?, 8)?;
    let has_bitfields = word(found, 4)? >> 31 != 0;
    Some(Bit(if has_bitfields { at & 0x00ff_ffff } else { at }))
}

fn function(btf: &[u8], name: &str) -> Option<u32> {
    let (number, _) = Described::of(btf)?.find(FUNC, name)?;
    Some(number)
}

/// A description's parts.
struct Described<'a> {
    types: &'a [u8],
    names: &'a [u8],
}

impl<'a> Described<'a> {
    fn of(btf: &'a [u8]) -> Option<Described<'a>> {
        let magic = btf.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))?;
        let header = word(btf, HEADER_LENGTH)? as usize;
        let section = |at: usize| {
            let (begin, length) = (word(btf, at)? as usize, word(btf, at + 4)? as usize);
            btf.get(header.checked_add(begin)?..)?.get(..length)
        };
        let (types, names) = (section(TYPES)?, section(NAMES)?);
        (magic == MAGIC).then_some(Described { types, names })
    }

    /// The first type of that kind with that name, and its number. They are numbered from 1.
    fn find(&self, wanted: u32, name: &str) -> Option<(u32, &'a [u8])> {
        let (mut types, mut number) = (self.types, 1);
        while let Some(info) = word(types, 4) {
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let (this, rest) = types.split_at_checked(TYPE + length_behind(kind, count)?)?;
            if kind == wanted && is_named(self.names, word(this, 0)?, name) {
                return Some((number, this));
            }
            (types, number) = (rest, number + 1);
        }
        None
    }
}

/// How many bytes follow struct btf_type, by the kind and the count in it (enum BTF_KIND_*, linux/btf.h).
fn length_behind(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        4 | 5 | 15 | 19 => 12 * count,
        // ENUM, FUNC_PROTO
        6 | 13 => 8 * count,
        _ => return None,
    })
}

fn is_named(names: &[u8], at: u32, name: &str) -> bool {
    let there = names.get(at as usize..).unwrap_or_default();
    let there = there.strip_prefix(name.as_bytes());
    there.is_some_and(|rest| rest.first() == Some(&0))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

/// What holds for any bytes as a description of types.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let _ = place(bytes, "sock", "sk_uid");
    let _ = function(bytes, "bpf_iter_task_file");
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRINGS: &[u8] = b"\0int\0sock\0sk_uid\0sk_bit\0run\0";

    /// An int, a structure of two members, and a function.
    fn made_up(has_bitfields: bool) -> Vec<u8> {
        let info = |kind: u32, count: u32| kind << 24 | count;
        let flag = u32::from(has_bitfields) << 31;
        let types = [
            vec![1, info(1, 0), 4, 32],
            vec![5, info(STRUCT, 2) | flag, 8],
            vec![10, 1, 32],
            vec![17, 1, 33 | u32::from(has_bitfields) << 24],
            vec![24, info(FUNC, 0), 1],
        ];
        let types = types.concat();
        let length = types.len() as u32 * 4;
        let header = [24, 0, length, length, STRINGS.len() as u32];
        let words = header
            .iter()
            .chain(&types)
            .flat_map(|word| word.to_ne_bytes());
        let begin = MAGIC.to_ne_bytes().into_iter().chain([1, 0]);
        begin.chain(words).chain(STRINGS.iter().copied()).collect()
    }

    #[test]
    fn a_member_is_found_by_its_name() {
        let plain = made_up(false);
        assert_eq!(place(&plain, "sock", "sk_uid"), Some(Bit(32)));
        assert_eq!(place(&made_up(true), "sock", "sk_bit"), Some(Bit(33)));
        for (structure, member) in [("sock", "sk"), ("soc", "sk_uid"), ("int", "sk_uid")] {
            assert_eq!(place(&plain, structure, member), None);
        }
        assert_eq!(function(&plain, "run"), Some(3));
        assert_eq!(function(&plain, "sock"), None, "a structure");
        for length in 0..plain.len() {
            withstand(&plain[..length]);
        }
        assert_eq!(place(&[0; 99], "sock", "sk_uid"), None);
    }

    #[test]
    fn a_bit_has_its_place_in_a_byte() {
        let bit = Bit(19 * 8 + 5);
        let mask = if cfg!(target_endian = "big") {
            0x04
        } else {
            0x20
        };
        assert_eq!((bit.byte(), bit.mask()), (19, mask));
    }
}
