//! What others do to a host while syngate runs on it, and what they make it run under.
//!
//! Most of it is a line of shell, with these in the environment: `DIR`, `SYNGATE`, `PID` (of the run that
//! is disturbed), `BACKEND`, `SYN`, and `IPTABLES`, the variant that the host has rules of.

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::setting::Setting;

/// Who disturbs a run: [`words`](Neighbour::words) say how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Neighbour {
    FlushesRuleset,
    FlushesIptables,
    ReloadsFirewall,
    RunsToo,
    RunsBeside,
    Clears,
    AsksForStatus,
    Terminates,
    HangsUp,
    Interrupts,
    ClosesTerminal,
    KillsGuards,
    Stops,
    LeavesNoProcesses,
    WantsQueue,
    SetsClockAhead,
    SetsClockBack,

    LeavesFewFiles,
    FillsDisk,
    KeepsRunReadOnly,
    KillsItsGroup,
    KeepsFiles,
    TakesMemory,
    HasManyRules,
    GatesAllPorts,
    KeepsManyConnections,
    Floods,
}

/// What all scripts have.
pub const PRELUDE: &str = r#"set -e
# cgroup CONTROLLER LIMIT: makes a group of this limit, and says where.
cgroup() {
    top=/sys/fs/cgroup/$1
    if [ ! -d $top ]; then
        top=/sys/fs/cgroup
        [ -e $top/cgroup.controllers ] || mount -t cgroup2 none $top
        echo "+$1" >$top/cgroup.subtree_control
    fi
    group=$top/${DIR##*/}
    mkdir $group
    for limit in max limit_in_bytes; do
        [ ! -e $group/$1.$limit ] || echo $2 >$group/$1.$limit
    done
    echo $group
}
# Removes it, once nobody is in it any more.
no_cgroup() {
    for group in /sys/fs/cgroup/${DIR##*/} /sys/fs/cgroup/*/${DIR##*/}; do
        timeout 5 sh -c "while [ -e $group ]; do rmdir $group || sleep 0.01; done"
    done
}
"#;

/// A rule for each kind of firewall, to see that what is somebody else's stays.
pub const BYSTANDER: &str = r#"
nft list table inet bystander >/dev/null 2>&1 || nft -f - <<END
table inet bystander { chain input { type filter hook input priority 5; tcp dport 9999 drop comment "bystander"; }; }
END
rule='INPUT -p tcp --dport 9999 -m comment --comment bystander -j DROP'
$IPTABLES -w -C $rule 2>/dev/null || $IPTABLES -w -A $rule
"#;

use Neighbour::*;

impl Neighbour {
    /// Those that come by at a moment of a run.
    pub const VISITORS: [Neighbour; 15] = [
        FlushesRuleset,
        FlushesIptables,
        ReloadsFirewall,
        RunsToo,
        RunsBeside,
        Clears,
        AsksForStatus,
        Terminates,
        HangsUp,
        Interrupts,
        ClosesTerminal,
        KillsGuards,
        Stops,
        LeavesNoProcesses,
        WantsQueue,
    ];

    /// Those that would harm the machine: for a kernel of its own.
    pub const HARMFUL: [Neighbour; 2] = [SetsClockAhead, SetsClockBack];

    /// What is so from the beginning to the end of a run.
    pub const HARDSHIPS: [Neighbour; 10] = [
        LeavesFewFiles,
        FillsDisk,
        KeepsRunReadOnly,
        KillsItsGroup,
        KeepsFiles,
        TakesMemory,
        HasManyRules,
        GatesAllPorts,
        KeepsManyConnections,
        Floods,
    ];

    /// What it does, in words.
    pub fn words(self) -> &'static str {
        match self {
            FlushesRuleset => "`nft flush ruleset`",
            FlushesIptables => "`iptables -F` and `-X`, `ip6tables` too, in all tables",
            ReloadsFirewall => {
                "all rules, nft's and iptables', are loaded anew at once, as firewalld does"
            }
            RunsToo => "another run for the same port",
            RunsBeside => "another run for another port, with a queue of its own if SYNs are held",
            Clears => "`syngate clear`",
            AsksForStatus => "`syngate status`",
            Terminates => "SIGTERM",
            HangsUp => "SIGHUP",
            Interrupts => "SIGINT",
            ClosesTerminal => "its terminal is closed",
            KillsGuards => "SIGKILL for all other processes of syngate's",
            Stops => "SIGSTOP until long after `--max-closed`",
            WantsQueue => "another program binds the number of our queue, or tries to (SYNs held)",
            LeavesNoProcesses => "no process can be started any more: EAGAIN, by a cgroup",
            SetsClockAhead => "the clock jumps a day ahead",
            SetsClockBack => "the clock jumps a day back",
            LeavesFewFiles => "`ulimit -n 8`",
            FillsDisk => "the disk is full where the report goes",
            KeepsRunReadOnly => "`/run` cannot be written",
            KillsItsGroup => "COMMAND kills its process group, and so syngate",
            KeepsFiles => "COMMAND leaves a daemon that keeps all files it was given",
            TakesMemory => "in a cgroup of 16 MiB, the kernel kills syngate for want of memory",
            HasManyRules => "somebody else has 100,000 rules",
            GatesAllPorts => "`--port 1-65535`",
            KeepsManyConnections => "101,200 connections are established on a gated port",
            Floods => {
                "100,000 SYNs a second come in, if the sender gets so far, before, while and after the gate is closed"
            }
        }
    }

    /// Whether it is so during the whole run.
    pub fn lasts(self) -> bool {
        Self::HARDSHIPS.contains(&self)
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

    /// What it does at its moment, in shell.
    pub fn visit(self) -> Option<&'static str> {
        Some(match self {
            FlushesRuleset => "nft flush ruleset",
            FlushesIptables => {
                "for table in filter nat raw; do
                     $IPTABLES -w 5 -t $table -F && $IPTABLES -w 5 -t $table -X
                     ip6${IPTABLES#ip} -w 5 -t $table -F && ip6${IPTABLES#ip} -w 5 -t $table -X
                 done"
            }
            ReloadsFirewall => {
                "{ echo flush ruleset; nft list table inet bystander; } >$DIR/rules.nft
                 $IPTABLES-save >$DIR/rules.v4
                 nft -f $DIR/rules.nft
                 $IPTABLES-restore -w 5 <$DIR/rules.v4"
            }
            // It may come first, or has to wait.
            RunsToo => {
                "setsid $SYNGATE --port 80 --backend $BACKEND -- sleep 0.2 >/dev/null 2>&1 &
                 echo $! >$DIR/beside"
            }
            RunsBeside => {
                "[ $SYN = hold ] || SYN=drop
                 timeout 15 $SYNGATE --port 81 --backend $BACKEND --syn $SYN -- true"
            }
            // It waits until the run has done it.
            Clears => "kill -CONT $PID; timeout 15 $SYNGATE clear >$DIR/cleared || [ $? != 124 ]",
            AsksForStatus => "timeout 15 $SYNGATE status >$DIR/status || [ $? = 3 ]",
            Terminates => "kill -TERM $PID",
            HangsUp => "kill -HUP $PID",
            Interrupts => "kill -INT $PID",
            KillsGuards => {
                "for exe in /proc/[0-9]*/exe; do
                     pid=${exe#/proc/}; pid=${pid%/exe}
                     [ $pid = $PID ] || [ \"$(readlink $exe)\" != $SYNGATE ] || kill -KILL $pid
                 done"
            }
            WantsQueue => {
                "setsid python3 -c '
import socket, struct, time
netfilter = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
bind = struct.pack(\"=HHBBH\", 8, 1, 1, 0, 0)
message = struct.pack(\"=BBH\", 0, 0, socket.htons(49152)) + bind
netfilter.send(struct.pack(\"=IHHII\", 16 + len(message), 3 << 8 | 2, 1 | 4, 1, 0) + message)
error, = struct.unpack(\"=i\", netfilter.recv(4096)[16:20])
print(error, flush=True)
time.sleep(0 if error else 1000)' >$DIR/bound 2>&1 &
                 echo $! >$DIR/beside
                 until [ -s $DIR/bound ]; do sleep 0.01; done
                 grep -qE '^(0|-1|-16)$' $DIR/bound"
            }
            LeavesNoProcesses => "echo $PID >$(cgroup pids 1)/cgroup.procs",
            SetsClockAhead => "date -s @$(($(date +%s) + 86400))",
            SetsClockBack => "date -s @$(($(date +%s) - 86400))",
            _ => return None,
        })
    }

    /// What has to be done before a run under it.
    pub fn prepare(self) -> Option<&'static str> {
        Some(match self {
            // Nothing but what comes to a port of UDP has to pass them; but all who list rules see them.
            HasManyRules => {
                "if [ $BACKEND = nft ]; then
                     { echo 'table inet many { chain many {'
                       seq 100000 | sed 's/.*/meta mark & drop/'
                       echo '}; chain input { type filter hook input priority 6; udp dport 9 jump many; }; }'
                     } | nft -f -
                 else
                     { echo '*filter'; echo ':many - [0:0]'
                       seq 100000 | sed 's/.*/-A many -m mark --mark & -j DROP/'
                       echo '-A INPUT -p udp --dport 9 -j many'; echo COMMIT
                     } | $IPTABLES-restore -w 5 --noflush
                 fi"
            }
            KeepsManyConnections => {
                "setsid python3 -c '
import os, socket, time
address = os.environ[\"SERVICE\"], 82
server = socket.socket(); server.bind(address); server.listen(4096)
# Each of them within what a process may open.
up = os.pipe()
for n in range(1, 12):
    if os.fork() == 0:
        kept = []
        for _ in range(9200):
            client = socket.create_connection(address, source_address=(f\"127.0.1.{n}\", 0))
            kept.append((client, server.accept()[0]))
        os.write(up[1], b\"u\")
        time.sleep(1000)
os.close(up[1])
if sum(len(os.read(up[0], 1)) for _ in range(11)) == 11:
    open(os.environ[\"DIR\"] + \"/connected\", \"w\").close()
    time.sleep(1000)' >/dev/null 2>&1 &
                 echo $! >$DIR/crowd
                 while kill -0 $! && [ ! -e $DIR/connected ]; do sleep 0.1; done
                 [ -e $DIR/connected ]"
            }
            _ => return None,
        })
    }

    /// What has to be done after it.
    pub fn undo(self) -> Option<&'static str> {
        Some(match self {
            LeavesNoProcesses | TakesMemory => "no_cgroup",
            RunsToo => {
                "[ -e $DIR/beside ] || exit 0
                 while kill -0 $(cat $DIR/beside) 2>/dev/null; do sleep 0.01; done
                 rm $DIR/beside"
            }
            WantsQueue => {
                "[ -e $DIR/beside ] || exit 0
                 while kill $(cat $DIR/beside) 2>/dev/null; do sleep 0.01; done
                 rm $DIR/beside $DIR/bound"
            }
            HasManyRules => {
                "if [ $BACKEND = nft ]; then
                     nft delete table inet many
                 else
                     $IPTABLES -w 5 -D INPUT -p udp --dport 9 -j many
                     $IPTABLES -w 5 -F many
                     $IPTABLES -w 5 -X many
                 fi"
            }
            KeepsManyConnections => {
                "kill -- -$(cat $DIR/crowd)
                 rm $DIR/connected"
            }
            FlushesRuleset | FlushesIptables => BYSTANDER,
            _ => return None,
        })
    }

    /// What has to be done once it was looked at what is left.
    pub fn tidy(self) -> Option<&'static str> {
        (self == KeepsFiles).then_some("pkill -x sleep || [ $? = 1 ]")
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
            // A gated port can't be the standby's.
            GatesAllPorts if setting.redirects() => &["--port", "1-8079,8081-65535"],
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
                 group=$(cgroup memory 16M)
                 echo $PPID >$group/cgroup.procs
                 echo 1000 >/proc/$PPID/oom_score_adj
                 sh -c \"echo \\$\\$ >$group/cgroup.procs; exec tail /dev/zero\""
            }
            _ => return String::new(),
        };
        [PRELUDE, script].concat()
    }
}
