use std::env;

/// By what factor the machine is slower than what the tests were written for: `$TESTKIT_SLOW`, 1
/// if that is not set.
///
/// [`wait_until`](crate::wait_until) waits so much longer, and a [`Load`](crate::Load) makes the
/// same connections in so much more time. It is for upper bounds of time, never for lower ones.
pub fn slow() -> u32 {
    let Ok(factor) = env::var("TESTKIT_SLOW") else {
        return 1;
    };
    match factor.parse() {
        Ok(factor) if factor > 0 => factor,
        _ => panic!("TESTKIT_SLOW is a whole number above 0, not {factor:?}"),
    }
}
