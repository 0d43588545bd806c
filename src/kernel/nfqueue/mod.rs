//! NFQUEUE, a queue of packets in the kernel that waits for verdicts from user space
//! (linux/netfilter/nfnetlink_queue.h).

mod listing;
pub(crate) mod packet;
mod queue;

#[cfg(any(fuzzing, test))]
pub(crate) use self::listing::withstand;
pub(crate) use self::queue::{
    FIRST_NUMBER, NUMBERS, Queue, READ_AT_ONCE, RECEIVE_BUFFER, Verdict, others_hold,
};
