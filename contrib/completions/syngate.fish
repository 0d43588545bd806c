# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_syngate_global_optspecs
    string join \n p/port= container= to= allow-from= allow-local interface= hook= listen-port= listen-netns= listen-netns-from= syn= max-held= max-held-per-source= release-timeout= release-rate= queue-num= reload standby= standby-check= standby-timeout= standby-grace= keep-standby max-diverted= peer-timeout= no-peer-check linger= leave= leave-from= leave-quiet= leave-timeout= drain= drain-cmd= drain-until= ready-timeout= settle= open-on= max-closed= lock-timeout= precheck= ready-check= ready-url= ready-insecure backend= xtables-wait= best-effort report-file= n/dry-run v/verbose q/quiet h/help V/version
end

function __fish_syngate_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_syngate_global_optspecs) -- $cmd 2>/dev/null
    or return 0
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_syngate_using_subcommand
    set -l cmd (__fish_syngate_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c syngate -n "__fish_syngate_needs_command" -s p -l port -d 'TCP ports to gate: 80,443, 8000-8010, https' -x -a '(__syngate_ports)'
complete -c syngate -n "__fish_syngate_needs_command" -l container -d 'Gate what this container publishes' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l to -d 'Gate only connections to these addresses' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l allow-from -d 'Don\'t gate connections from these addresses' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l interface -d 'Gate only connections that come in here' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l hook -d 'Where in the kernel packets are stopped' -r -f -a "auto\t'input, or prerouting where your firewall would use dropped SYNs up'
input\t'Before sockets of this host'
prerouting\t'Before NAT: also for ports that are published by containers'"
complete -c syngate -n "__fish_syngate_needs_command" -l listen-port -d 'Ports of the listeners, if they differ: 80=8080' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l listen-netns -d 'Network namespace where the service listens' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l listen-netns-from -d 'Command that prints the network namespace' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l syn -d 'What to do with them: drop, hold, auto, redirect=PORT, divert=ADDR, park or handover' -r -f -a "drop\t'They are dropped, and their clients send them again'
hold\t'They wait in a queue of the kernel, and go on when the gate opens'
auto\t'The first that can be done here of park, hold and drop'
redirect=PORT\t'They, and their connections, go to PORT of the same address, where a standby listens'
divert=ADDR\t'They, and their connections, go to the host ADDR, which has the same address and service'
park\t'They are established at once, and wait until the service listens again'
handover\t'For reloads: they reach the service, and wait only while nobody listens'"
complete -c syngate -n "__fish_syngate_needs_command" -l max-held -d 'hold, park, handover: max. number that may wait' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l max-held-per-source -d 'hold: max. number of them from one source [default: a quarter of --max-held]' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l release-timeout -d 'hold: max. time to let them go; then the gate opens all the same' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l release-rate -d 'hold, park: max. number of connections a second to let go [default: as many as there is place for]' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l queue-num -d 'hold: number of the queue (NFQUEUE) where they wait [default: one that is free]' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l standby -d 'redirect: command that runs the standby' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l standby-check -d 'redirect: command that tests the standby' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l standby-timeout -d 'redirect: max. time for the standby to listen, and for its check to succeed' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l standby-grace -d 'redirect: max. time for the standby to end after SIGTERM; then SIGKILL' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l max-diverted -d 'divert: max. number of connections at the peer at a time' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l peer-timeout -d 'divert: max. time for the peer to answer' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l linger -d 'redirect, divert: max. time to finish there' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l leave -d 'Ports whose health checks fail first' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l leave-from -d 'A load balancer\'s addresses' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l leave-quiet -d 'How long no new connection must have come' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l leave-timeout -d 'Max. time to leave the load balancer' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l drain -d 'Max. time for requests in progress' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l drain-cmd -d 'Tell the service to say goodbye, before the drain' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l drain-until -d 'What the drain waits for' -r -f -a "handshakes\t'Handshakes are over and accept queues are empty: enough for reloads'
requests\t'Also, no connection is in the middle of a request or an answer'
connections\t'Also, every established connection has ended'"
complete -c syngate -n "__fish_syngate_needs_command" -l ready-timeout -d 'Max. time until the service listens' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l settle -d 'Time to wait once the service listens' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l open-on -d 'ready: as soon as it listens' -r -f -a "exit\t'Once COMMAND has exited with status 0'
ready\t'As soon as the new process listens, also while COMMAND runs'"
complete -c syngate -n "__fish_syngate_needs_command" -l max-closed -d 'Max. time the gate stays closed' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l lock-timeout -d 'Max. time to wait for another run' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l precheck -d 'Command to run first; if it fails, nothing is done' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l ready-check -d 'Command that must succeed before the gate opens' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l ready-url -d 'URL that must answer 2xx before the gate opens' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l backend -d 'What makes the gate; auto: nft where it works, else iptables' -r -f -a "auto\t'nft where it works, else iptables'
nft\t'nf_tables'
iptables\t'The host\'s iptables, of either variant'
iptables-nft\t'iptables on nf_tables'
iptables-legacy\t'iptables on x_tables'"
complete -c syngate -n "__fish_syngate_needs_command" -l xtables-wait -d 'Max. time to wait for the lock of iptables' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l report-file -d 'Write a report to this file, in JSON' -r -F
complete -c syngate -n "__fish_syngate_needs_command" -l allow-local -d 'Don\'t gate connections from this host itself'
complete -c syngate -n "__fish_syngate_needs_command" -l reload -d 'auto: COMMAND hands its sockets over itself'
complete -c syngate -n "__fish_syngate_needs_command" -l keep-standby -d 'redirect: leave the --standby running'
complete -c syngate -n "__fish_syngate_needs_command" -l no-peer-check -d 'divert: don\'t ask the peer'
complete -c syngate -n "__fish_syngate_needs_command" -l ready-insecure -d 'Don\'t check the certificate of an https: URL'
complete -c syngate -n "__fish_syngate_needs_command" -l best-effort -d 'Run COMMAND even if the gate could not be closed'
complete -c syngate -n "__fish_syngate_needs_command" -s n -l dry-run -d 'Print the plan and the rules; do nothing'
complete -c syngate -n "__fish_syngate_needs_command" -s v -l verbose -d 'Print each step'
complete -c syngate -n "__fish_syngate_needs_command" -s q -l quiet -d 'Print errors only'
complete -c syngate -n "__fish_syngate_needs_command" -s h -l help -d 'Print help (--help: all options)'
complete -c syngate -n "__fish_syngate_needs_command" -s V -l version -d 'Print the version'
complete -c syngate -n "__fish_syngate_needs_command" -a "restart" -d 'Restart a service by its name: its ports and its test are found'
complete -c syngate -n "__fish_syngate_needs_command" -a "reload" -d 'The same, for a service that can reload'
complete -c syngate -n "__fish_syngate_needs_command" -a "run" -d 'Run the command of a profile'
complete -c syngate -n "__fish_syngate_needs_command" -a "status" -d 'Show which ports are closed; exit status 3 if one is'
complete -c syngate -n "__fish_syngate_needs_command" -a "clear" -d 'Open gates: those of dead runs are removed, living runs open theirs'
complete -c syngate -n "__fish_syngate_needs_command" -a "check" -d 'Tell what this host can do, and what a service on the ports needs'
complete -c syngate -n "__fish_syngate_needs_command" -a "keep" -d 'Stand by: connections wait while nobody listens on the ports'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -s p -l port -d 'TCP ports to gate: 80,443, 8000-8010, https' -x -a '(__syngate_ports)'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l container -d 'Gate what this container publishes' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l to -d 'Gate only connections to these addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l allow-from -d 'Don\'t gate connections from these addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l interface -d 'Gate only connections that come in here' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l hook -d 'Where in the kernel packets are stopped' -r -f -a "auto\t'input, or prerouting where your firewall would use dropped SYNs up'
input\t'Before sockets of this host'
prerouting\t'Before NAT: also for ports that are published by containers'"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l listen-port -d 'Ports of the listeners, if they differ: 80=8080' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l listen-netns -d 'Network namespace where the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l listen-netns-from -d 'Command that prints the network namespace' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l syn -d 'What to do with them: drop, hold, auto, redirect=PORT, divert=ADDR, park or handover' -r -f -a "drop\t'They are dropped, and their clients send them again'
hold\t'They wait in a queue of the kernel, and go on when the gate opens'
auto\t'The first that can be done here of park, hold and drop'
redirect=PORT\t'They, and their connections, go to PORT of the same address, where a standby listens'
divert=ADDR\t'They, and their connections, go to the host ADDR, which has the same address and service'
park\t'They are established at once, and wait until the service listens again'
handover\t'For reloads: they reach the service, and wait only while nobody listens'"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l max-held -d 'hold, park, handover: max. number that may wait' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l max-held-per-source -d 'hold: max. number of them from one source [default: a quarter of --max-held]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l release-timeout -d 'hold: max. time to let them go; then the gate opens all the same' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l release-rate -d 'hold, park: max. number of connections a second to let go [default: as many as there is place for]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l queue-num -d 'hold: number of the queue (NFQUEUE) where they wait [default: one that is free]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l standby -d 'redirect: command that runs the standby' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l standby-check -d 'redirect: command that tests the standby' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l standby-timeout -d 'redirect: max. time for the standby to listen, and for its check to succeed' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l standby-grace -d 'redirect: max. time for the standby to end after SIGTERM; then SIGKILL' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l max-diverted -d 'divert: max. number of connections at the peer at a time' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l peer-timeout -d 'divert: max. time for the peer to answer' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l linger -d 'redirect, divert: max. time to finish there' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l leave -d 'Ports whose health checks fail first' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l leave-from -d 'A load balancer\'s addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l leave-quiet -d 'How long no new connection must have come' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l leave-timeout -d 'Max. time to leave the load balancer' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l drain -d 'Max. time for requests in progress' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l drain-cmd -d 'Tell the service to say goodbye, before the drain' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l drain-until -d 'What the drain waits for' -r -f -a "handshakes\t'Handshakes are over and accept queues are empty: enough for reloads'
requests\t'Also, no connection is in the middle of a request or an answer'
connections\t'Also, every established connection has ended'"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l ready-timeout -d 'Max. time until the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l settle -d 'Time to wait once the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l open-on -d 'ready: as soon as it listens' -r -f -a "exit\t'Once COMMAND has exited with status 0'
ready\t'As soon as the new process listens, also while COMMAND runs'"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l max-closed -d 'Max. time the gate stays closed' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l lock-timeout -d 'Max. time to wait for another run' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l precheck -d 'Command to run first; if it fails, nothing is done' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l ready-check -d 'Command that must succeed before the gate opens' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l ready-url -d 'URL that must answer 2xx before the gate opens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l backend -d 'What makes the gate; auto: nft where it works, else iptables' -r -f -a "auto\t'nft where it works, else iptables'
nft\t'nf_tables'
iptables\t'The host\'s iptables, of either variant'
iptables-nft\t'iptables on nf_tables'
iptables-legacy\t'iptables on x_tables'"
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l xtables-wait -d 'Max. time to wait for the lock of iptables' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l report-file -d 'Write a report to this file, in JSON' -r -F
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l no-precheck -d 'Leave out the test of the configuration that syngate or the profile has for the service'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -s h -l help -d 'Print this help'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l allow-local -d 'Don\'t gate connections from this host itself'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l reload -d 'auto: COMMAND hands its sockets over itself'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l keep-standby -d 'redirect: leave the --standby running'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l no-peer-check -d 'divert: don\'t ask the peer'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l ready-insecure -d 'Don\'t check the certificate of an https: URL'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -l best-effort -d 'Run COMMAND even if the gate could not be closed'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -s n -l dry-run -d 'Print the plan and the rules; do nothing'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -s v -l verbose -d 'Print each step'
complete -c syngate -n "__fish_syngate_using_subcommand restart" -s q -l quiet -d 'Print errors only'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -s p -l port -d 'TCP ports to gate: 80,443, 8000-8010, https' -x -a '(__syngate_ports)'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l container -d 'Gate what this container publishes' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l to -d 'Gate only connections to these addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l allow-from -d 'Don\'t gate connections from these addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l interface -d 'Gate only connections that come in here' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l hook -d 'Where in the kernel packets are stopped' -r -f -a "auto\t'input, or prerouting where your firewall would use dropped SYNs up'
input\t'Before sockets of this host'
prerouting\t'Before NAT: also for ports that are published by containers'"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l listen-port -d 'Ports of the listeners, if they differ: 80=8080' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l listen-netns -d 'Network namespace where the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l listen-netns-from -d 'Command that prints the network namespace' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l syn -d 'What to do with them: drop, hold, auto, redirect=PORT, divert=ADDR, park or handover' -r -f -a "drop\t'They are dropped, and their clients send them again'
hold\t'They wait in a queue of the kernel, and go on when the gate opens'
auto\t'The first that can be done here of park, hold and drop'
redirect=PORT\t'They, and their connections, go to PORT of the same address, where a standby listens'
divert=ADDR\t'They, and their connections, go to the host ADDR, which has the same address and service'
park\t'They are established at once, and wait until the service listens again'
handover\t'For reloads: they reach the service, and wait only while nobody listens'"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l max-held -d 'hold, park, handover: max. number that may wait' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l max-held-per-source -d 'hold: max. number of them from one source [default: a quarter of --max-held]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l release-timeout -d 'hold: max. time to let them go; then the gate opens all the same' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l release-rate -d 'hold, park: max. number of connections a second to let go [default: as many as there is place for]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l queue-num -d 'hold: number of the queue (NFQUEUE) where they wait [default: one that is free]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l standby -d 'redirect: command that runs the standby' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l standby-check -d 'redirect: command that tests the standby' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l standby-timeout -d 'redirect: max. time for the standby to listen, and for its check to succeed' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l standby-grace -d 'redirect: max. time for the standby to end after SIGTERM; then SIGKILL' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l max-diverted -d 'divert: max. number of connections at the peer at a time' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l peer-timeout -d 'divert: max. time for the peer to answer' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l linger -d 'redirect, divert: max. time to finish there' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l leave -d 'Ports whose health checks fail first' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l leave-from -d 'A load balancer\'s addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l leave-quiet -d 'How long no new connection must have come' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l leave-timeout -d 'Max. time to leave the load balancer' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l drain -d 'Max. time for requests in progress' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l drain-cmd -d 'Tell the service to say goodbye, before the drain' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l drain-until -d 'What the drain waits for' -r -f -a "handshakes\t'Handshakes are over and accept queues are empty: enough for reloads'
requests\t'Also, no connection is in the middle of a request or an answer'
connections\t'Also, every established connection has ended'"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l ready-timeout -d 'Max. time until the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l settle -d 'Time to wait once the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l open-on -d 'ready: as soon as it listens' -r -f -a "exit\t'Once COMMAND has exited with status 0'
ready\t'As soon as the new process listens, also while COMMAND runs'"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l max-closed -d 'Max. time the gate stays closed' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l lock-timeout -d 'Max. time to wait for another run' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l precheck -d 'Command to run first; if it fails, nothing is done' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l ready-check -d 'Command that must succeed before the gate opens' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l ready-url -d 'URL that must answer 2xx before the gate opens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l backend -d 'What makes the gate; auto: nft where it works, else iptables' -r -f -a "auto\t'nft where it works, else iptables'
nft\t'nf_tables'
iptables\t'The host\'s iptables, of either variant'
iptables-nft\t'iptables on nf_tables'
iptables-legacy\t'iptables on x_tables'"
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l xtables-wait -d 'Max. time to wait for the lock of iptables' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l report-file -d 'Write a report to this file, in JSON' -r -F
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l no-precheck -d 'Leave out the test of the configuration that syngate or the profile has for the service'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -s h -l help -d 'Print this help'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l allow-local -d 'Don\'t gate connections from this host itself'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l reload -d 'auto: COMMAND hands its sockets over itself'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l keep-standby -d 'redirect: leave the --standby running'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l no-peer-check -d 'divert: don\'t ask the peer'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l ready-insecure -d 'Don\'t check the certificate of an https: URL'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -l best-effort -d 'Run COMMAND even if the gate could not be closed'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -s n -l dry-run -d 'Print the plan and the rules; do nothing'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -s v -l verbose -d 'Print each step'
complete -c syngate -n "__fish_syngate_using_subcommand reload" -s q -l quiet -d 'Print errors only'
complete -c syngate -n "__fish_syngate_using_subcommand run" -s p -l port -d 'TCP ports to gate: 80,443, 8000-8010, https' -x -a '(__syngate_ports)'
complete -c syngate -n "__fish_syngate_using_subcommand run" -l container -d 'Gate what this container publishes' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l to -d 'Gate only connections to these addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l allow-from -d 'Don\'t gate connections from these addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l interface -d 'Gate only connections that come in here' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l hook -d 'Where in the kernel packets are stopped' -r -f -a "auto\t'input, or prerouting where your firewall would use dropped SYNs up'
input\t'Before sockets of this host'
prerouting\t'Before NAT: also for ports that are published by containers'"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l listen-port -d 'Ports of the listeners, if they differ: 80=8080' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l listen-netns -d 'Network namespace where the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l listen-netns-from -d 'Command that prints the network namespace' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l syn -d 'What to do with them: drop, hold, auto, redirect=PORT, divert=ADDR, park or handover' -r -f -a "drop\t'They are dropped, and their clients send them again'
hold\t'They wait in a queue of the kernel, and go on when the gate opens'
auto\t'The first that can be done here of park, hold and drop'
redirect=PORT\t'They, and their connections, go to PORT of the same address, where a standby listens'
divert=ADDR\t'They, and their connections, go to the host ADDR, which has the same address and service'
park\t'They are established at once, and wait until the service listens again'
handover\t'For reloads: they reach the service, and wait only while nobody listens'"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l max-held -d 'hold, park, handover: max. number that may wait' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l max-held-per-source -d 'hold: max. number of them from one source [default: a quarter of --max-held]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l release-timeout -d 'hold: max. time to let them go; then the gate opens all the same' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l release-rate -d 'hold, park: max. number of connections a second to let go [default: as many as there is place for]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l queue-num -d 'hold: number of the queue (NFQUEUE) where they wait [default: one that is free]' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l standby -d 'redirect: command that runs the standby' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l standby-check -d 'redirect: command that tests the standby' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l standby-timeout -d 'redirect: max. time for the standby to listen, and for its check to succeed' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l standby-grace -d 'redirect: max. time for the standby to end after SIGTERM; then SIGKILL' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l max-diverted -d 'divert: max. number of connections at the peer at a time' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l peer-timeout -d 'divert: max. time for the peer to answer' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l linger -d 'redirect, divert: max. time to finish there' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l leave -d 'Ports whose health checks fail first' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l leave-from -d 'A load balancer\'s addresses' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l leave-quiet -d 'How long no new connection must have come' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l leave-timeout -d 'Max. time to leave the load balancer' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l drain -d 'Max. time for requests in progress' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l drain-cmd -d 'Tell the service to say goodbye, before the drain' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l drain-until -d 'What the drain waits for' -r -f -a "handshakes\t'Handshakes are over and accept queues are empty: enough for reloads'
requests\t'Also, no connection is in the middle of a request or an answer'
connections\t'Also, every established connection has ended'"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l ready-timeout -d 'Max. time until the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l settle -d 'Time to wait once the service listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l open-on -d 'ready: as soon as it listens' -r -f -a "exit\t'Once COMMAND has exited with status 0'
ready\t'As soon as the new process listens, also while COMMAND runs'"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l max-closed -d 'Max. time the gate stays closed' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l lock-timeout -d 'Max. time to wait for another run' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l precheck -d 'Command to run first; if it fails, nothing is done' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l ready-check -d 'Command that must succeed before the gate opens' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l ready-url -d 'URL that must answer 2xx before the gate opens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l backend -d 'What makes the gate; auto: nft where it works, else iptables' -r -f -a "auto\t'nft where it works, else iptables'
nft\t'nf_tables'
iptables\t'The host\'s iptables, of either variant'
iptables-nft\t'iptables on nf_tables'
iptables-legacy\t'iptables on x_tables'"
complete -c syngate -n "__fish_syngate_using_subcommand run" -l xtables-wait -d 'Max. time to wait for the lock of iptables' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand run" -l report-file -d 'Write a report to this file, in JSON' -r -F
complete -c syngate -n "__fish_syngate_using_subcommand run" -l no-precheck -d 'Leave out the test of the configuration that syngate or the profile has for the service'
complete -c syngate -n "__fish_syngate_using_subcommand run" -s h -l help -d 'Print this help'
complete -c syngate -n "__fish_syngate_using_subcommand run" -l allow-local -d 'Don\'t gate connections from this host itself'
complete -c syngate -n "__fish_syngate_using_subcommand run" -l reload -d 'auto: COMMAND hands its sockets over itself'
complete -c syngate -n "__fish_syngate_using_subcommand run" -l keep-standby -d 'redirect: leave the --standby running'
complete -c syngate -n "__fish_syngate_using_subcommand run" -l no-peer-check -d 'divert: don\'t ask the peer'
complete -c syngate -n "__fish_syngate_using_subcommand run" -l ready-insecure -d 'Don\'t check the certificate of an https: URL'
complete -c syngate -n "__fish_syngate_using_subcommand run" -l best-effort -d 'Run COMMAND even if the gate could not be closed'
complete -c syngate -n "__fish_syngate_using_subcommand run" -s n -l dry-run -d 'Print the plan and the rules; do nothing'
complete -c syngate -n "__fish_syngate_using_subcommand run" -s v -l verbose -d 'Print each step'
complete -c syngate -n "__fish_syngate_using_subcommand run" -s q -l quiet -d 'Print errors only'
complete -c syngate -n "__fish_syngate_using_subcommand status" -s p -l port -d 'Only gates and runs of these TCP ports; may be repeated' -x -a '(__syngate_ports)'
complete -c syngate -n "__fish_syngate_using_subcommand status" -s q -l quiet -d 'Print nothing: the exit status tells, as for a check of keepalived'
complete -c syngate -n "__fish_syngate_using_subcommand status" -l json -d 'Print JSON'
complete -c syngate -n "__fish_syngate_using_subcommand status" -s h -l help -d 'Print this help'
complete -c syngate -n "__fish_syngate_using_subcommand clear" -s p -l port -d 'Only gates of these TCP ports; may be repeated' -x -a '(__syngate_ports)'
complete -c syngate -n "__fish_syngate_using_subcommand clear" -l timeout -d 'How long to wait for a run to answer' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand clear" -l force -d 'Open, then end the run and its COMMAND, or a keep. Plain clear is enough to open'
complete -c syngate -n "__fish_syngate_using_subcommand clear" -s h -l help -d 'Print this help'
complete -c syngate -n "__fish_syngate_using_subcommand check" -s p -l port -d 'The TCP ports of the service to look at; may be repeated' -x -a '(__syngate_ports)'
complete -c syngate -n "__fish_syngate_using_subcommand check" -l json -d 'Print JSON'
complete -c syngate -n "__fish_syngate_using_subcommand check" -s h -l help -d 'Print this help'
complete -c syngate -n "__fish_syngate_using_subcommand keep" -s p -l port -d 'The TCP ports of the service; may be repeated. With --unit: only these of its ports' -x -a '(__syngate_ports)'
complete -c syngate -n "__fish_syngate_using_subcommand keep" -l unit -d 'The service, by its unit: all ports on which it listens, now or later; who waits when it is stopped is reset' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand keep" -l max-wait -d 'How long connections may wait for the service; then they are reset, and new ones refused until it listens' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand keep" -l max-addresses -d 'How many addresses are kept at most, each with its port' -r -f
complete -c syngate -n "__fish_syngate_using_subcommand keep" -l report-file -d 'Add a report of each gap to this file, one line of JSON; contrib/schema/keep.schema.json describes it' -r -F
complete -c syngate -n "__fish_syngate_using_subcommand keep" -l any -d 'Also services that do not set SO_REUSEPORT: it is set for them'
complete -c syngate -n "__fish_syngate_using_subcommand keep" -s h -l help -d 'Print this help'

# Files are offered only where one fits.
complete -c syngate -f

# The ports that are listened on now; of a list, the last one.
function __syngate_ports
    set -l list (string replace -r '^(--port=|-p)' '' -- (commandline -ct))
    set -l before (string match -r '^.*,' -- $list)
    set -l path (string join : $PATH /usr/local/sbin /usr/sbin)
    for port in (env PATH=$path syngate listening-ports 2>/dev/null)
        echo "$before$port"
    end
end

# Services or profiles.
function __syngate_names
    set -l path (string join : $PATH /usr/local/sbin /usr/sbin)
    env PATH=$path syngate $argv 2>/dev/null
end
for word in restart reload check
    complete -c syngate -n "__fish_syngate_using_subcommand $word" -x -a '(__syngate_names listening-services)'
end
complete -c syngate -n '__fish_syngate_using_subcommand run' -x -a '(__syngate_names profiles)'

# Behind -- comes COMMAND: its line is completed as if it stood alone.
function __syngate_command
    set -l words (commandline -opc) (commandline -ct)
    set -l dashes (contains -i -- -- $words)
    set -l line $words[(math $dashes + 1)..-1]
    complete -C "$line"
end
complete -c syngate -n 'contains -- -- (commandline -opc)' -x -a '(__syngate_command)'
