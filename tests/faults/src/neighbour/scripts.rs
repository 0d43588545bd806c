//! What neighbours do, as lines of shell.
//!
//! These have in their environment: `DIR`, `SYNGATE`, `TESTKIT`, `PID` (of the run that is disturbed),
//! `BACKEND`, `SYN`, `GATE` (the options of another run), `SERVICE` (its address), and `IPTABLES`, the
//! variant that the host has rules of.

use super::who::Neighbour::{self, *};

/// What all scripts have.
pub const PRELUDE: &str = r#"set -e
# cgroup CONTROLLER LIMIT: makes a group of this limit, $group. Some machines have a hierarchy for each
# controller (version 1); the others have one for all.
cgroup() {
    top=$DIR/cgroup-$1
    if [ ! -d $top ]; then
        mkdir $top
        mount -t cgroup2 none $top
        if grep -qw $1 $top/cgroup.controllers; then
            echo "+$1" >$top/cgroup.subtree_control
        else
            umount $top
            mount -t cgroup -o $1 none $top
        fi
    fi
    group=$top/${DIR##*/}
    mkdir $group
    for limit in max limit_in_bytes; do
        [ ! -e $group/$1.$limit ] || echo $2 >$group/$1.$limit
    done
}
# Removes it, once nobody is in it any more.
no_cgroup() {
    for group in $DIR/cgroup-*/${DIR##*/}; do
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

impl Neighbour {
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
                "setsid $SYNGATE --port 80 $GATE -- sleep 0.2 >/dev/null 2>&1 &
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
            LeavesNoProcesses => "cgroup pids 1; echo $PID >$group/cgroup.procs",
            SetsClockAhead => "date -s @$(($(date +%s) + 86400))",
            SetsClockBack => "date -s @$(($(date +%s) - 86400))",
            _ => return self.addition(),
        })
    }

    /// What it adds at its moment.
    fn addition(self) -> Option<&'static str> {
        Some(match self {
            // In each table that a gate's jump can be in, and where NAT is decided.
            AcceptsAbove => {
                "for at in 'filter INPUT' 'security INPUT' 'raw PREROUTING' 'nat PREROUTING' 'nat OUTPUT'; do
                     accept='-p tcp --dport 80 -j ACCEPT'
                     $IPTABLES -w 5 -t ${at% *} -I ${at#* } 1 $accept
                     ip6${IPTABLES#ip} -w 5 -t ${at% *} -I ${at#* } 1 $accept
                 done
                 nft 'table inet above { chain input { type filter hook input priority -400; tcp dport 80 accept; }; }'"
            }
            ListensToo => {
                "setsid python3 -c '
import socket, sys, time
other = socket.socket(socket.AF_INET6)
other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
other.bind((\"::1\", 80))
other.listen()
open(sys.argv[1], \"w\").close()
time.sleep(1000)' $DIR/other-listens >/dev/null 2>&1 &
                 echo $! >$DIR/beside
                 until [ -e $DIR/other-listens ]; do sleep 0.01; done"
            }
            ListensAsOther => {
                "sysctl -q net.ipv4.ip_unprivileged_port_start=0
                 setsid python3 -c '
import os, socket, time
os.setuid(65534)
other = socket.socket(socket.AF_INET6)
other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
other.bind((\"::1\", 80))
other.listen()
print(\"listens\", flush=True)
time.sleep(1000)' >$DIR/other-listens 2>&1 &
                 echo $! >$DIR/beside
                 until [ -s $DIR/other-listens ]; do sleep 0.01; done
                 grep -qx listens $DIR/other-listens || { cat $DIR/other-listens >&2; false; }"
            }
            BridgesPort => {
                "ip link add br80 type bridge stp_state 0 forward_delay 0
                 ip link set br80 address $(ip -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/')
                 ip link set br80 up
                 ip link set eth0 master br80
                 ip address del 10.77.0.1/24 dev eth0
                 ip address add 10.77.0.1/24 dev br80"
            }
            SendsElsewhere => {
                "setsid $TESTKIT serve --listen 0.0.0.0:8081 >$DIR/elsewhere 2>&1 &
                 echo $! >$DIR/beside
                 until [ -s $DIR/elsewhere ]; do sleep 0.01; done
                 for chain in PREROUTING OUTPUT; do
                     $IPTABLES -w 5 -t nat -I $chain 1 -p tcp --dport 80 -j REDIRECT --to-ports 8081
                 done"
            }
            // nft can't load tables that have an owner, nor some of what iptables-nft makes.
            SavesAndRestores => {
                "{ echo flush ruleset; nft list ruleset; } >$DIR/all.nft
                 $IPTABLES-save >$DIR/all.v4
                 nft -f $DIR/all.nft || nft flush ruleset
                 $IPTABLES-restore -w 5 <$DIR/all.v4"
            }
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
server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(address); server.listen(4096)
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
            FlushesRuleset | FlushesIptables | SavesAndRestores => BYSTANDER,
            _ => return self.removal(),
        })
    }

    /// Removes what it has added.
    fn removal(self) -> Option<&'static str> {
        Some(match self {
            AcceptsAbove => {
                "for at in 'filter INPUT' 'security INPUT' 'raw PREROUTING' 'nat PREROUTING' 'nat OUTPUT'; do
                     accept='-p tcp --dport 80 -j ACCEPT'
                     $IPTABLES -w 5 -t ${at% *} -D ${at#* } $accept
                     ip6${IPTABLES#ip} -w 5 -t ${at% *} -D ${at#* } $accept
                 done
                 nft delete table inet above"
            }
            ListensToo | ListensAsOther => {
                "kill $(cat $DIR/beside)
                 while kill -0 $(cat $DIR/beside) 2>/dev/null; do sleep 0.01; done
                 rm $DIR/beside $DIR/other-listens"
            }
            // The route to the flooding host went with the address.
            BridgesPort => {
                "ip address del 10.77.0.1/24 dev br80
                 ip link set eth0 nomaster
                 ip address add 10.77.0.1/24 dev eth0
                 ip link del br80
                 ip route replace 10.78.0.0/16 via 10.77.0.2"
            }
            SendsElsewhere => {
                "for chain in PREROUTING OUTPUT; do
                     $IPTABLES -w 5 -t nat -D $chain -p tcp --dport 80 -j REDIRECT --to-ports 8081
                 done
                 rm $DIR/elsewhere"
            }
            _ => return None,
        })
    }
}
