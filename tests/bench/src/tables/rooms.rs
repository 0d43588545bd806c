//! What the waiting rooms are to show, beside the other ways of the same run.

use testkit::median;

use super::{
    figures::{ms, thousands},
    measured::Measured,
    promises::promise,
};
use crate::{
    sample::Sample,
    subjects::{KEPT, PAUSED},
    ways::Way,
};

const RESTART: &str = "haproxy restart";
/// See [`PAUSED`].
const PAUSE_MS: f64 = 150.0;
/// Services that mostly hand over by themselves.
const RELOADS: [&str; 3] = [
    "haproxy reload (-sf)",
    "haproxy -st",
    "haproxy master-worker",
];
const WORKERS: &str = "nginx reload, reuseport";
/// Services without SO_REUSEPORT.
const UNSHARED: [&str; 6] = [
    "nginx restart",
    "redis restart",
    "PostgreSQL restart",
    "node restart",
    "gunicorn restart",
    "sshd, back after 3 s",
];

impl Measured {
    /// A row for each that was measured.
    pub fn room_promises(&self) -> Vec<String> {
        let rates = [1_000, 5_000];
        let restarts = rates
            .iter()
            .flat_map(|rate| [self.parked_restart(*rate), self.handover_of_a_stop(*rate)]);
        let reloads = RELOADS.iter().map(|subject| self.reload(subject, 5.0));
        let unshared = UNSHARED.iter().map(|subject| self.unshared(subject));
        let rows = restarts.chain(reloads);
        let rows = rows.chain([self.reload(WORKERS, 2.0)]).chain(unshared);
        rows.flatten().collect()
    }

    fn at(&self, rate: u32, subject: &str, way: Way) -> Rounds<'_> {
        let rounds = self.fresh(subject, way).into_iter();
        Rounds(rounds.filter(|sample| sample.rate == rate).collect())
    }

    /// Nobody can be answered before the service listens again. Then it has to serve all who waited, which takes it
    /// as long as after a pause without any gate, or after a restart in which its socket stays open.
    fn parked_restart(&self, rate: u32) -> Option<String> {
        const MORE_MS: f64 = 5.0;
        const LATER_MS: f64 = 10.0;
        let bare = self.at(rate, RESTART, Way::Bare);
        let park = self.at(rate, RESTART, Way::Park);
        let paused = self.at(rate, PAUSED, Way::Bare);
        let worst = |rounds: &Rounds| rounds.of(|s| s.connect.max_ms);
        let (connect, bare, paused_connect) = (worst(&park)?, worst(&bare)?, worst(&paused)?);
        let back = park.of(|s| s.back_ms.unwrap_or_default())?;
        let later = park.of(|s| s.total.max_ms - s.back_ms.unwrap_or_default())?;
        let paused_later = paused.of(|s| s.total.max_ms - PAUSE_MS)?;
        let inherited = self.at(rate, KEPT, Way::Bare);
        let gap = park.of(|s| s.gap_ms)?;
        let kept_later = inherited.of(|s| s.total.max_ms).map(|worst| worst - gap);
        let measured = format!(
            "{}; worst connect {}, bare {}, paused {}; back after {}, worst answer {} later, paused {}{}{}",
            park.failures(),
            ms(connect),
            ms(bare),
            ms(paused_connect),
            ms(back),
            ms(later),
            ms(paused_later),
            kept_later.map_or(String::new(), |later| format!(
                ", its socket kept {}",
                ms(later)
            )),
            park.late()
        );
        let what = format!(
            "park, {RESTART}, {} a second: nobody fails; the worst connect is at most 5 ms above that of bare or of \
             a haproxy that was only paused; the worst answer comes at most 10 ms after the service listens again, \
             or 10 ms later than after a pause or where its socket is kept open",
            thousands(rate.into())
        );
        let bound = kept_later
            .map_or(0.0, |later| later.max(0.0))
            .max(paused_later);
        let kept = park.failed() == 0
            && connect <= bare.max(paused_connect) + MORE_MS
            && later <= bound + LATER_MS;
        Some(promise(&what, &measured, kept))
    }

    /// A process that stops at once cuts the connections it has accepted.
    fn handover_of_a_stop(&self, rate: u32) -> Option<String> {
        let bare = self.at(rate, RESTART, Way::Bare);
        let handover = self.at(rate, RESTART, Way::Handover);
        let lost = |rounds: &Rounds| rounds.sum(|s| s.failed() - s.cut);
        let cut = |rounds: &Rounds| rounds.sum(|s| s.cut) as f64 / rounds.0.len() as f64;
        let (lost, cut, bare) = (lost(&handover), cut(&handover), cut(&bare));
        (!handover.0.is_empty()).then(|| {
            promise(
                &format!(
                    "handover, {RESTART}, {} a second: nobody is refused or reset, and no more are cut than bare",
                    thousands(rate.into())
                ),
                &format!("{lost} refused or reset, {cut:.1} cut in each restart against {bare:.1}"),
                lost == 0 && cut <= bare,
            )
        })
    }

    fn reload(&self, subject: &str, more_ms: f64) -> Option<String> {
        let of = |way| Rounds(self.fresh(subject, way));
        let (bare, handover) = (of(Way::Bare), of(Way::Handover));
        let tail = |rounds: &Rounds| {
            Some((
                rounds.of(|s| s.total.p99_ms)?,
                rounds.of(|s| s.total.max_ms)?,
            ))
        };
        let ((p99, worst), (bare_p99, bare_worst)) = (tail(&handover)?, tail(&bare)?);
        // Of many workers' reloads the single worst says nothing: bare's is as bad.
        let workers = subject == WORKERS;
        let what = match workers {
            true => "answers' p99 is at most bare's and 2 ms",
            false => "answers' p99 and the worst answer are at most bare's and 5 ms",
        };
        let measured = format!(
            "{}, bare {}; p99 {} against {}, worst {} against {}{}",
            handover.failures(),
            bare.failures(),
            ms(p99),
            ms(bare_p99),
            ms(worst),
            ms(bare_worst),
            handover.late()
        );
        let kept = handover.failed() == 0
            && p99 <= bare_p99 + more_ms
            && (workers || worst <= bare_worst + more_ms);
        let what = format!("handover, {subject}: nobody fails; {what}");
        Some(promise(&what, &measured, kept))
    }

    fn unshared(&self, subject: &str) -> Option<String> {
        let [bare, hold, park] =
            [Way::Bare, Way::Hold, Way::Park].map(|way| Rounds(self.fresh(subject, way)));
        (!park.0.is_empty()).then(|| {
            let measured = format!(
                "{}; hold {}, bare {}",
                park.failures(),
                hold.failures(),
                bare.failures()
            );
            promise(
                &format!("park, {subject} (no SO_REUSEPORT): nobody fails"),
                &measured,
                park.failed() == 0,
            )
        })
    }
}

/// All rounds of a way.
struct Rounds<'a>(Vec<&'a Sample>);

impl Rounds<'_> {
    fn sum(&self, value: impl Fn(&Sample) -> u64) -> u64 {
        self.0.iter().map(|sample| value(sample)).sum()
    }

    fn failed(&self) -> u64 {
        self.sum(Sample::failed)
    }

    /// Of the rounds in which the clients were on time, if there are any: a late client's times are its own.
    fn of(&self, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        let on_time = self.0.iter().filter(|sample| sample.late == 0);
        let all = || median(self.0.iter().map(|sample| value(sample)));
        median(on_time.map(|sample| value(sample))).or_else(all)
    }

    fn failures(&self) -> String {
        format!(
            "{} of {} failed in {} restarts",
            self.failed(),
            thousands(self.sum(|s| s.sent)),
            self.0.len()
        )
    }

    fn late(&self) -> String {
        let late = self.0.iter().filter(|sample| sample.late > 0).count();
        match late {
            0 => String::new(),
            n => format!(" (clients late in {n} of {})", self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_rounds_whose_clients_were_on_time() {
        let of = |late, gap_ms| Sample {
            late,
            gap_ms,
            ..Sample::default()
        };
        let (late, on_time) = (of(1, 9.0), of(0, 1.0));
        assert_eq!(Rounds(vec![&late, &on_time]).of(|s| s.gap_ms), Some(1.0));
        assert_eq!(Rounds(vec![&late]).of(|s| s.gap_ms), Some(9.0));
        assert_eq!(Rounds(Vec::new()).of(|s| s.gap_ms), None);
        assert_eq!(
            Rounds(vec![&late, &on_time]).late(),
            " (clients late in 1 of 2)"
        );
    }
}
