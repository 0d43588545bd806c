//! Whether systemd is restarting the unit that this keep is in. Then the guard stays for the next keep, which takes the
//! rooms over; else a keep that is told to end takes everything back.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process::environment::environment;
use crate::process::signals::Signals;
use crate::process::systemctl::{Question, read};
use crate::process::unit::Unit;

/// Without an answer within this time, it is a stop.
pub(crate) const TOLD_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(super) fn is_restarted(run: &str, signals: &Signals) -> bool {
    let unit = Unit::of_this_process();
    let Some(name) = unit.as_ref().and_then(Unit::service_of_system) else {
        return false;
    };
    let name = format!("{name}.service");
    let Ok(question) = Question::ask(&name, &environment(run), signals.inherited()) else {
        return false;
    };
    let give_up = Instant::now() + TOLD_WITHIN;
    while Instant::now() < give_up {
        if let Some(answer) = question.answer() {
            let answer = answer.and_then(|said| read(&said));
            return answer.is_ok_and(|answer| answer.is_restarted());
        }
        sleep(LOOK_EVERY);
    }
    false
}
