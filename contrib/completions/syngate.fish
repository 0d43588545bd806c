complete -c syngate -s p -l port -d 'TCP ports to gate: numbers, ranges (8000-8010), service names; may be repeated' -r -f
complete -c syngate -l syn -d 'What happens to new SYNs while the gate is closed' -r -f -a "drop\t'They are dropped, and their clients send them again'"
complete -c syngate -l drain -d 'How long to wait at most, gate closed, for what is under way to finish; 0s: not at all' -r -f
complete -c syngate -l drain-until -d 'What the drain waits for' -r -f -a "handshakes\t'Handshakes are over and accept queues are empty: enough for reloads'
requests\t'Also, no connection is in the middle of a request or an answer'
connections\t'Also, every established connection has ended'"
complete -c syngate -l settle -d 'Extra time closed once the service listens; auto: as long as its sockets still change' -r -f
complete -c syngate -l ready-timeout -d 'How long to wait, after COMMAND, for the service to listen; 0s: don\'t watch listeners' -r -f
complete -c syngate -l open-on -d 'When a port opens whose service was replaced' -r -f -a "exit\t'Once COMMAND has exited with status 0'
ready\t'As soon as the new process listens, also while COMMAND runs'"
complete -c syngate -l max-closed -d 'The kernel opens the gate after this time, whatever happens' -r -f
complete -c syngate -l precheck -d 'Run this first (by sh -c), gate open; if it fails, nothing is gated and COMMAND is not run' -r -f -a "(__fish_complete_command)"
complete -c syngate -l lock-timeout -d 'How long to wait for another run on the same ports' -r -f
complete -c syngate -l report-file -d 'Write a report of the run, in JSON, to this file' -r -F
complete -c syngate -l best-effort -d 'Run COMMAND even if the gate could not be closed, and say so'
complete -c syngate -s n -l dry-run -d 'Print the plan and the rules, and do nothing'
complete -c syngate -s v -l verbose -d 'Tell each phase'
complete -c syngate -s q -l quiet -d 'Tell errors only'
complete -c syngate -s h -l help -d 'Print help (see more with \'--help\')'
complete -c syngate -s V -l version -d 'Print version'

# Behind -- comes COMMAND: its line is completed as if it stood alone.
function __syngate_command
    set -l words (commandline -opc) (commandline -ct)
    set -l dashes (contains -i -- -- $words)
    set -l line $words[(math $dashes + 1)..-1]
    complete -C "$line"
end
complete -c syngate -n 'contains -- -- (commandline -opc)' -x -a '(__syngate_command)'
