//! What the guard process of a run's rooms is told. It stands on the guard's command line, which everybody can
//! read: other runs, `status`, `clear` and `check` know the rooms by it.

use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use crate::kernel::sockets::netns::Netns;
use crate::words::ports::PortSet;
use crate::words::run_id::is_id;

/// The hidden command of the guard process.
pub(crate) const COMMAND: &str = "room-guard";
/// The name in ps(1), so that `pkill -9 syngate` does not find it.
pub(crate) const NAME: &str = "gate-room";

/// Tells a guard whose run has died to hand over at once.
pub(crate) const HAND_OVER: Signal = Signal::SIGTERM;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Orders {
    /// When the guard hands over at the latest, as [`monotonic`] tells the time.
    pub until: Duration,
    pub run: String,
    /// Those of the listeners.
    pub ports: PortSet,
    /// The cookies of the listeners that were there before.
    pub old: Vec<u64>,
    /// How many connections a second the guard hands over at most.
    pub release_rate: Option<NonZeroU32>,
    /// The cookies of the rooms.
    pub rooms: Vec<u64>,
    /// The network namespace of the listeners.
    pub netns: Option<Netns>,
    /// The control group of COMMAND, within the hierarchy.
    pub group: Option<PathBuf>,
    /// Which run it is, as the comments of rules tell it.
    pub who: String,
    /// Those of a keep, which has no end by itself: how long the guard waits for the service, once the keep has
    /// died.
    pub keeps: Option<Duration>,
    /// The file that says what the run would leave.
    pub note: Option<PathBuf>,
    /// The descriptors that it inherits.
    pub files: Vec<(File, RawFd)>,
}

/// What a descriptor is: a letter behind its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum File {
    Shelf,
    /// That of a group whose listeners have SO_REUSEPORT from syngate.
    LentShelf,
    Link,
    Note,
    /// The map of the sockets that were bound meanwhile.
    Bindings,
    /// The map of the sockets that have SO_REUSEPORT from a keep.
    Lent,
    /// That of the places where sockets get it. Comes after [`File::Lent`].
    LentPlaces,
    /// Whether the keep, or the guard of a dead one, has copies of listeners. Comes after [`File::Lent`].
    LentBusy,
    /// Where a copy of an old listener lies.
    OldListener,
}

impl File {
    const ALL: [(File, char); 9] = [
        (File::Shelf, 's'),
        (File::LentShelf, 'l'),
        (File::Link, 'h'),
        (File::Note, 'n'),
        (File::Bindings, 'b'),
        (File::Lent, 'r'),
        (File::LentPlaces, 'p'),
        (File::LentBusy, 'c'),
        (File::OldListener, 'o'),
    ];

    fn letter(self) -> char {
        let mut all = File::ALL.iter();
        all.find(|(file, _)| *file == self)
            .map_or('?', |(_, letter)| *letter)
    }

    fn parse(text: &str) -> Option<(File, RawFd)> {
        let mut all = File::ALL.iter();
        let (file, letter) = all.find(|(_, letter)| text.ends_with(*letter))?;
        Some((*file, text.strip_suffix(*letter)?.parse().ok()?))
    }
}

impl Orders {
    #[cfg(test)]
    pub(crate) fn made_up() -> Orders {
        Orders {
            until: Duration::from_millis(1_500),
            run: "0123456789abcdef".to_owned(),
            ports: [80, 443].into_iter().collect(),
            old: vec![7, 8],
            release_rate: NonZeroU32::new(20),
            rooms: vec![],
            netns: None,
            group: Some("/sys/fs/cgroup/a".into()),
            who: "syngate pid=1 since=2 command=true".to_owned(),
            keeps: Some(Duration::from_millis(2_500)),
            note: Some("/run/syngate/a".into()),
            files: vec![
                (File::LentShelf, 5),
                (File::Note, 17),
                (File::Bindings, 4),
                (File::Lent, 6),
                (File::LentPlaces, 7),
                (File::LentBusy, 8),
                (File::OldListener, 9),
            ],
        }
    }

    /// `room-guard UNTIL RUN PORTS OLD RATE ROOMS NETNS GROUP WHO KEEPS NOTE FILES`.
    pub(crate) fn words(&self) -> [String; 13] {
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let files = self.files.iter();
        let files = files.map(|(file, fd)| format!("{fd}{}", file.letter()));
        let netns = self.netns.as_ref().map(ToString::to_string);
        let keeps = self.keeps.map(|keeps| keeps.as_millis().to_string());
        [
            COMMAND.to_owned(),
            self.until.as_millis().to_string(),
            self.run.clone(),
            self.ports.to_string(),
            joined(&self.old),
            self.release_rate.map_or(0, NonZeroU32::get).to_string(),
            joined(&self.rooms),
            netns.unwrap_or_default(),
            shown(&self.group).unwrap_or_default(),
            self.who.clone(),
            keeps.unwrap_or_default(),
            shown(&self.note).unwrap_or_default(),
            files.collect::<Vec<_>>().join(","),
        ]
    }

    /// Reads such words.
    pub(crate) fn parse(words: &[&str]) -> Option<Orders> {
        let [
            COMMAND,
            until,
            run,
            ports,
            old,
            rate,
            rooms,
            netns,
            group,
            who,
            keeps,
            note,
            files,
        ] = words
        else {
            return None;
        };
        let files = files.split(',').filter(|word| !word.is_empty());
        Some(Orders {
            until: Duration::from_millis(until.parse().ok()?),
            run: is_id(run).then(|| (*run).to_owned())?,
            ports: PortSet::parse(ports, |_| None).ok()?,
            old: numbers(old)?,
            release_rate: NonZeroU32::new(rate.parse().ok()?),
            rooms: numbers(rooms)?,
            netns: match *netns {
                "" => None,
                netns => Some(Netns::parse(netns).ok()?),
            },
            group: (!group.is_empty()).then(|| group.into()),
            who: (*who).to_owned(),
            keeps: match *keeps {
                "" => None,
                keeps => Some(Duration::from_millis(keeps.parse().ok()?)),
            },
            note: (!note.is_empty()).then(|| note.into()),
            files: files.map(File::parse).collect::<Option<_>>()?,
        })
    }

    /// How long the guard waits from now on at most.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_sub(monotonic())
    }
}

fn joined(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    numbers.join(",")
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    let words = text.split(',').filter(|word| !word.is_empty());
    words.map(|number| number.parse().ok()).collect()
}

/// The time of CLOCK_MONOTONIC, which is the same to all processes.
pub(crate) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// What holds for any text as the command line of a guard.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    let words: Vec<&str> = text.split('\0').collect();
    if let Some(orders) = Orders::parse(&words) {
        let again = orders.words();
        assert_eq!(
            Orders::parse(&again.each_ref().map(String::as_str)),
            Some(orders)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_called_in_one_way() {
        let orders = Orders::made_up();
        let words = orders.words();
        let mut words = words.each_ref().map(String::as_str);
        assert_eq!(Orders::parse(&words), Some(orders));
        withstand(&words.join("\0"));
        for (n, wrong) in [
            (0, "standby-guard"),
            (1, "soon"),
            (3, "80000"),
            (5, "all"),
            (6, "x"),
            (10, "never"),
            (12, "5"),
        ] {
            let right = std::mem::replace(&mut words[n], wrong);
            assert_eq!(Orders::parse(&words), None, "{wrong}");
            words[n] = right;
        }
        assert_eq!(Orders::parse(&words[..12]), None);
    }
}
