//! When an action has a say in a run. An action decides here, purely, and acts elsewhere: its policy
//! asks a question, the action answers it, and the policy draws its conclusion.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::words::ports::PortSet;

/// What a policy wants to know or to have done, and when.
pub(crate) type Due = Option<(Instant, Question)>;

/// What the action is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Does anybody take the connections that the gate steers elsewhere?
    Taken,
    /// Let go of the SYNs that wait for these ports, as far as their listeners have room.
    LetGo {
        ports: PortSet,
        /// The ports open in any case, whether anybody listens there or not.
        finally: bool,
    },
    /// How many connections are left that the gate has steered elsewhere?
    Left,
    /// Begin to stop what was started for the time of the gate.
    Stop,
}

/// What the action answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Taken(bool),
    /// Who waits still, after [`Question::LetGo`].
    Waiting(Waiting),
    /// `None`: that can't be seen.
    Left(Option<usize>),
    /// It has begun to stop.
    Stopping,
    /// It is gone. May also come later than the question.
    Stopped,
}

/// Who waits after a round of letting go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Waiting {
    /// Somebody waits for these ports.
    pub ports: PortSet,
    /// How many wait.
    pub count: usize,
    /// How many have gone since the gate was closed.
    pub gone: u64,
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conclusion {
    GoOn,
    /// These ports may open; those that are not named still wait.
    MayOpen(PortSet),
    /// The gate does more harm than an open port: open it now.
    Abandon(Abandoned),
}

/// Why an action gave the gate up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned {
    /// The word for machines.
    pub reason: &'static str,
    /// What people read: the beginning of a sentence.
    pub why: &'static str,
}

/// What a policy has noted for the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// How long it took to let go of who waited.
    pub released_in: Option<Duration>,
    /// Why not all of them could go in their turn.
    pub release_cut: Option<Cut>,
    /// What became of connections that were steered elsewhere.
    pub lingered: Option<Lingered>,
}

/// Why a release ends before everybody has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// `--release-timeout` is over.
    TimedOut,
    /// More come than go.
    Stalled,
}

/// How the wait for connections elsewhere ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lingered {
    pub took: Duration,
    /// So many had not finished; `None`: that could not be seen.
    pub left: Option<usize>,
    pub end: LingerEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LingerEnd {
    /// Nobody was left.
    Finished,
    /// `--linger` was over.
    TimedOut,
    /// A second signal came.
    Stopped,
}

/// When an action has a say. What it leaves out, it has no say in.
pub(crate) trait Policy: Debug {
    /// What to ask while a port is shut.
    fn while_shut(&self) -> Due {
        None
    }

    /// These ports, and no others, are to open. Whether they have to wait until the policy says so.
    fn aim(&mut self, _ports: PortSet) -> bool {
        false
    }

    /// All of these ports are to open, for good.
    fn aim_at_all(&mut self, _ports: PortSet) {}

    /// All ports are to open, and have to wait until the policy says so.
    fn holds_all_back(&self) -> bool {
        false
    }

    /// For which ports to let go who waits, before they open, and when.
    fn before_open(&self) -> Option<(Instant, &PortSet)> {
        None
    }

    /// The gate is open for good.
    fn opened(&mut self, _now: Instant) {}

    /// What to ask once the gate is open.
    fn after_open(&self) -> Due {
        None
    }

    /// Whether the rules stay, behind an open gate, for those whom they steer elsewhere.
    fn lingers(&self) -> bool {
        false
    }

    /// The answer to a question, which took `cost`. The kernel opens the gate at `deadline`.
    fn answered(
        &mut self,
        _answer: Answer,
        _cost: Duration,
        _deadline: Instant,
        _now: Instant,
    ) -> Conclusion {
        Conclusion::GoOn
    }

    /// Somebody wants the run to end now: nobody is waited for any more.
    fn cut(&mut self) {}

    /// What is waited for, for the people who watch.
    fn waits_for(&self) -> Option<String> {
        None
    }

    /// Why the run goes on although a signal came, and what one more signal does.
    fn in_spite_of_a_signal(&self) -> Option<String> {
        None
    }

    fn noted(&self) -> Noted {
        Noted::default()
    }
}

/// That of an action that has no say in anything.
#[derive(Debug)]
pub(crate) struct NoPolicy;

impl Policy for NoPolicy {}
