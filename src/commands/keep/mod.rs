//! `syngate keep` stands by all the time. New connections reach the service as long as it listens, and wait in rooms
//! while nobody does: in restarts and crashes by anybody.
//!
//! It is `--syn handover` without an end and without a COMMAND: each group has the program *prefer* all the time. A
//! connection costs what that program costs. A gap costs no system call at its beginning: the kernel puts connections
//! into the rooms because the program finds no listener. A keep differs from a run in this:
//!
//! - **It sleeps.** An epoll that knows the rooms wakes it when somebody begins to wait (`kernel/room/wake.rs`). It needs
//!   no descriptor of a room, so the rooms stay on their shelves. Besides, the keep looks eight times a second at runs,
//!   listeners and its programs. The release build takes 0.2 % of a core for that with one address, 0.3 % with 20, and
//!   1 % with 100. While somebody waits it looks every 2 ms, and hands over.
//! - **It decides by what it sees of a place.** `decide.rs` has a small state machine for each place (served; in a
//!   gap; given up). It says how long to pause, and what a signal to stop means. `kept.rs` carries that out, and
//!   `spot.rs` holds what is known of a group.
//! - **Groups come and go.** A listener without rooms gets some. If its service has not come back within `--max-wait`,
//!   all rooms of the place go: a bound socket would keep others from binding. systemd makes a control group for each
//!   start, and connections get the control group of their room. So the keep makes new rooms when the service comes
//!   back in another one. After each such change a new guard takes over (`follow.rs`), and rooms are opened when a
//!   guard has them, as in a run.
//! - **A service may go elsewhere** on its port, where the kernel moves nobody (`action/rooms/moved.rs`). A listener counts as that
//!   service if it gets the place's connections once no room does, or has come on an address where nobody was before.
//!   It does not if another control group's was there. It has to stay for a moment: a service may bind one address after
//!   the other. Not taken: no rooms on an address that a wildcard listener covers. Clients of the one address would get
//!   the other's listener, which may be another site.
//! - **Listeners come and go.** So a new listener takes the place of one that has gone in a program's array
//!   (`action/rooms/preferred.rs`). The program prefers a listener once it has been there for a moment. In a run, the
//!   old ones come first to the end.
//! - **Its lock is another.** Keeps have a lock file of their own. Two keeps on one port exclude each other, and a keep
//!   does not keep a run from its port. The run locks the port, and waits until no guard of a keep has rooms there
//!   beside a listener. The keep looks at the runs' locks each time. It gives back the groups on these ports
//!   (`stand_back.rs`, `action/rooms/leaving.rs`), tends the others, and takes these up again when the lock is free. In
//!   a gap it stays, and hands over to the service that the run starts. While it makes rooms it has the runs' lock.
//! - **A unit** (`--unit`) is the listeners of a control group (`claim.rs`): the kernel tells for each socket in which
//!   one it was made. While nobody listens, a process beside asks systemctl (`process/systemctl.rs`), and `answer.rs`
//!   tells a stop from a restart: by the unit's job, or by its state where it has none. Not taken: D-Bus, a protocol and
//!   its parser for two questions that systemctl answers within some milliseconds.
//! - **systemd** hears when the rooms stand (`process/notify.rs`): one datagram, which waits for nobody.
//! - **Its guard** has no deadline. When the keep has died, the guard goes on in its place for `--max-wait`, and longer in
//!   a gap. It stands back as a keep does, for a run or another keep.
//! - **The next keep** takes the rooms over from the guard of one that has died (`take_over.rs`,
//!   `action/rooms/taken_over.rs`). A keep that systemd restarts leaves them to its guard (`restarted.rs`), and so does
//!   one that becomes another program after an upgrade (`renewed.rs`).
//! - **A service that flaps** does not fill the journal (`flapping.rs`).
//!
//! Without `--any` there is no bind hook, as runs have it: it would let a second instance bind the port by mistake. So a
//! service that comes back without SO_REUSEPORT, or as another user, can't bind before `--max-wait` is over.

mod begun;
mod cap;
mod claim;
mod decide;
mod flapping;
mod follow;
mod gap;
mod kept;
mod renewed;
mod restarted;
mod shown;
mod spot;
mod stand_back;
mod take_over;
mod told;
mod unit;
mod wanted;

use std::time::Instant;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

pub(crate) use self::decide::{
    LOOK_AGAIN, LOOK_AT_LEAST, LOOK_EVERY, LOOK_WAITING, MOST_TOLD, QUIET_FOR,
};
use self::decide::{Stopping, pause};
pub(crate) use self::flapping::{MOST_GAPS_TOLD, TOGETHER_FOR};
pub(crate) use self::follow::{MOST_WAITING, RETRY_AFTER};
use self::kept::Kept;
pub(crate) use self::kept::TOLD_WITHIN;
use self::renewed::{Inherited, Why, become_installed};
pub(crate) use self::restarted::TOLD_WITHIN as RESTART_TOLD_WITHIN;
use self::restarted::is_restarted;
use self::shown::Shown;
use self::told::Teller;
pub(crate) use self::unit::ASK_EVERY;
use self::unit::Unit;
use self::wanted::Wanted;
use crate::action::rooms::left;
use crate::cli::KeepArgs;
use crate::gate::counted;
use crate::kernel::caps;
use crate::kernel::room::known::guards;
use crate::kernel::room::probe;
use crate::process::lock::{Lock, LocksOf, directory_in_use, ports_of_runs};
use crate::process::notify;
use crate::process::rlimits::allow_files;
use crate::process::signals::{Caught, Signals, asked_to_end};
use crate::run::report::appended;
use crate::tell::say::Say;
use crate::words::exit::{Exit, NOT_RUN};
use crate::words::ports::PortSet;

/// What `--any` means.
const ANY: &str = "--any gives SO_REUSEPORT to listeners that lack it, as long as keep keeps them: no second instance \
    gets the same address, but one that runs as the same user and sets SO_REUSEPORT can bind an address that overlaps \
    with it";

/// What an ordinary user is told.
const ROOT: &str = "keep needs root of this host: it puts programs into the kernel, and copies listeners (CAP_NET_ADMIN, \
                    CAP_SYS_ADMIN, CAP_SYS_PTRACE)";

/// The files of an address that is kept: its shelf of rooms, and three maps for programs.
pub(crate) const FILES_OF_ADDRESS: u64 = 4;
/// The files of all, and those that a look has open for a moment.
pub(crate) const FILES_OF_LOOK: u64 = 128;

pub(crate) fn run(args: &KeepArgs, say: &Say) -> Exit {
    match keep(args, say) {
        Ok(()) => Exit::Status(0),
        Err(error) => {
            say.error(&format!("{error:#}"));
            Exit::Status(NOT_RUN)
        }
    }
}

fn keep(args: &KeepArgs, say: &Say) -> Result<()> {
    ensure!(caps::net_admin(), ROOT);
    let signals = Signals::block().context("signalfd")?;
    let signals = signals.unblocked_for_children();
    while keep_until(args, &signals, say)? == Why::Renewed {
        let why = become_installed();
        say.warning(&format!(
            "keep goes on as the old program: the one that is installed now can't be executed: {why:#}"
        ));
    }
    Ok(())
}

fn keep_until(args: &KeepArgs, signals: &Signals, say: &Say) -> Result<Why> {
    if let Some(file) = &args.report_file {
        appended::check(file).map_err(Error::msg)?;
    }
    let addresses = args.max_addresses;
    allow_files(u64::from(addresses) * FILES_OF_ADDRESS + FILES_OF_LOOK)
        .map_err(|why| anyhow!("--max-addresses {addresses}: {why}"))?;
    let mut wanted = Wanted::of(args);
    let unit = wanted
        .unit
        .as_ref()
        .map(|name| Unit::find(name, &wanted.run, signals));
    let unit = unit.transpose().with_context(|| wanted.option())?;
    let mut lock = Lock::open(LocksOf::Keeps, &wanted.first_ports())?;
    if let Some(holder) = lock.try_take(&wanted.run)? {
        bail!(
            "{}: another keep has a part of it: {holder}",
            wanted.option()
        );
    }
    wanted.is_locked();
    let others = lock.roll()?.living;
    if let Err(error) = counted::remove_others(&others) {
        say.warning(&format!(
            "the counts of gaps of dead keeps can't be removed: {error}"
        ));
    }
    let kept = under_lock(&wanted, unit, &mut lock, signals, say);
    // Those of this keep, too.
    let _ = counted::remove_others(&others);
    lock.remove(|| guards().iter().any(|guard| guard.orders.keeps.is_some()));
    kept
}

fn under_lock(
    wanted: &Wanted,
    unit: Option<Unit>,
    lock: &mut Lock,
    signals: &Signals,
    say: &Say,
) -> Result<Why> {
    probe::moves_connections()?;
    for left in left::take_back()? {
        say.warning(&left.words());
    }
    // Before this keep has guards of its own.
    let mut inherited = Inherited::find();
    let mut kept = Kept::new(wanted, unit, lock)?;
    let first = kept.look()?;
    // Where nobody has named the ports, some may do.
    let none = wanted.named || kept.ports().is_empty();
    if let Some(why) = kept.refusal().filter(|_| none) {
        kept.end();
        return Err(anyhow!("{}: {why}", wanted.option()));
    }
    begin(wanted, &kept, say);
    let mut teller = Teller::new(wanted, say);
    teller.tell(&first);
    say.must_not_block();
    let why = stand_by(&mut kept, signals, &mut teller, &mut inherited);
    let told = match why == Why::Renewed || is_restarted(&wanted.run, signals) {
        true => kept.leave(),
        false => kept.end(),
    };
    teller.tell(&told);
    teller.end();
    say.may_block(asked_to_end());
    Ok(why)
}

fn begin(wanted: &Wanted, kept: &Kept, say: &Say) {
    let ports = kept.ports();
    let missing = match wanted.named {
        true => wanted.ports.minus(&ports),
        false => PortSet::EMPTY,
    };
    let gated = ports_of_runs(&directory_in_use());
    let in_run = !wanted.ports.intersection(&gated).is_empty();
    say.result(&began(wanted, &ports, &missing, in_run));
    if wanted.any {
        say.result(ANY);
    }
}

/// What is kept now, and what will be. `in_run`: a run has its gate closed there.
fn began(wanted: &Wanted, ports: &PortSet, missing: &PortSet, in_run: bool) -> String {
    let max_wait = humantime::format_duration(wanted.max_wait);
    let (what, yet) = (wanted.what(), missing.brief());
    if ports.is_empty() && in_run {
        return format!(
            "keeping {what}: a run of syngate has its gate closed there; once somebody listens, new connections wait \
             whenever nobody does, for {max_wait} at most"
        );
    }
    if ports.is_empty() {
        return format!(
            "keeping {what}: nobody listens there yet, so new connections are refused until somebody does; from then \
             on they wait while nobody listens, for {max_wait} at most"
        );
    }
    let later = match missing.is_empty() {
        true => String::new(),
        false => format!(
            "; nobody listens yet on {yet}, where new connections are refused until somebody does"
        ),
    };
    format!(
        "keeping {what}: while nobody listens there, new connections wait, for {max_wait} at most{later}"
    )
}

/// Until a signal ends it, or has it become the program that is installed now.
fn stand_by(
    kept: &mut Kept,
    signals: &Signals,
    teller: &mut Teller,
    inherited: &mut Inherited,
) -> Why {
    let mut stopping = Stopping::default();
    let mut renews = false;
    let mut shown = Shown::default();
    loop {
        shown.show(&kept.ports(), teller.gaps());
        let due = Instant::now() + pause(kept.pace());
        let caught = signals.wait_beside(Some(due), kept.wakes());
        let signalled = matches!(caught, Some(Caught::Stop(..)));
        if signalled {
            stopping = stopping.signalled();
            notify::stopping();
        }
        if caught == Some(Caught::OpenNow) {
            renews = true;
            notify::reloading();
        }
        match kept.look() {
            Ok(told) => teller.tell(&told),
            Err(error) => teller.failed(&error),
        }
        inherited.reap();
        if stopping.ends(kept.is_in_gap()) {
            return Why::Signalled;
        }
        if renews && kept.may_leave() {
            return Why::Renewed;
        }
        if signalled {
            teller.ends_later();
        }
    }
}
