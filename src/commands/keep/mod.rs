//! `syngate keep` stands by all the time: new connections reach the service as long as it listens, and wait in
//! rooms while nobody does. So restarts and crashes by anybody are bridged.

mod cap;
mod claim;
mod decide;
mod follow;
mod gap;
mod kept;
mod shown;
mod stand_back;
mod told;
mod unit;
mod wanted;

use std::time::Instant;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

pub(crate) use self::decide::{
    LISTENS_WITHIN, LOOK_AGAIN, LOOK_AT_LEAST, LOOK_EVERY, LOOK_WAITING,
};
use self::decide::{Stopping, pause};
pub(crate) use self::follow::{MOST_WAITING, RETRY_AFTER};
use self::kept::Kept;
pub(crate) use self::kept::{MOVES_WITHIN, TOLD_WITHIN};
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
use crate::process::lock::{Lock, LocksOf};
use crate::process::notify;
use crate::process::rlimits::allow_files;
use crate::process::signals::{Caught, Signals};
use crate::run::report::appended;
use crate::tell::say::Say;
use crate::words::exit::{Exit, NOT_RUN};

/// What `--any` means.
const ANY: &str = "--any: listeners without SO_REUSEPORT have it while they are kept: a second instance is refused on \
                   their addresses as before, but one of the same user that sets SO_REUSEPORT can bind an address that \
                   overlaps with theirs";

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
        .map(|name| Unit::find(name, &wanted.run, &signals));
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
            "what dead keeps have counted can't be removed: {error}"
        ));
    }
    let kept = under_lock(&wanted, unit, &mut lock, &signals, say);
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
) -> Result<()> {
    probe::moves_connections()?;
    for left in left::take_back()? {
        say.warning(&left.words());
    }
    let mut kept = Kept::new(wanted, unit, lock)?;
    let first = kept.look()?;
    // Where nobody has named the ports, some may do.
    if let Some(why) = kept.refusal()
        && (wanted.named || kept.ports().is_empty())
    {
        kept.end();
        return Err(anyhow!("{}: {why}", wanted.option()));
    }
    begin(wanted, &kept, say);
    let mut teller = Teller::new(wanted, say);
    teller.tell(&first);
    say.must_not_block();
    stand_by(&mut kept, signals, &mut teller);
    teller.tell(&kept.end());
    say.may_block();
    Ok(())
}

fn begin(wanted: &Wanted, kept: &Kept, say: &Say) {
    let max_wait = humantime::format_duration(wanted.max_wait);
    let (what, ports) = (wanted.what(), kept.ports());
    say.result(&format!(
        "keeping {what}: while nobody listens there, new connections wait, for {max_wait} at most"
    ));
    if wanted.any {
        say.result(ANY);
    }
    let missing = match wanted.named {
        true => wanted.ports.minus(&ports).brief(),
        false if ports.is_empty() => what,
        false => return,
    };
    if !missing.is_empty() {
        say.result(&format!(
            "{missing}: nobody listens yet, and new connections are refused until somebody does"
        ));
    }
}

/// Until a signal ends it.
fn stand_by(kept: &mut Kept, signals: &Signals, teller: &mut Teller) {
    let mut stopping = Stopping::default();
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
        match kept.look() {
            Ok(told) => teller.tell(&told),
            Err(error) => teller.failed(&error),
        }
        if stopping.ends(kept.is_in_gap()) {
            return;
        }
        if signalled {
            teller.ends_later();
        }
    }
}
