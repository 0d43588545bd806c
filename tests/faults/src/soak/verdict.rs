//! The totals of a soak, and what of it is not as promised. Pure.

use testkit::median;

use super::{
    gauge::GAUGES,
    seen::{Restarts, Round, Run, Sample, Totals},
};

/// A gate may fail to be closed once in so many runs: see [`was_not_run`].
const SELDOM: usize = 20;

impl Totals {
    /// Of the settings that were to be tried, and what was seen.
    pub fn of(settings: &[&str], runs: &[Run], rounds: &[Round]) -> Totals {
        let restarts = settings.iter().map(|setting| {
            let of_it = runs.iter().filter(|run| run.setting == *setting);
            (
                (*setting).to_owned(),
                Restarts::of(&of_it.collect::<Vec<_>>()),
            )
        });
        let quarter = (rounds.len() / 4).max(1).min(rounds.len());
        let mut totals = Totals {
            seconds: rounds.iter().map(|round| round.seconds).sum(),
            connections: rounds.iter().map(|round| round.sum(|c| c.connects)).sum(),
            failed: rounds.iter().map(|round| round.sum(|c| c.failed)).sum(),
            delayed: rounds.iter().map(|round| round.sum(|c| c.delayed)).sum(),
            late: rounds.iter().map(|round| round.sum(|c| c.late)).sum(),
            restarts: restarts.collect(),
            first: medians(&rounds[..quarter]),
            last: medians(&rounds[rounds.len() - quarter..]),
            violations: Vec::new(),
        };
        totals.violations = totals.found();
        totals.violations.extend(runs.iter().filter_map(unclean));
        totals.violations.extend(failures(runs, rounds));
        totals
    }

    fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.connections == 0 {
            found.push("nobody connected".to_owned());
        }
        if self.failed > 0 {
            found.push(format!(
                "{} of {} connections failed",
                self.failed, self.connections
            ));
        }
        let idle = self
            .restarts
            .iter()
            .filter(|(_, restarts)| restarts.runs == 0);
        found.extend(idle.map(|(setting, _)| format!("{setting}: not tried once")));
        let not_run = self
            .restarts
            .iter()
            .filter(|(_, restarts)| restarts.not_run * SELDOM > restarts.runs);
        found.extend(not_run.map(|(setting, restarts)| {
            let Restarts { runs, not_run, .. } = restarts;
            format!("{setting}: COMMAND was not run in {not_run} of {runs}")
        }));
        found.extend(growth(&self.first, &self.last));
        found
    }
}

impl Restarts {
    fn of(runs: &[&Run]) -> Restarts {
        let closed = || runs.iter().filter_map(|run| run.closed_ms);
        Restarts {
            runs: runs.len(),
            clean: runs.iter().filter(|run| is_clean(run)).count(),
            not_run: runs.iter().filter(|run| was_not_run(run)).count(),
            closed_ms: median(closed()),
            longest_closed_ms: closed().reduce(f64::max),
        }
    }
}

fn medians(rounds: &[Round]) -> Sample {
    let of = |name: &str| {
        median(
            rounds
                .iter()
                .filter_map(|round| round.sample.get(name).copied()),
        )
    };
    let gauges = GAUGES.iter().map(|gauge| gauge.name);
    gauges
        .filter_map(|name| Some((name.to_owned(), of(name)?)))
        .collect()
}

/// What has grown beyond its bound, or was not counted.
fn growth(first: &Sample, last: &Sample) -> Vec<String> {
    let grown = |gauge: &super::gauge::Gauge| {
        let (Some(first), Some(last)) = (first.get(gauge.name), last.get(gauge.name)) else {
            return Some(format!("{}: not counted", gauge.name));
        };
        (last - first > gauge.bound).then(|| {
            let (name, bound) = (gauge.name, gauge.bound);
            format!("{name}: {first} in the first quarter, {last} in the last; {bound} more may be")
        })
    };
    GAUGES.iter().filter_map(grown).collect()
}

fn is_clean(run: &Run) -> bool {
    run.code == 0 && run.ran == 1 && run.left.is_empty()
}

/// As is promised where the gate could not be closed: on a machine that is busy for seconds, iptables can
/// be too slow for the deadline in its rules.
fn was_not_run(run: &Run) -> bool {
    run.code == 125 && run.ran == 0 && run.left.is_empty()
}

/// Nothing else may be: COMMAND succeeds, and the bounds are wide.
fn unclean(run: &Run) -> Option<String> {
    let Run {
        setting,
        service,
        code,
        ran,
        left,
        said,
        ..
    } = run;
    (!is_clean(run) && !was_not_run(run)).then(|| {
        format!(
            "{setting}: {service}: status {code}, COMMAND ran {ran} times, left: {left:?}: {said}"
        )
    })
}

/// Each of them, with the run that was under way.
fn failures(runs: &[Run], rounds: &[Round]) -> Vec<String> {
    let clients = rounds.iter().flat_map(|round| &round.clients);
    let failed = clients.flat_map(|c| c.failures.iter().map(move |failure| (c, failure)));
    let told = failed.map(|(clients, failure)| {
        let due = clients.started_ms + failure.due_ms;
        let before = runs.iter().rev().find(|run| run.began_ms <= due);
        let since = before.map_or("before any run".to_owned(), |run| {
            let (since, took) = (due - run.began_ms, run.took_ms);
            format!(
                "{since:.1} ms into '{}', which took {took:.1} ms",
                run.setting
            )
        });
        let (to, lasted) = (&clients.to, failure.at_ms - failure.due_ms);
        format!(
            "{to}: {:?} ({}) after {lasted:.1} ms, due {since}",
            failure.kind, failure.detail
        )
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use testkit::{Failure, Fate};

    use super::*;
    use crate::soak::seen::Clients;

    const NAME: &str = "nft, drop";

    fn run() -> Run {
        Run {
            setting: NAME.to_owned(),
            code: 0,
            ran: 1,
            began_ms: 1_000.0,
            took_ms: 50.0,
            closed_ms: Some(30.0),
            ..Run::default()
        }
    }

    /// One that has counted so many of everything.
    fn round(number: usize, count: f64) -> Round {
        let clients = Clients {
            connects: 100,
            ok: 100,
            delayed: 3,
            ..Clients::default()
        };
        Round {
            number,
            seconds: 10,
            clients: vec![clients.clone(), clients],
            sample: GAUGES
                .iter()
                .map(|gauge| (gauge.name.to_owned(), count))
                .collect(),
            ..Round::default()
        }
    }

    fn rounds(counts: [f64; 8]) -> Vec<Round> {
        counts
            .into_iter()
            .enumerate()
            .map(|(n, count)| round(n, count))
            .collect()
    }

    #[test]
    fn all_is_well() {
        let totals = Totals::of(&[NAME], &[run(), run()], &rounds([7.0; 8]));
        assert_eq!(totals.violations, Vec::<String>::new());
        assert_eq!(
            (totals.seconds, totals.connections, totals.delayed),
            (80, 1_600, 48)
        );
        let restarts = &totals.restarts[NAME];
        assert_eq!(
            (restarts.runs, restarts.clean, restarts.closed_ms),
            (2, 2, Some(30.0))
        );
    }

    #[test]
    fn what_grows_is_found_whatever_a_single_sample_says() {
        let found = |counts| Totals::of(&[NAME], &[run()], &rounds(counts)).violations;
        let most = GAUGES.iter().map(|gauge| gauge.bound).fold(0.0, f64::max);
        // 1 more is too much for those that must not grow at all, and for no others.
        let never = GAUGES.iter().filter(|gauge| gauge.bound < 1.0).count();
        assert!((1..GAUGES.len()).contains(&never));
        assert_eq!(found([5.0, 5.0, 5.0, 5.0, 6.0, 6.0, 6.0, 6.0]).len(), never);
        let more = 5.0 + most + 1.0;
        assert_eq!(
            found([5.0, 5.0, 5.0, 5.0, more, more, more, more]).len(),
            GAUGES.len()
        );
        // Less is no growth, and what is between does not matter.
        assert!(found([5.0, 5.0, 9e9, 9e9, 9e9, 9e9, 4.0, 4.0]).is_empty());
        let mut uncounted = rounds([5.0; 8]);
        uncounted.iter_mut().for_each(|round| round.sample.clear());
        assert_eq!(
            Totals::of(&[NAME], &[run()], &uncounted).violations.len(),
            GAUGES.len()
        );
    }

    #[test]
    fn runs_and_clients_are_judged() {
        let well = rounds([5.0; 8]);
        let violations =
            |runs: &[Run], rounds: &[Round]| Totals::of(&[NAME], runs, rounds).violations;
        let status = Run { code: 124, ..run() };
        let left = Run {
            left: vec!["table inet syngate".to_owned()],
            ..run()
        };
        assert_eq!(violations(&[run(), status, left], &well).len(), 2);
        assert_eq!(violations(&[], &well).len(), 1, "not tried");
        let mut failed = well.clone();
        failed[3].clients[1].failed = 1;
        failed[3].clients[1].failures.push(Failure {
            due_ms: 1_012.0,
            at_ms: 1_013.0,
            kind: Fate::Refused,
            detail: String::new(),
        });
        let found = violations(&[run()], &failed);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[1].contains("12.0 ms into 'nft, drop', which took 50.0 ms"),
            "{found:?}"
        );
        let mut nobody = well;
        nobody.iter_mut().for_each(|round| round.clients.clear());
        assert_eq!(violations(&[run()], &nobody), ["nobody connected"]);
    }
}
