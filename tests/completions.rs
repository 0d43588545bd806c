//! Completions are as generated, and as people meet them: a real bash, zsh and fish on a terminal, a line,
//! and TAB.

#[path = "completions_parts/generated.rs"]
mod generated;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{Host, Running, wait_until};

const SOON: Duration = Duration::from_secs(20);

const TAB: &str = "\t";
/// Bound, in each shell, to a command that writes the line down.
const NOTE: &str = "\x14";
/// Wipes the line.
const WIPE: &str = "\x15";

const PROMPT: &str = "tell-me>";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/completions")
}

/// An interactive shell on a terminal of its own.
struct Shell {
    name: &'static str,
    _script: Running,
    keyboard: ChildStdin,
    screen: PathBuf,
    noted: PathBuf,
}

impl Shell {
    /// With our completions, and `greeter`, a command that has completions of its own.
    fn start(host: &Host, name: &'static str) -> Shell {
        let noted = host.dir().join("noted");
        let completions = folder();
        let (ours, note) = (completions.display(), noted.display());
        let binaries = Path::new(env!("CARGO_BIN_EXE_syngate")).parent().unwrap();
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
        let (rc, text, call) = match name {
            "bash" => (
                "bashrc",
                format!(
                    "PS1='{PROMPT}'; unset HISTFILE; bind 'set enable-bracketed-paste off'
                     source /usr/share/bash-completion/bash_completion
                     source {ours}/syngate.bash
                     complete -W --flavour greeter
                     bind -x '\"\\C-t\": printf %s \"$READLINE_LINE\" >{note}.new; mv {note}.new {note}'"
                ),
                "bash --noprofile --rcfile bashrc -i",
            ),
            "zsh" => (
                ".zshrc",
                format!(
                    "PROMPT='{PROMPT}'; unset HISTFILE; fpath=({ours} $fpath)
                     autoload -U compinit; compinit -u -D
                     _greeter() {{ compadd -- --flavour }}; compdef _greeter greeter
                     note() {{ print -rn -- \"$BUFFER\" >{note}.new; mv {note}.new {note} }}
                     zle -N note; bindkey '^T' note; bindkey '^U' kill-whole-line"
                ),
                "env ZDOTDIR=. zsh -d -i",
            ),
            _ => (
                "config.fish",
                format!(
                    "function fish_prompt; echo -n '{PROMPT}'; end
                     function fish_greeting; end
                     source {ours}/syngate.fish
                     complete -c greeter -l flavour
                     bind \\ct 'commandline >{note}.new; mv {note}.new {note}'
                     bind \\cu 'commandline \"\"'"
                ),
                "fish --no-config --private -i -C 'source config.fish'",
            ),
        };
        host.write(rc, text);
        let greeter = host.write("greeter", "#!/bin/sh\n");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(greeter, mode).unwrap();
        let screen = host.dir().join("screen");
        let mut script = host.command("script");
        let call = format!("cd {} && exec {call}", host.dir().display());
        script.args(["-qefc", &call, "/dev/null"]);
        script.stdin(Stdio::piped());
        script.stdout(File::create(&screen).unwrap());
        script.env("SHELL", "/bin/sh").env("TERM", "xterm");
        script
            .env("HOME", host.dir())
            .env("XDG_CONFIG_HOME", host.dir());
        script.env("PATH", format!("{path}:{}", host.dir().display()));
        let mut script = host.spawn(&mut script).unwrap();
        let shell = Shell {
            name,
            keyboard: script.stdin().unwrap(),
            _script: script,
            screen,
            noted,
        };
        shell.wait("a prompt", || shell.screen().contains(PROMPT));
        shell
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.screen).unwrap()).into_owned()
    }

    fn wait(&self, what: &str, state: impl FnMut() -> bool) {
        let waited = wait_until(SOON, what, state);
        waited.unwrap_or_else(|e| panic!("{}: {e}: {}", self.name, self.screen()));
    }

    /// What TAB makes of a line, without what may follow a finished word.
    fn tab(&mut self, line: &str) -> String {
        let keys = format!("{line}{TAB}{NOTE}{WIPE}");
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.wait(line, || self.noted.exists());
        let noted = fs::read_to_string(&self.noted).unwrap();
        fs::remove_file(&self.noted).unwrap();
        noted.trim_end_matches([' ', ',', '\n']).to_owned()
    }
}

/// 80 is listened on too, on IPv6 only, and 8080 is not.
fn completes(name: &'static str) {
    let host = Host::new().unwrap();
    let _server = Serve::on("0.0.0.0:54321").and_on("[::1]:80").start(&host);
    host.wait_listen(54321).unwrap();
    // A service with an init script, and a profile.
    let haproxy = Haproxy::debian_init(&host, &HaproxyConfig::port(79)).unwrap();
    haproxy.start().unwrap();
    host.own_etc().unwrap();
    let profile = "mkdir -p /etc/syngate; echo port=80 >/etc/syngate/webshop.conf";
    host.must(["sh", "-ec", profile]);
    let mut shell = Shell::start(&host, name);
    let mut wrong = Vec::new();
    for (line, expected) in [
        ("syngate --dry", "syngate --dry-run"),
        ("syngate --hook in", "syngate --hook input"),
        ("syngate --hook=in", "syngate --hook=input"),
        ("syngate --port 543", "syngate --port 54321"),
        ("syngate --port 8", "syngate --port 80"),
        ("syngate --port=543", "syngate --port=54321"),
        ("syngate -p 543", "syngate -p 54321"),
        ("syngate -p 8080,543", "syngate -p 8080,54321"),
        (
            "syngate --port=8080,443,543",
            "syngate --port=8080,443,54321",
        ),
        ("syngate -p 99", "syngate -p 99"),
        ("syngate clear --port 543", "syngate clear --port 54321"),
        ("syngate check -p 543", "syngate check -p 54321"),
        ("syngate rest", "syngate restart"),
        ("syngate restart hap", "syngate restart haproxy"),
        ("syngate reload webs", "syngate reload webshop"),
        ("syngate run webs", "syngate run webshop"),
        ("syngate run hap", "syngate run hap"),
        ("syngate restart --dry", "syngate restart --dry-run"),
        ("syngate restart --no-pre", "syngate restart --no-precheck"),
        ("syngate restart --hook in", "syngate restart --hook input"),
        ("syngate stat", "syngate status"),
        ("syngate status --js", "syngate status --json"),
        ("syngate status --dry", "syngate status --dry"),
        ("syngate status --qu", "syngate status --quiet"),
        ("syngate clear --fo", "syngate clear --force"),
        ("syngate --port 80 -- mkfif", "syngate --port 80 -- mkfifo"),
        (
            "syngate --port 80 -v -- greeter --fl",
            "syngate --port 80 -v -- greeter --flavour",
        ),
        // What is COMMAND's is not ours.
        (
            "syngate --port 80 -- greeter --dry",
            "syngate --port 80 -- greeter --dry",
        ),
    ] {
        let completed = shell.tab(line);
        if completed != expected {
            wrong.push(format!("{line}: {completed}"));
        }
    }
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    assert!(!shell.screen().contains("nesting"), "{}", shell.screen());
}

/// `make completions` writes them anew.
#[test]
fn completions_are_as_generated() {
    let write = std::env::var_os("SYNGATE_COMPLETIONS").is_some_and(|what| what == "write");
    for (shell, file) in generated::FILES {
        let path = folder().join(file);
        let generated = generated::render(shell);
        if write {
            fs::write(&path, &generated).unwrap();
        }
        assert!(
            fs::read(&path).unwrap() == generated,
            "{file} is not up to date: make completions"
        );
    }
}

#[test]
fn bash_completes_ports_and_commands() {
    completes("bash");
}

#[test]
fn zsh_completes_ports_and_commands() {
    completes("zsh");
}

#[test]
fn fish_completes_ports_and_commands() {
    completes("fish");
}
