//! The events of a run, and the tasks that follow from them.

use std::time::Duration;

use crate::decide::policy::{Abandoned, Answer, Question};
use crate::kernel::sockets::{Sample, SocketId, Want};
use crate::words::ended::{CommandExit, Sender};
use crate::words::ports::PortSet;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Closed,
    /// Answers [`Task::Look`]; the time is the duration of the look.
    Saw(Sample, Duration),
    /// Answers [`Task::Look`] when the sockets can't be read.
    Blind,
    /// These sockets have ended: news from the kernel that no task has asked for.
    Ended(Vec<SocketId>),
    /// Answers [`Task::Check`] and [`Task::Rearm`]: whether the gate stands.
    Stands(bool),
    /// Answers [`Task::ShutOnly`]: the ports that are closed now. If the change failed, they differ from those in the
    /// task.
    Shut(PortSet),
    /// Answers [`Task::Guard`]; the time is the duration of the look.
    Intact(bool, Duration),
    /// Answers [`Task::Start`].
    Started(bool),
    Exited(CommandExit),
    /// `--drain-cmd` has ended.
    DrainCommandEnded,
    ReadyChecked(CommandExit),
    /// `--listen-netns-from` ended. True: it named a network namespace, and looks go there now.
    Searched(bool),
    /// COMMAND waits for a connection that the gate stops.
    HeldUp,
    /// INT, TERM, HUP or QUIT.
    Signal(i32, Sender),
    /// The action's answer to [`Task::Ask`] with its duration, or news that the action gives by
    /// itself.
    Answered(Answer, Duration),
    /// Answers [`Task::Remove`] when another run holds SYNs.
    OthersHold,
    /// USR1.
    OpenNow,
    /// The run can't keep the gate closed any longer.
    GiveUp(Abandoned),
    /// Answers the tasks that have no answer of their own, such as [`Task::Open`] and
    /// [`Task::Pass`].
    Done,
    /// The time that [`State::wake`] has returned is reached.
    Time,
}

impl Event {
    /// The signal that somebody has sent.
    pub(crate) fn signal(&self) -> Option<i32> {
        match self {
            Event::Signal(signal, _) => Some(*signal),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Task {
    Look(Want),
    Check,
    /// Close the gate again for the rest of its time, and check that it stands.
    Rearm(PortSet),
    /// Check that nobody has removed the rules.
    Guard,
    Start,
    /// Shut exactly these ports, and open all others.
    ShutOnly(PortSet),
    /// Open everything for good. Nothing comes between the decision and this task.
    Open,
    Ask(Question),
    /// Remove the rest of the gate's rules. Unless `anyway` is set, this is put off while another
    /// run holds SYNs, because the kernel would drop them.
    Remove {
        /// The other run has had [`OTHERS_PATIENCE`](crate::decide::removal::OTHERS_PATIENCE).
        anyway: bool,
    },
    /// Start `--drain-cmd` without waiting for it.
    DrainCommand,
    /// Start `--ready-check` without waiting for it.
    ReadyCheck,
    /// Start `--listen-netns-from` without waiting for it.
    Search,
    /// Pass a signal on to COMMAND.
    Pass(i32),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotRun {
    Signal,
    OpenedEarly,
    /// `--max-closed` was over, or too little of it was left.
    Deadline,
    /// Somebody has removed the rules.
    Fallen,
    Spawn,
    /// The action gave up the gate.
    Abandoned(Abandoned),
}
