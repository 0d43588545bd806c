//! Writes contrib/completions anew, from the options as `cli.rs` declares them:
//!
//!     cargo run --example completions
//!
//! Options and their values are `clap_complete`'s work. It has no word for "from here on it is
//! another command's line" in bash and fish, so each of these gets an epilogue.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory, ValueHint};
use clap_complete::{Shell, generate};
use syngate::cli::Args;

/// What is written: for which shell, to which file, and what is put behind clap_complete's text.
pub const FILES: [(Shell, &str, &str); 3] = [
    (Shell::Bash, "syngate.bash", BASH_EPILOGUE),
    (Shell::Zsh, "_syngate", ""),
    (Shell::Fish, "syngate.fish", FISH_EPILOGUE),
];

/// `_command_offset` comes with the package bash-completion; without it COMMAND's name completes,
/// and its arguments complete as file names.
const BASH_EPILOGUE: &str = r#"
# Behind -- comes COMMAND: its line is completed as if it stood alone.
_syngate_or_command() {
    local i
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
    _syngate "$@"
}
complete -F _syngate_or_command -o bashdefault -o default syngate
"#;

const FISH_EPILOGUE: &str = r#"
# Behind -- comes COMMAND: its line is completed as if it stood alone.
function __syngate_command
    set -l words (commandline -opc) (commandline -ct)
    set -l dashes (contains -i -- -- $words)
    set -l line $words[(math $dashes + 1)..-1]
    complete -C "$line"
end
complete -c syngate -n 'contains -- -- (commandline -opc)' -x -a '(__syngate_command)'
"#;

const FISH_ARGPARSE_FAILS: &str = "\n    or return\n";

/// The options, with what kind of thing each value is: file names are of no use for durations.
fn command() -> Command {
    Args::command().mut_args(|arg| match arg.get_id().as_str() {
        "command" => arg.value_hint(ValueHint::CommandWithArguments),
        "precheck" | "ready_check" | "listen_netns_from" | "standby" | "standby_check" => {
            arg.value_hint(ValueHint::CommandString)
        }
        "report_file" => arg.value_hint(ValueHint::FilePath),
        _ if !arg.get_action().takes_values() || !arg.get_possible_values().is_empty() => arg,
        _ => arg.value_hint(ValueHint::Other),
    })
}

/// The text for one shell.
pub fn render(shell: Shell, epilogue: &str) -> Vec<u8> {
    let mut text = Vec::new();
    generate(shell, &mut command(), "syngate", &mut text);
    let mut text = String::from_utf8(text).expect("completions are text");
    if shell == Shell::Fish {
        // An option that still waits for its value is an error there, and the value has no
        // completions then; but no command has been named yet, so the answer is yes.
        assert_eq!(text.matches(FISH_ARGPARSE_FAILS).count(), 1);
        text = text.replace(FISH_ARGPARSE_FAILS, "\n    or return 0\n");
    }
    text.push_str(epilogue);
    text.into_bytes()
}

// Unused where a test takes the rest of this file.
#[allow(dead_code)]
fn main() -> io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/completions");
    for (shell, file, epilogue) in FILES {
        std::fs::write(directory.join(file), render(shell, epilogue))?;
    }
    Ok(())
}
