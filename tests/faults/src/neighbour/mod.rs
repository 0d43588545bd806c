//! What others do to a host while syngate runs on it, and what they make it run under.

mod scripts;
mod who;

pub use scripts::{BYSTANDER, PRELUDE};
pub use who::Neighbour;

use nix::libc;

use crate::{oracle::Excuse, setting::Setting};

use Neighbour::*;

impl Neighbour {
    /// Whether it is so during the whole run.
    pub fn lasts(self) -> bool {
        Self::HARDSHIPS.contains(&self)
    }

    /// Whether it takes seconds.
    pub fn is_slow(self) -> bool {
        matches!(self, Stops | HasManyRules | KeepsManyConnections)
    }

    /// Whether it can disturb that.
    pub fn suits(self, setting: &Setting) -> bool {
        match self {
            // The others are COMMAND, look at a report, or last until a deadline.
            _ if setting.keeps() => matches!(
                self,
                FlushesRuleset | Clears | AsksForStatus | KillsGuards | ListensAsOther | RunsBeside
            ),
            // Nobody else needs a queue.
            WantsQueue => setting.syn == "hold",
            // A peer is a neighbour on an interface that is what it was.
            BridgesPort => !setting.diverts(),
            _ => true,
        }
    }

    /// What the neighbour alone does to clients. Syngate is not to blame for it.
    pub fn excuse(self) -> Excuse {
        Excuse {
            waiting: self == RunsToo,
            resent: self == BridgesPort,
            lossy: self == Floods,
            // What was not tracked before is new to connection tracking, and sent elsewhere in the middle.
            refused: self == SendsElsewhere,
        }
    }

    /// The signal that syngate may be ended by, or COMMAND, which looks the same to a shell.
    pub fn signal(self) -> Option<i32> {
        Some(match self {
            KillsItsGroup | TakesMemory => libc::SIGKILL,
            Terminates => libc::SIGTERM,
            HangsUp | ClosesTerminal => libc::SIGHUP,
            Interrupts => libc::SIGINT,
            _ => return None,
        })
    }

    /// Whether there may be no report: what fails may be what would have written it.
    pub fn may_lose_report(self) -> bool {
        matches!(
            self,
            KillsItsGroup | TakesMemory | FillsDisk | LeavesFewFiles
        )
    }

    /// What has to be done once it was looked at what is left.
    pub fn tidy(self) -> Option<&'static str> {
        Some(match self {
            KeepsFiles => "pkill -x sleep || [ $? = 1 ]",
            SendsElsewhere => {
                "[ ! -e $DIR/beside ] || { kill $(cat $DIR/beside); rm $DIR/beside; }"
            }
            _ => return None,
        })
    }

    /// The exit statuses that a run under it may have; nothing: any that is told truly.
    pub fn statuses(self) -> Option<&'static [i32]> {
        Some(match self {
            KillsItsGroup | TakesMemory => &[137],
            // There is no place for locks, and that is said.
            KeepsRunReadOnly => &[125],
            // The shell that is COMMAND wants a tenth file.
            LeavesFewFiles => &[0, 2, 125],
            lasting if lasting.lasts() => &[0],
            _ => return None,
        })
    }

    /// What makes syngate run under it, and then becomes it: `"$@"`.
    pub fn wrapper(self) -> Option<&'static str> {
        Some(match self {
            LeavesFewFiles => "ulimit -n 8; exec \"$@\"",
            FillsDisk => {
                "exec unshare -m sh -ec 'mount -t tmpfs -o size=8k none $DIR/report
                     head -c 8k /dev/zero >$DIR/report/full
                     exec \"$@\"' sh \"$@\""
            }
            KeepsRunReadOnly => {
                "exec unshare -m sh -ec 'mount -t tmpfs -o ro none /run; exec \"$@\"' sh \"$@\""
            }
            // It becomes its session's leader, of the terminal that its stdin is.
            ClosesTerminal => "exec setsid --ctty \"$@\"",
            _ => return None,
        })
    }

    /// More options for syngate.
    pub fn options(self, setting: &Setting) -> &'static [&'static str] {
        match self {
            // A gated port can't be the standby's, nor one that a rule of the host refuses: the bystander's.
            GatesAllPorts if setting.redirects() => &["--port", "1-8079,8081-9998,10000-65535"],
            GatesAllPorts => &["--port", "1-65535"],
            KeepsManyConnections => &["--port", "82"],
            _ => &[],
        }
    }

    /// Whether it needs a run on a terminal.
    pub fn has_terminal(self) -> bool {
        self == ClosesTerminal
    }

    /// What COMMAND does, when all else is done.
    pub fn afterwards(self) -> String {
        let script = match self {
            // The server has a group of its own by then.
            KillsItsGroup => {
                "until kill -0 -$(cat $DIR/pid); do sleep 0.01; done 2>/dev/null
                 kill -KILL 0"
            }
            KeepsFiles => "setsid sleep 1000 &",
            // syngate is what the kernel likes best to kill, then what takes the memory.
            TakesMemory => {
                "PID=$PPID
                 cgroup memory 16M
                 echo $PPID >$group/cgroup.procs
                 echo 1000 >/proc/$PPID/oom_score_adj
                 sh -c \"echo \\$\\$ >$group/cgroup.procs; exec tail /dev/zero\""
            }
            _ => return String::new(),
        };
        [PRELUDE, script].concat()
    }
}
