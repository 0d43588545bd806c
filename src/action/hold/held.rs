//! The held SYNs and their NFQUEUE.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::line::{Arrival, Limits, Line};
use super::pace::Pace;
use crate::kernel::nfqueue::packet::{Destination, Packet};
use crate::kernel::nfqueue::{self, Queue, Verdict};
use crate::kernel::sockets::row::YOUNG;
use crate::words::ports::PortSet;
use crate::words::steer::QueueNum;

/// The interval between reads while the gate is closed: a read costs as much as many packets do.
pub(crate) const READ_EVERY: Duration = Duration::from_millis(1);

/// SYNs that arrive during a release are released too, in up to this many turns before the next
/// look at the sockets.
const MOST_TURNS: usize = 16;

/// The interval between reads of the queue's length while there is no room.
pub(crate) const COUNT_EVERY: Duration = Duration::from_millis(100);

/// Time of the release, destination, number of SYNs.
type OnTheWay = (Instant, Destination, u32);

pub(crate) struct Hold {
    queue: Queue,
    line: Line,
    read_at: Option<Instant>,
    /// Packets that are read from now on arrived later than this.
    empty_at: Instant,
    /// Recently released SYNs, where SYN cookies hide their handshakes.
    on_their_way: Vec<OnTheWay>,
    counted_at: Option<Instant>,
    /// SYNs that the kernel has dropped, found by comparing the queue's length.
    forgotten: u64,
    /// The queue's overflow counter as it was read last.
    overflowed: u64,
}

/// The figures in the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub held: u64,
    /// Held SYNs that went on to a listener.
    pub released: u64,
    /// SYNs that a client sent again while the first one was held.
    pub duplicates: u64,
    /// SYNs dropped for lack of room.
    pub overflow: u64,
    /// The part of `overflow` whose source had reached its own limit.
    pub of_one_source: u64,
    /// Held SYNs that the kernel dropped because somebody removed a netfilter chain.
    pub lost: u64,
    /// Packets that rules of the host's have sent to the queue. They were dropped.
    pub not_ours: u64,
    /// The longest time that a SYN was held.
    pub longest: Duration,
}

impl Hold {
    /// Binds the queue. From now on, packets that a rule sends there are held.
    ///
    /// # Errors
    /// The queue is taken, or the kernel has no queues (`Lacking`). Nothing was changed.
    pub(crate) fn begin(queue: Option<QueueNum>, limits: Limits, gated: &PortSet) -> Result<Hold> {
        Ok(Hold {
            queue: Queue::bind(queue, limits.held)?,
            line: Line::new(limits, gated.clone(), Instant::now()),
            read_at: None,
            empty_at: Instant::now(),
            on_their_way: Vec::new(),
            counted_at: None,
            forgotten: 0,
            overflowed: 0,
        })
    }

    /// The queue for the gate's rules.
    pub(crate) fn queue(&self) -> QueueNum {
        self.queue.number()
    }

    /// The earliest time of the next read. Whether there are packets is then for poll(2) to say.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.read_at.map(|at| at + READ_EVERY)
    }

    /// Reads all packets that have arrived. The number of reads is limited, because in a flood
    /// there is always one more packet.
    pub(crate) fn read_all(&mut self) {
        let batches = self.line.limits().held as usize / nfqueue::READ_AT_ONCE + 1;
        let _ = (0..batches).find(|_| self.read());
    }

    /// Reads one batch of packets. Returns whether these were all. Copies and packets that are no
    /// new SYNs get their verdict at once, because they would take the room of others.
    pub(crate) fn read(&mut self) -> bool {
        let now = Instant::now();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let refused = self.line.counts().no_room;
        let mut drop = Vec::new();
        let (line, empty_at) = (&mut self.line, self.empty_at);
        let all = self.queue.read(|packet| {
            let arrived = came_in(&packet, now, since_1970).max(empty_at);
            match line.arrive(&packet, arrived) {
                Arrival::Held => (),
                Arrival::Replaces(old) => drop.push(old),
                Arrival::NoRoom | Arrival::HadItsTurn | Arrival::NotOurs => drop.push(packet.id),
            }
        });
        if all {
            self.empty_at = now;
        }
        self.queue.judge(&drop, Verdict::Drop);
        if self.line.counts().no_room > refused {
            self.forget_who_is_lost(now);
        }
        self.read_at = Some(Instant::now());
        all
    }

    /// The limit is reached. Forgets held SYNs that the kernel has dropped meanwhile.
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

    /// Releases the SYNs for `ports`, and those that arrive meanwhile, as far as there is room.
    /// Returns how many. Without the second part a busy port would never be free of held SYNs.
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

    /// With SYN cookies, a released SYN counts against the listener's room for as long as a
    /// handshake is young.
    fn take_places_of_who_is_on_the_way(&mut self, pace: &mut Pace) {
        let now = Instant::now();
        let young = |(at, ..): &OnTheWay| now < *at + YOUNG;
        self.on_their_way.retain(young);
        for (_, to, count) in &self.on_their_way {
            // There may be no room left.
            let _ = (0..*count).take_while(|_| pace.take(*to)).count();
        }
    }

    /// Releases all SYNs for `ports`. Returns how many.
    pub(crate) fn let_go(&mut self, ports: &PortSet) -> usize {
        self.read_all();
        let ids = self.line.release(ports, Instant::now(), |_| true);
        self.queue.judge(&ids, Verdict::Accept);
        ids.len()
    }

    /// Ports are closed again, or the listeners have gone: clients whose SYN was released may send a new one.
    pub(crate) fn forget_who_has_gone(&mut self) {
        self.line.forget_who_has_gone();
    }

    pub(crate) fn gone(&self) -> u64 {
        self.line.counts().released
    }

    pub(crate) fn waited_for(&self, ports: &PortSet) -> PortSet {
        self.line.waited_for(ports)
    }

    pub(crate) fn waiting_for(&self, ports: &PortSet) -> usize {
        self.line.waiting_for(ports)
    }

    pub(crate) fn figures(&mut self) -> Figures {
        // Verdicts that the kernel refused come back as messages in the queue.
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
            not_ours: counts.not_ours,
            longest: counts.longest,
        }
    }
}

/// When the packet came in. The run may read it late: it had no CPU, or was stopped.
fn came_in(packet: &Packet, now: Instant, since_1970: Option<Duration>) -> Instant {
    let age = since_1970.zip(packet.came_in);
    let age = age.map_or(Duration::ZERO, |(now, then)| now.saturating_sub(then));
    now.checked_sub(age).unwrap_or(now)
}

/// Adds to the last entry where it has the same time and destination, which is the usual case.
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
    /// Runs on each way out, also in a panic: without a verdict the kernel would drop the held
    /// SYNs.
    fn drop(&mut self) {
        self.let_go(&PortSet::from_ranges([1..=u16::MAX]));
    }
}
