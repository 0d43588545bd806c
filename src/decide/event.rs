//! What happens in a run, and what it does next.

use std::time::Duration;

use crate::decide::policy::{Abandoned, Answer, Question};
use crate::kernel::sockets::{Sample, Want};
use crate::words::ended::{CommandExit, Sender};
use crate::words::ports::PortSet;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The gate has just been closed.
    Closed,
    /// The answer to [`Task::Look`], and how long the look took.
    Saw(Sample, Duration),
    /// The other answer to it: the sockets can't be looked at.
    Blind,
    /// The answer to [`Task::Check`] and [`Task::Rearm`]: whether the gate stands.
    Stands(bool),
    /// The answer to [`Task::ShutOnly`]: what is shut now, whether it is what was asked for or not.
    Shut(PortSet),
    /// The answer to [`Task::Guard`], and how long the look took.
    Intact(bool, Duration),
    /// The answer to [`Task::Start`].
    Started(bool),
    /// COMMAND ended.
    Exited(CommandExit),
    /// `--ready-check` ended.
    ReadyChecked(CommandExit),
    /// `--listen-netns-from` ended: whether it named a network namespace, which is looked into now.
    Searched(bool),
    /// INT, TERM, HUP or QUIT.
    Signal(i32, Sender),
    /// The action's answer to [`Task::Ask`], and how long that took; or its news.
    Answered(Answer, Duration),
    /// The other answer to [`Task::Remove`]: another run holds SYNs.
    OthersHold,
    /// USR1: somebody wants the gate open.
    OpenNow,
    /// What was asked for is done: shut, open, pass.
    Done,
    /// The time that [`State::wake`] had asked for.
    Time,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Task {
    /// Look at the sockets.
    Look(Want),
    /// See whether the gate stands.
    Check,
    /// Close it once more, for what is left of its time, and see whether it stands.
    Rearm(PortSet),
    /// See whether somebody has removed the rules.
    Guard,
    /// Run COMMAND.
    Start,
    /// Shut exactly these ports.
    ShutOnly(PortSet),
    /// Open everything, for good. The very next thing after the decision.
    Open,
    /// Ask the action.
    Ask(Question),
    /// Take away what is left of the gate; not yet, unless `anyway`, if that would take SYNs from
    /// another run that holds some.
    Remove {
        /// Whoever holds some has had its time.
        anyway: bool,
    },
    /// Start `--ready-check`, and do not wait for it.
    ReadyCheck,
    /// Start `--listen-netns-from`, and do not wait for it.
    Search,
    /// Pass a signal on to COMMAND.
    Pass(i32),
    /// The run is over.
    End,
}

/// Why COMMAND was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotRun {
    /// A signal came before.
    Signal,
    /// USR1 came before.
    OpenedEarly,
    /// `--max-closed` was over, or nearly, before it could be run.
    Deadline,
    /// The gate did not stand any more.
    Fallen,
    /// It could not be started.
    Spawn,
    /// The action gave the gate up.
    Abandoned(Abandoned),
}
