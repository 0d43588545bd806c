//! The pure part of an action. Its policy asks a question, the action carries it out and answers,
//! and the policy draws a conclusion.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::words::ports::PortSet;

/// A question, and when to ask it.
pub(crate) type Due = Option<(Instant, Question)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Does anybody accept the connections that the gate steers elsewhere?
    Taken,
    /// Release held SYNs for these ports, as many as their listeners have room for.
    LetGo {
        ports: PortSet,
        /// The ports open even if nobody listens there.
        finally: bool,
    },
    /// How many of the connections that the gate has steered elsewhere are still open?
    Left,
    /// Begin to stop the standby.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Taken(bool),
    /// Nobody accepts them any more, for good. Comes without a question.
    Ended,
    /// Answers [`Question::LetGo`].
    Waiting(Waiting),
    /// `None`: the connections can't be seen.
    Left(Option<usize>),
    /// The stop has begun.
    Stopping,
    /// The standby is gone. This may also come without a question.
    Stopped,
}

/// The SYNs that are still held after a round of releases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Waiting {
    /// The ports that they are for.
    pub ports: PortSet,
    pub count: usize,
    /// SYNs released since the gate was closed.
    pub gone: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conclusion {
    GoOn,
    /// These ports may open. Ports that are not named still have held SYNs.
    MayOpen(PortSet),
    /// The gate does more harm than an open port, so it must open now.
    Abandon(Abandoned),
}

/// Why an action gave up the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abandoned {
    /// The word in the JSON report.
    pub reason: &'static str,
    /// The beginning of a sentence for people.
    pub why: &'static str,
    /// What helps, if COMMAND was run.
    pub hint: &'static str,
}

impl Abandoned {
    pub(crate) fn warning(&self) -> String {
        format!("{}: syngate opened the gate early", self.why)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Duration of the release of held SYNs.
    pub released_in: Option<Duration>,
    /// Why the release ended with SYNs still held.
    pub release_cut: Option<Cut>,
    pub lingered: Option<Lingered>,
    /// For a moment nobody took the connections that the gate steers elsewhere.
    pub missed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    TimedOut,
    /// More SYNs arrive than are released.
    Stalled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lingered {
    pub took: Duration,
    /// Connections that had not finished. `None`: they could not be seen.
    pub left: Option<usize>,
    pub end: LingerEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LingerEnd {
    Finished,
    TimedOut,
    /// A second signal came.
    Stopped,
}

/// When an action takes part in a run. The default of each method is to take no part.
pub(crate) trait Policy: Debug {
    fn while_shut(&self) -> Due {
        None
    }

    /// Exactly these ports are about to open. Returns whether they must wait for
    /// [`Conclusion::MayOpen`].
    fn aim(&mut self, _ports: PortSet) -> bool {
        false
    }

    /// All of these ports are about to open for good.
    fn aim_at_all(&mut self, _ports: PortSet) {}

    /// Whether all ports are about to open and must wait for [`Conclusion::MayOpen`].
    fn holds_all_back(&self) -> bool {
        false
    }

    /// The ports whose held SYNs are to be released before they open, and when.
    fn before_open(&self) -> Option<(Instant, &PortSet)> {
        None
    }

    /// The gate is open for good. Called again at each step of the linger.
    fn opened(&mut self, _now: Instant) {}

    fn after_open(&self) -> Due {
        None
    }

    /// Whether the rules stay behind an open gate for the connections that they steer elsewhere.
    fn lingers(&self) -> bool {
        false
    }

    /// Takes the answer to a question. `cost` is how long it took; the kernel opens the gate at
    /// `deadline`.
    fn answered(
        &mut self,
        _answer: Answer,
        _cost: Duration,
        _deadline: Instant,
        _now: Instant,
    ) -> Conclusion {
        Conclusion::GoOn
    }

    /// A signal asks the run to end now, so the policy stops waiting.
    fn cut(&mut self) {}

    /// The text for people about what the policy waits for.
    fn waits_for(&self) -> Option<String> {
        None
    }

    /// Why the run goes on after a signal, and what the next signal does.
    fn in_spite_of_a_signal(&self) -> Option<String> {
        None
    }

    fn noted(&self) -> Noted {
        Noted::default()
    }
}

/// For actions without decisions.
#[derive(Debug)]
pub(crate) struct NoPolicy;

impl Policy for NoPolicy {}
