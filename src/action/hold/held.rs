//! The SYNs that wait, and their queue.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::line::{Arrival, Limits, Line};
use super::pace::Pace;
use crate::kernel::nfqueue::packet::Destination;
use crate::kernel::nfqueue::{self, Queue, Verdict};
use crate::kernel::sockets::row::YOUNG;
use crate::words::ports::PortSet;
use crate::words::steer::QueueNum;

/// While the gate is closed, packets that have come are read this often at most: each time costs as
/// much as many packets do.
pub(crate) const READ_EVERY: Duration = Duration::from_millis(1);

/// Who comes while others are let go is let go as well, so often before the next look at the sockets.
const MOST_TURNS: usize = 16;

/// How many are in the queue is looked at this often at most, while there is no room.
pub(crate) const COUNT_EVERY: Duration = Duration::from_millis(100);

/// When, where to, how many.
type OnTheWay = (Instant, Destination, u32);

/// Those who wait, and their queue.
pub(crate) struct Hold {
    queue: Queue,
    line: Line,
    read_at: Option<Instant>,
    /// Who has gone of late, where that leaves no trace.
    on_their_way: Vec<OnTheWay>,
    /// When it was looked how many are in the queue.
    counted_at: Option<Instant>,
    /// SYNs that the kernel had dropped, as was seen by that.
    forgotten: u64,
    /// The last that was read of it, once the queue is gone.
    overflowed: u64,
}

/// What the report tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// SYNs that waited.
    pub held: u64,
    /// Those of them that went on.
    pub released: u64,
    /// Copies of them: a client sends its SYN again.
    pub duplicates: u64,
    /// SYNs for which there was no room, so that they were dropped.
    pub overflow: u64,
    /// Those of them that found no room because their source had more than its part already.
    pub of_one_source: u64,
    /// Held SYNs that the kernel dropped because somebody removed a chain, ours or any other.
    pub lost: u64,
    /// How long the one that waited longest has waited.
    pub longest: Duration,
}

impl Hold {
    /// Takes a queue: packets that a rule sends there wait from now on.
    ///
    /// # Errors
    /// It is taken, or there are no queues in this kernel (`Lacking`). Nothing was changed.
    pub(crate) fn begin(queue: Option<QueueNum>, limits: Limits, gated: &PortSet) -> Result<Hold> {
        Ok(Hold {
            queue: Queue::bind(queue, limits.held)?,
            line: Line::new(limits, gated.clone(), Instant::now()),
            read_at: None,
            on_their_way: Vec::new(),
            counted_at: None,
            forgotten: 0,
            overflowed: 0,
        })
    }

    /// Where the rules shall send SYNs.
    pub(crate) fn queue(&self) -> QueueNum {
        self.queue.number()
    }

    /// When packets may be read again: whether there are any is for poll(2) to say then.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.read_at.map(|at| at + READ_EVERY)
    }

    /// Takes in all packets that have come; but no more than there is room for: in a flood there are
    /// always some.
    pub(crate) fn read_all(&mut self) {
        let batches = self.line.limits().held as usize / nfqueue::READ_AT_ONCE + 1;
        let _ = (0..batches).find(|_| self.read());
    }

    /// Takes in packets that have come, as many as one turn is for; whether that were all. Verdicts
    /// on copies and strangers are given at once: else they would take the room of others.
    pub(crate) fn read(&mut self) -> bool {
        let now = Instant::now();
        let refused = self.line.counts().no_room;
        let (mut drop, mut accept) = (Vec::new(), Vec::new());
        let line = &mut self.line;
        let all = self.queue.read(|packet| match line.arrive(&packet, now) {
            Arrival::Held => (),
            Arrival::Replaces(old) => drop.push(old),
            Arrival::NoRoom | Arrival::HadItsTurn => drop.push(packet.id),
            Arrival::NotOurs => accept.push(packet.id),
        });
        self.queue.judge(&drop, Verdict::Drop);
        self.queue.judge(&accept, Verdict::Accept);
        if self.line.counts().no_room > refused {
            self.forget_who_is_lost(now);
        }
        self.read_at = Some(Instant::now());
        all
    }

    /// The line is full: of those whom the kernel has dropped meanwhile, perhaps.
    fn forget_who_is_lost(&mut self, now: Instant) {
        if self.counted_at.is_some_and(|at| now < at + COUNT_EVERY) {
            return;
        }
        self.counted_at = Some(now);
        if let Some(in_queue) = self.queue.length() {
            let lost = self.line.len().saturating_sub(in_queue as usize);
            self.forgotten += self.line.lose_oldest(lost);
        }
    }

    /// Lets go who waits for one of `ports`, and who comes meanwhile, as far as there is room; tells how
    /// many those were. Else there would always be somebody where many come.
    pub(crate) fn release_all(&mut self, ports: &PortSet, pace: &mut Pace) -> usize {
        self.take_places_of_who_is_on_the_way(pace);
        let mut all = 0;
        for _ in 0..MOST_TURNS {
            let gone = self.release(ports, pace);
            all += gone;
            self.read_all();
            if gone == 0 || self.line.waiting_for(ports) == 0 {
                break;
            }
        }
        all
    }

    fn release(&mut self, ports: &PortSet, pace: &mut Pace) -> usize {
        let now = Instant::now();
        let blind = pace.is_blind();
        let on_their_way = &mut self.on_their_way;
        let ids = self.line.release(ports, now, |to| {
            let goes = pace.take(to);
            if goes && blind {
                note(on_their_way, now, to);
            }
            goes
        });
        self.queue.judge(&ids, Verdict::Accept);
        ids.len()
    }

    /// Handshakes that leave no trace take a place for as long as a handshake is young.
    fn take_places_of_who_is_on_the_way(&mut self, pace: &mut Pace) {
        let now = Instant::now();
        let young = |(at, ..): &OnTheWay| now < *at + YOUNG;
        self.on_their_way.retain(young);
        for (_, to, count) in &self.on_their_way {
            // None may be left.
            let _ = (0..*count).take_while(|_| pace.take(*to)).count();
        }
    }

    /// Lets go everyone who waits for one of `ports`; tells how many those were.
    pub(crate) fn let_go(&mut self, ports: &PortSet) -> usize {
        self.read_all();
        let ids = self.line.release(ports, Instant::now(), |_| true);
        self.queue.judge(&ids, Verdict::Accept);
        ids.len()
    }

    /// Ports that were open are shut again, or the listeners have gone: whoever has gone to them may
    /// come again.
    pub(crate) fn forget_who_has_gone(&mut self) {
        self.line.forget_who_has_gone();
    }

    /// How many have gone so far.
    pub(crate) fn gone(&self) -> u64 {
        self.line.counts().released
    }

    /// For which of these ports somebody waits.
    pub(crate) fn waited_for(&self, ports: &PortSet) -> PortSet {
        self.line.waited_for(ports)
    }

    /// How many wait for these ports.
    pub(crate) fn waiting_for(&self, ports: &PortSet) -> usize {
        self.line.waiting_for(ports)
    }

    /// What came of it.
    pub(crate) fn figures(&mut self) -> Figures {
        // Refused verdicts are among what is to be read.
        self.read_all();
        self.overflowed = self.queue.overflowed().unwrap_or(self.overflowed);
        let (counts, lost) = (self.line.counts(), self.queue.lost());
        Figures {
            held: counts.held,
            released: counts.released.saturating_sub(lost.accepted),
            duplicates: counts.duplicates,
            overflow: counts.no_room + self.overflowed,
            of_one_source: counts.of_one_source,
            lost: lost.accepted + lost.dropped + self.forgotten,
            longest: counts.longest,
        }
    }
}

/// One more has gone. Many go to one place at a time.
fn note(on_their_way: &mut Vec<OnTheWay>, now: Instant, to: Destination) {
    match on_their_way.last_mut() {
        Some((at, same, count)) if *at == now && *same == to => *count += 1,
        _ => on_their_way.push((now, to, 1)),
    }
}

impl AsFd for Hold {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl Drop for Hold {
    /// On each way out of a run, a panic's included: nobody is dropped who can go on.
    fn drop(&mut self) {
        self.let_go(&PortSet::from_ranges([1..=u16::MAX]));
    }
}
