//! What contrib/completions has to contain, from the options as the program declares them. Options and their values are `clap_complete`'s work. It has no word for "from here on it is
//! another command's line", nor for "ask which ports there are", so each shell gets some lines of ours.

use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::{Shell, generate};
use syngate::Args;

/// For which shell, and in which file.
pub(crate) const FILES: [(Shell, &str); 3] = [
    (Shell::Bash, "syngate.bash"),
    (Shell::Zsh, "_syngate"),
    (Shell::Fish, "syngate.fish"),
];

/// `_command_offset` comes with the package bash-completion; without it COMMAND's name completes,
/// and its arguments complete as file names.
const BASH_EPILOGUE: &str = r#"
# The ports that are listened on now; of a list, the last one.
_syngate_ports() {
    local before=
    [[ $1 == *,* ]] && before=${1%,*},
    COMPREPLY=($(compgen -P "$before" -W "$(
        PATH=$PATH:/usr/local/sbin:/usr/sbin syngate listening-ports 2>/dev/null
    )" -- "${1##*,}"))
    compopt -o nospace 2>/dev/null
}

# Services or profiles, behind the word that takes one; or options.
_syngate_names() {
    if [[ $2 == -* ]]; then
        _syngate "$3" "$2" "$5"
    else
        COMPREPLY=($(compgen -W "$(
            PATH=$PATH:/usr/local/sbin:/usr/sbin syngate "$1" 2>/dev/null
        )" -- "$2"))
        compopt +o default +o bashdefault 2>/dev/null
    fi
}

# Behind -- comes COMMAND: its line is completed as if it stood alone.
_syngate_or_command() {
    local i cur=$2 option=$3
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == -- ]]; then
            if declare -F _command_offset >/dev/null; then
                _command_offset $((i + 1))
            elif ((COMP_CWORD == i + 1)); then
                COMPREPLY=($(compgen -c -- "$2"))
            else
                COMPREPLY=()
            fi
            return
        fi
    done
    # --port=80 is three words.
    [[ $option == = ]] && option=${COMP_WORDS[COMP_CWORD - 2]}
    [[ $cur == = ]] && cur=
    case $option in
        -p | --port) _syngate_ports "$cur" ;;
        restart | reload) _syngate_names listening-services "$cur" "$@" ;;
        run) _syngate_names profiles "$cur" "$@" ;;
        *) _syngate "$1" "$cur" "$option" ;;
    esac
}
complete -F _syngate_or_command -o bashdefault -o default syngate
"#;

const FISH_EPILOGUE: &str = r#"
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
"#;

/// An option that still waits for its value is an error there, and the value has no completions then; but
/// no command has been named yet, so the answer is yes.
const FISH_ARGPARSE_FAILS: [&str; 2] = ["\n    or return\n", "\n    or return 0\n"];

const ZSH_BEGINS: &str = "_syngate() {\n    typeset -A opt_args\n";

/// What comes before that, and in the beginning of it.
const ZSH_PORTS: &str = r#"# The ports that are listened on now; of a list, the last one.
_syngate_ports() {
    local path=($path /usr/local/sbin /usr/sbin)
    local -a ports=(${(f)"$(syngate listening-ports 2>/dev/null)"})
    _sequence compadd - $ports
}

# Services or profiles.
_syngate_names() {
    local path=($path /usr/local/sbin /usr/sbin)
    local -a names=(${(f)"$(syngate $1 2>/dev/null)"})
    compadd - $names
}

"#;
/// How it tells NAME, of one that is needed, and of one that is not.
const ZSH_NAMES: [&str; 2] = ["':name -- ", "'::name -- "];
const ZSH_COMMAND: &str = r#"    # Behind -- comes COMMAND: its line is completed as if it stood alone.
    local -i dashes=${words[(ie)--]}
    if (( dashes < CURRENT )); then
        words=("${(@)words[dashes + 1,-1]}")
        (( CURRENT -= dashes ))
        _normal
        return
    fi

"#;

/// Only a subcommand can stand before `--`. As another word that can, COMMAND would end in a recursion.
const ZSH_COMMAND_ARG: &str =
    "':command -- What to run, with its arguments; as it is, not by a shell:_cmdambivalent' \\\n";

/// The options, with what kind of thing each value is: file names are of no use for durations.
fn command() -> Command {
    let program = Args::command().mut_args(with_hint);
    program.mut_subcommands(|command| command.mut_args(with_hint))
}

fn with_hint(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "command" => arg.value_hint(ValueHint::CommandWithArguments),
        "precheck" | "ready_check" | "listen_netns_from" | "standby" | "standby_check" => {
            arg.value_hint(ValueHint::CommandString)
        }
        "report_file" => arg.value_hint(ValueHint::FilePath),
        _ if !arg.get_action().takes_values() || !arg.get_possible_values().is_empty() => arg,
        _ => arg.value_hint(ValueHint::Other),
    }
}

/// The text for one shell.
pub(crate) fn render(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    generate(shell, &mut command(), "syngate", &mut text);
    let mut text = String::from_utf8(text).expect("completions are text");
    match shell {
        Shell::Bash => text.push_str(BASH_EPILOGUE),
        Shell::Fish => {
            let [fails, does_not] = FISH_ARGPARSE_FAILS;
            text = replaced(&text, fails, does_not);
            text = with_ports(
                &text,
                "-s p -l port ",
                " -r -f",
                " -x -a '(__syngate_ports)'",
            );
            text.push_str(FISH_EPILOGUE);
        }
        _ => {
            let begins = format!("{ZSH_PORTS}{ZSH_BEGINS}{ZSH_COMMAND}");
            text = replaced(&text, ZSH_BEGINS, &begins);
            text = replaced(&text, ZSH_COMMAND_ARG, "");
            text = text.replace("$line[2]", "$line[1]");
            text = with_names(&text);
            for option in ["'*-p+[", "'*--port=["] {
                text = with_ports(&text, option, ":PORTS:", ":PORTS:_syngate_ports");
            }
        }
    }
    text.into_bytes()
}

/// In the lines of an option that takes ports, how its values are told.
fn with_ports(text: &str, option: &str, values: &str, ports: &str) -> String {
    let lines = text
        .split_inclusive('\n')
        .map(|line| match line.contains(option) {
            true => replaced(line, values, ports),
            false => line.to_owned(),
        });
    lines.collect()
}

/// zsh's words for NAME, with what completes it: profiles alone in the part for `run`.
fn with_names(text: &str) -> String {
    let mut part = "";
    let lines = text.lines().map(|line| {
        if let Some(word) = line
            .trim()
            .strip_prefix('(')
            .and_then(|l| l.strip_suffix(')'))
        {
            part = word;
        }
        let asked = if part == "run" {
            "profiles"
        } else {
            "listening-services"
        };
        let name = ZSH_NAMES.iter().any(|name| line.starts_with(name));
        match line.rsplit_once(":' ").filter(|_| name) {
            Some((before, after)) => format!("{before}:{{_syngate_names {asked}}}' {after}\n"),
            None => format!("{line}\n"),
        }
    });
    lines.collect()
}

/// What is to be replaced is there, once.
fn replaced(text: &str, what: &str, by: &str) -> String {
    assert_eq!(text.matches(what).count(), 1, "{what}");
    text.replace(what, by)
}
