//! Who there is to disturb a run.

use serde::{Deserialize, Serialize};

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
    AcceptsAbove,
    ListensToo,
    ListensAsOther,
    BridgesPort,
    SendsElsewhere,
    SavesAndRestores,
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

use Neighbour::*;

impl Neighbour {
    /// Those that come by at a moment of a run.
    pub const VISITORS: [Neighbour; 21] = [
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
        AcceptsAbove,
        ListensToo,
        ListensAsOther,
        BridgesPort,
        SendsElsewhere,
        SavesAndRestores,
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
            FlushesIptables => "`iptables -F` and `iptables -X`, `ip6tables` too, in all tables",
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
            AcceptsAbove => {
                "rules that accept new connections to the port are put before all others, by nft and iptables"
            }
            ListensToo => {
                "another program of the service's user listens on another address of the port"
            }
            ListensAsOther => "another user's program listens on another address of the port",
            BridgesPort => "the interface becomes a port of a bridge, which has its addresses then",
            SendsElsewhere => "REDIRECT sends new connections to the port to another program's",
            SavesAndRestores => "all rules, syngate's too, are saved, removed, and loaded anew",
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
}
