//! Which trials there are, in which order, and which of them are done already.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use testkit::{append_row, digest, mend_rows, read_rows, say};

use crate::{
    chance::Chance,
    point::Point,
    setting::{self, SETTINGS, Scene, Setting},
    stage::Stage,
    subject::{self, Subject, Subjects},
    table,
    trial::{Deed, Hit, Shown, Trial},
    turns::Turns,
};

/// What is to be tried.
#[derive(clap::Args)]
pub struct Campaign {
    /// The file of results, a line of JSON for each trial; those that it has are not repeated
    #[arg(long)]
    results: PathBuf,
    /// The syngate to hit: a debug build can also lack what old kernels lack
    #[arg(long)]
    syngate: PathBuf,
    /// Only these settings
    #[arg(long, value_parser = setting::asked)]
    setting: Vec<Setting>,
    /// With such services and COMMANDs, where they tell something new: 'others' are all but 'plain'
    #[arg(long, default_value = "plain", value_parser = subject::asked)]
    subject: Vec<Subjects>,
    /// Only these system calls
    #[arg(long)]
    call: Vec<String>,
    /// Only these deeds: faults or neighbours, as the results name them
    #[arg(long)]
    deed: Vec<String>,
    /// Not these deeds
    #[arg(long)]
    except: Vec<String>,
    /// With clients whose way to the service and back takes so many ms: 20, 250, 600
    #[arg(long, default_value = "0")]
    rtt: Vec<u32>,
    /// Only so many of each deed, in each setting: a sample that has all of them. The seed chooses
    #[arg(long)]
    each: Option<usize>,
    /// End after so many seconds, with what was tried by then
    #[arg(long)]
    seconds: Option<u64>,
    /// In which order; printed, for a sample to be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// Only this part of all: `2/3` is the second of three
    #[arg(long, default_value = "1/1", value_parser = shard)]
    shard: Shard,
}

/// A part of all trials. Which one a trial is in depends on nothing but itself, so that a part that was
/// broken off goes on as the same part.
#[derive(Debug, Clone, Copy)]
struct Shard {
    which: u64,
    of: u64,
}

impl Shard {
    fn has(self, trial: &Trial) -> bool {
        let mut hasher = DefaultHasher::new();
        trial.hash(&mut hasher);
        hasher.finish() % self.of == self.which - 1
    }
}

fn shard(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(which, of)| {
        let (which, of) = (which.parse().ok()?, of.parse().ok()?);
        (1..=of).contains(&which).then_some(Shard { which, of })
    });
    parts.ok_or_else(|| format!("'{text}': 2/3 is the second of three"))
}

impl Campaign {
    /// Tries all that `deeds` makes of the points of a run.
    ///
    /// # Errors
    /// Something was not as promised, or could not be tried.
    pub fn run(&self, deeds: impl Fn(&Scene, &[Point]) -> Vec<Trial>) -> Result<()> {
        ensure!(
            !testkit::rootless(),
            "only root can trace what root's gates are made by"
        );
        let seed = self.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()))
        });
        say(&format!("seed {seed}"))?;
        mend_rows(&self.results)?;
        let build = digest(&self.syngate)?;
        let done: Vec<Shown> = read_rows(&self.results)?;
        // What was wrong is tried again, as is all that another build was tried with.
        let clean = |shown: &Shown| shown.syngate == build && shown.violations.is_empty();
        let done = done.into_iter().filter(clean);
        let done: HashSet<Trial> = done.map(|shown| shown.trial).collect();
        let scenes = self.scenes();
        ensure!(!scenes.is_empty(), "none of these subjects suits that");
        let each = self
            .seconds
            .map(|all| Duration::from_secs(all) / scenes.len() as u32);
        let mut violations = 0;
        for scene in &scenes {
            let mut stage = Stage::new(scene, &self.syngate)?;
            let until = each.map(|each| Instant::now() + each);
            let mut trials = deeds(scene, stage.points());
            trials.retain(|trial| self.wants(trial));
            Chance::new(seed).shuffle(&mut trials);
            if let Some(most) = self.each {
                trials = of_each(trials, most);
            }
            trials.retain(|trial| !done.contains(trial));
            say(&format!("{scene}: {} trials", trials.len()))?;
            let mut turns = Turns::new(trials, Trial::is_slow);
            let in_time = || until.is_none_or(|until| Instant::now() < until);
            while let Some(trial) = in_time().then(|| turns.next()).flatten() {
                let began = Instant::now();
                violations += self.try_out(&mut stage, &trial)?;
                turns.took(began.elapsed());
            }
        }
        table::count(&read_rows(&self.results)?)?;
        ensure!(violations == 0, "{violations} violations; seed {seed}");
        Ok(())
    }

    /// Each setting with each subject that suits it, and each round trip.
    fn scenes(&self) -> Vec<Scene> {
        let mut scenes = Vec::new();
        let subjects: BTreeSet<Subject> = self.subject.iter().flat_map(|s| s.0.clone()).collect();
        let wanted = |setting: &&Setting| self.setting.is_empty() || self.setting.contains(setting);
        for setting in SETTINGS.iter().filter(wanted) {
            for subject in subjects.iter().filter(|subject| setting.suits(**subject)) {
                scenes.extend(self.rtt.iter().map(|rtt_ms| Scene {
                    setting: *setting,
                    subject: *subject,
                    rtt_ms: *rtt_ms,
                }));
            }
        }
        scenes
    }

    /// How many violations it has shown.
    fn try_out(&self, stage: &mut Stage, trial: &Trial) -> Result<usize> {
        let shown = stage.try_out(trial)?;
        for violation in &shown.violations {
            say(&format!(
                "VIOLATION: {trial}: {violation}\n{}",
                shown.stderr
            ))?;
        }
        append_row(&self.results, &shown)?;
        Ok(shown.violations.len())
    }

    fn wants(&self, trial: &Trial) -> bool {
        let is_asked_for = |hit: &Hit| {
            let deed = hit.deed.to_string();
            (self.call.is_empty() || self.call.contains(&hit.point.call))
                && (self.deed.is_empty() || self.deed.contains(&deed))
                && !self.except.contains(&deed)
        };
        trial.hits().all(is_asked_for) && self.shard.has(trial)
    }
}

/// So many of those with the same first deed.
fn of_each(trials: Vec<Trial>, most: usize) -> Vec<Trial> {
    let mut counts: HashMap<Deed, usize> = HashMap::new();
    let mut few = |trial: &Trial| {
        let count = counts.entry(trial.hit.deed).or_default();
        *count += 1;
        *count <= most
    };
    trials.into_iter().filter(|trial| few(trial)).collect()
}
