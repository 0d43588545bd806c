# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_syngate_global_optspecs
    string join \n p/port= syn= max-held= max-held-per-source= release-timeout= queue-num= standby= standby-check= standby-timeout= standby-grace= keep-standby max-diverted= peer-timeout= no-peer-check linger= drain= drain-until= settle= ready-timeout= open-on= max-closed= backend= hook= to= allow-from= allow-local interface= listen-port= listen-netns= listen-netns-from= xtables-wait= precheck= ready-check= lock-timeout= best-effort report-file= n/dry-run v/verbose q/quiet h/help V/version
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

complete -c syngate -n "__fish_syngate_needs_command" -s p -l port -d 'TCP ports to gate: numbers, ranges (8000-8010), service names; may be repeated' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l syn -d 'What happens to new SYNs while the gate is closed' -r -f -a "drop\t'They are dropped, and their clients send them again'
hold\t'They wait in a queue of the kernel\'s, and go on when the gate opens'
auto\t'hold where that can be done, else drop'
redirect=PORT\t'They, and their connections, go to PORT of the same address, where a standby listens'
divert=ADDR\t'They, and their connections, go to the host ADDR, which has the same address and service'"
complete -c syngate -n "__fish_syngate_needs_command" -l max-held -d '--syn hold: how many SYNs may wait at a time; what comes then is dropped' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l max-held-per-source -d '--syn hold: how many of them from one source, an IPv4 address or an IPv6 /64 [default: a quarter of --max-held]' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l release-timeout -d '--syn hold: how long letting them go may take; then the gate opens all the same' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l queue-num -d '--syn hold: number of the queue (NFQUEUE) that they wait in [default: one that is free]' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l standby -d '--syn redirect: run this (by sh -c) as the standby, for as long as connections go to it' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l standby-check -d '--syn redirect: go on only once this (by sh -c) has succeeded; nothing is gated before' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l standby-timeout -d '--syn redirect: how long the standby may take to listen, and its check to succeed' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l standby-grace -d '--syn redirect: how long the --standby has to end after SIGTERM; then SIGKILL' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l max-diverted -d '--syn divert: how many connections may be the peer\'s at a time, of each IP version; the SYNs of more are dropped' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l peer-timeout -d '--syn divert: how long the peer may take to accept a connection to each address and port; nothing is gated before' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l linger -d '--syn redirect, divert: how long connections to the standby, or the peer, may take to finish once the gate is open' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l drain -d 'How long to wait at most, gate closed, for what is under way to finish; 0s: not at all' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l drain-until -d 'What the drain waits for' -r -f -a "handshakes\t'Handshakes are over and accept queues are empty: enough for reloads'
requests\t'Also, no connection is in the middle of a request or an answer'
connections\t'Also, every established connection has ended'"
complete -c syngate -n "__fish_syngate_needs_command" -l settle -d 'Extra time closed once the service listens; auto: as long as its sockets still change' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l ready-timeout -d 'How long to wait, after COMMAND, for the service to listen; 0s: don\'t watch listeners' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l open-on -d 'When a port opens whose service was replaced' -r -f -a "exit\t'Once COMMAND has exited with status 0'
ready\t'As soon as the new process listens, also while COMMAND runs'"
complete -c syngate -n "__fish_syngate_needs_command" -l max-closed -d 'The kernel opens the gate after this time, whatever happens' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l backend -d 'How the gate is made; auto: nft where it works, else iptables' -r -f -a "auto\t'nft where it works, else iptables'
nft\t'nf_tables'
iptables\t'The host\'s iptables, of whichever variant'
iptables-nft\t'iptables on nf_tables'
iptables-legacy\t'iptables on x_tables'"
complete -c syngate -n "__fish_syngate_needs_command" -l hook -d 'Where packets are stopped' -r -f -a "input\t'Before sockets of this host'
prerouting\t'Before NAT: also for ports that are published by containers'"
complete -c syngate -n "__fish_syngate_needs_command" -l to -d 'Gate connections to these addresses or prefixes only; may be repeated' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l allow-from -d 'Let connections from these addresses or prefixes through; may be repeated' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l interface -d 'Gate connections that come in over these interfaces only; may be repeated' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l listen-port -d 'Ports of the listeners, where they are not the gated ones: 8080, or 80=8080,443=8443' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l listen-netns -d 'Network namespace of the listeners: a name, a process id, or a path' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l listen-netns-from -d 'Run this (by sh -c) to learn --listen-netns; again after COMMAND, while nobody listens' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l xtables-wait -d 'How long to wait for the lock of iptables' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l precheck -d 'Run this first (by sh -c), gate open; if it fails, nothing is gated and COMMAND is not run' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l ready-check -d 'Run this (by sh -c) after COMMAND, again and again, and open only once it has succeeded' -r -f -a "(__fish_complete_command)"
complete -c syngate -n "__fish_syngate_needs_command" -l lock-timeout -d 'How long to wait for another run on the same ports' -r -f
complete -c syngate -n "__fish_syngate_needs_command" -l report-file -d 'Write a report of the run, in JSON, to this file' -r -F
complete -c syngate -n "__fish_syngate_needs_command" -l keep-standby -d '--syn redirect: leave the --standby running'
complete -c syngate -n "__fish_syngate_needs_command" -l no-peer-check -d '--syn divert: don\'t ask the peer'
complete -c syngate -n "__fish_syngate_needs_command" -l allow-local -d 'Let connections through that come in over the loopback interface'
complete -c syngate -n "__fish_syngate_needs_command" -l best-effort -d 'Run COMMAND even if the gate could not be closed, and say so'
complete -c syngate -n "__fish_syngate_needs_command" -s n -l dry-run -d 'Print the plan and the rules, and do nothing'
complete -c syngate -n "__fish_syngate_needs_command" -s v -l verbose -d 'Tell each phase'
complete -c syngate -n "__fish_syngate_needs_command" -s q -l quiet -d 'Tell errors only'
complete -c syngate -n "__fish_syngate_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c syngate -n "__fish_syngate_needs_command" -s V -l version -d 'Print version'
complete -c syngate -n "__fish_syngate_needs_command" -a "status" -d 'Show which gates stand in this network namespace; exit status 3 if something is shut'
complete -c syngate -n "__fish_syngate_needs_command" -a "clear" -d 'Open gates: those of dead runs are removed, living runs open theirs'
complete -c syngate -n "__fish_syngate_needs_command" -a "check" -d 'Tell what this host can do, and what a service on the ports needs'
complete -c syngate -n "__fish_syngate_using_subcommand status" -l json -d 'Print JSON'
complete -c syngate -n "__fish_syngate_using_subcommand status" -s h -l help -d 'Print help'
complete -c syngate -n "__fish_syngate_using_subcommand clear" -s p -l port -d 'Only gates of these TCP ports; may be repeated' -r
complete -c syngate -n "__fish_syngate_using_subcommand clear" -l timeout -d 'How long to wait for a run to answer' -r
complete -c syngate -n "__fish_syngate_using_subcommand clear" -l force -d 'End living runs, with their COMMAND, if asking them to open is not enough or not wanted'
complete -c syngate -n "__fish_syngate_using_subcommand clear" -s h -l help -d 'Print help'
complete -c syngate -n "__fish_syngate_using_subcommand check" -s p -l port -d 'The TCP ports of the service to look at; may be repeated' -r
complete -c syngate -n "__fish_syngate_using_subcommand check" -l json -d 'Print JSON'
complete -c syngate -n "__fish_syngate_using_subcommand check" -s h -l help -d 'Print help'

# Behind -- comes COMMAND: its line is completed as if it stood alone.
function __syngate_command
    set -l words (commandline -opc) (commandline -ct)
    set -l dashes (contains -i -- -- $words)
    set -l line $words[(math $dashes + 1)..-1]
    complete -C "$line"
end
complete -c syngate -n 'contains -- -- (commandline -opc)' -x -a '(__syngate_command)'
