//! What the kernel refuses is tried again: it may lack memory for a moment, and nobody else would do it.

/// How often, in all.
const TRIES: usize = 3;

/// Does it until it succeeds, and not too often.
pub(super) fn again<T, E>(mut doing: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let mut done = doing();
    for _ in 1..TRIES {
        if done.is_ok() {
            break;
        }
        done = doing();
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_not_the_end() {
        let mut tries = 0;
        let mut fails = |times: usize| {
            tries = 0;
            again(|| {
                tries += 1;
                if tries > times { Ok(tries) } else { Err(()) }
            })
        };
        assert_eq!(fails(0), Ok(1));
        assert_eq!(fails(2), Ok(3));
        assert_eq!(fails(3), Err(()));
        assert_eq!(tries, 3);
    }
}
