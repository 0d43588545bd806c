//! Two hits in one run: some of all that there could be.

use crate::{
    chance::Chance,
    fault::Fault,
    neighbour::Neighbour,
    point::Point,
    setting::Scene,
    trial::{Deed, Hit, Trial},
};

/// One second hit of so many is a neighbour's, where one can come by.
const VISITS: usize = 3;

/// So many, by this seed; a few are none, and left out.
pub fn pairs(scene: &Scene, points: &[Point], count: usize, seed: u64) -> Vec<Trial> {
    let mut chance = Chance::new(seed);
    let pair = |_| pair(scene, points, &mut chance);
    (0..count).filter_map(pair).collect()
}

fn pair(scene: &Scene, points: &[Point], chance: &mut Chance) -> Option<Trial> {
    let last = points.len().checked_sub(1).filter(|last| *last > 0)?;
    let first = chance.below(last);
    let second = first + 1 + chance.below(points.len() - first - 1);
    let (first, second) = (&points[first], &points[second]);
    // Nothing comes after the end of syngate.
    let goes_on = |fault: &Fault| !(fault.kills() && first.process == "syngate");
    let fault = fault(first, chance, goes_on)?;
    let deed = match chance.below(VISITS) {
        0 if second.takes_visits() => visit(scene, chance)?,
        _ => Deed::Fault(self::fault(second, chance, |_| true)?),
    };
    let mut trial = Trial::new(scene, first, Deed::Fault(fault));
    trial.then = Some(Hit {
        point: second.clone(),
        deed,
    });
    Some(trial)
}

/// None that hangs for longer than any call takes: that has a shorter `--max-closed`.
fn fault(point: &Point, chance: &mut Chance, may_be: impl Fn(&Fault) -> bool) -> Option<Fault> {
    let fits = |fault: &Fault| fault.fits(point) && *fault != Fault::Hang && may_be(fault);
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(fits).collect();
    chance.one_of(&faults).copied()
}

fn visit(scene: &Scene, chance: &mut Chance) -> Option<Deed> {
    let suits = |by: &Neighbour| by.suits(&scene.setting) && *by != Neighbour::Stops;
    let visitors: Vec<Neighbour> = Neighbour::VISITORS.into_iter().filter(suits).collect();
    chance.one_of(&visitors).copied().map(Deed::Neighbour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{setting::named, subject::Subject};

    #[test]
    fn the_second_comes_later_and_the_same_seed_makes_the_same() {
        let point = |n: usize| Point {
            phase: n.to_string(),
            process: "syngate".to_owned(),
            call: "write".to_owned(),
        };
        let points: Vec<Point> = (0..9).map(point).collect();
        let scene = Scene {
            setting: named("nft, drop").unwrap(),
            subject: Subject::Plain,
            rtt_ms: 0,
        };
        let all = pairs(&scene, &points, 200, 7);
        assert_eq!(all, pairs(&scene, &points, 200, 7));
        assert_ne!(all, pairs(&scene, &points, 200, 8));
        assert!(all.len() > 190, "{}", all.len());
        for trial in &all {
            let then = trial.then.as_ref().unwrap();
            assert!(then.point.phase > trial.hit.point.phase, "{trial}");
            assert_ne!(trial.hit.deed.signal(), Some(9), "{trial}");
        }
        assert!(all.iter().any(|trial| trial.neighbour().is_some()));
        assert!(pairs(&scene, &points[..1], 9, 7).is_empty());
    }
}
