//! The program by which the kernel filters sockets by port (linux/inet_diag.h). Pure.

use crate::words::ports::PortSet;

/// The number of ranges that fit into the program. Beyond that one range spans all, and the caller filters what
/// comes: a program is at most 64 KiB, and the kernel checks it in quadratic time.
const MAX_RANGES: usize = 64;

const BC_JMP: u8 = 1;
const BC_S_GE: u8 = 2;
const BC_S_LE: u8 = 3;

/// The program for "the source port is in one of the ranges". Each operation has a code, where to go
/// if it holds (in bytes), and where to go if not; the operand follows a comparison. A jump just
/// behind the end accepts, four bytes further it rejects (inet_diag_bc_run()).
pub(super) fn port_filter(ports: &PortSet) -> Vec<u8> {
    const COMPARISON: u16 = 8;
    const JUMP: u16 = 4;
    let all = ports.ranges();
    let spanning;
    let ranges = match (all.first(), all.last()) {
        (Some(first), Some(last)) if all.len() > MAX_RANGES => {
            spanning = [*first.start()..=*last.end()];
            &spanning
        }
        _ => all,
    };
    let block = 2 * COMPARISON + JUMP;
    let end = block * ranges.len() as u16;
    let mut program = Vec::new();
    for (n, range) in ranges.iter().enumerate() {
        let here = block * n as u16;
        // Just behind the last range a jump would accept, so go four bytes past it.
        let next = if here + block == end {
            end + JUMP
        } else {
            here + block
        };
        push_comparison(&mut program, BC_S_GE, next - here, *range.start());
        push_comparison(
            &mut program,
            BC_S_LE,
            next - here - COMPARISON,
            *range.end(),
        );
        push(
            &mut program,
            BC_JMP,
            JUMP as u8,
            end - here - 2 * COMPARISON,
        );
    }
    program
}

fn push(program: &mut Vec<u8>, code: u8, yes: u8, no: u16) {
    program.extend([code, yes]);
    program.extend(no.to_ne_bytes());
}

fn push_comparison(program: &mut Vec<u8>, code: u8, otherwise: u16, port: u16) {
    push(program, code, 8, otherwise);
    push(program, 0, 0, port);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::get;
    use proptest::prelude::*;

    /// Runs a filter program as the kernel does (inet_diag_bc_run(), net/ipv4/inet_diag.c).
    fn runs(program: &[u8], port: u16) -> bool {
        let (mut at, end) = (0usize, program.len());
        while at < end {
            let [code, yes, ..] = get::<4>(program, at).unwrap();
            let no = u16::from_ne_bytes(get(program, at + 2).unwrap());
            let operand = || u16::from_ne_bytes(get(program, at + 6).unwrap());
            let holds = match code {
                BC_JMP => false,
                BC_S_GE => port >= operand(),
                BC_S_LE => port <= operand(),
                other => panic!("operation {other}"),
            };
            at += if holds {
                usize::from(yes)
            } else {
                usize::from(no)
            };
        }
        at == end
    }

    proptest! {
        #[test]
        fn the_filter_takes_the_gated_ports(
            items in prop::collection::vec((1u16..50, 0u16..5), 1..10),
        ) {
            let ports = PortSet::from_ranges(items.into_iter().map(|(p, n)| p..=p + n));
            let program = port_filter(&ports);
            for port in 0..60 {
                prop_assert_eq!(runs(&program, port), ports.contains(port), "{} of {}", port, &ports);
            }
        }
    }

    #[test]
    fn too_many_ranges_become_one() {
        let odd: PortSet = (1..=501).step_by(2).collect();
        let program = port_filter(&odd);
        assert!(runs(&program, 1) && runs(&program, 2) && runs(&program, 501));
        assert!(!runs(&program, 502));
    }
}
