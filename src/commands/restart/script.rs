//! What an init script tells of its service: the files of pids, the programs, whether it can reload. Pure. The script
//! is read as text; nothing of it is run.

use std::collections::HashMap;
use std::path::Path;

/// The folder of files of pids. `/var/run` is another name of it.
const RUN: &str = "/run";
/// Where packages have their programs.
const PROGRAMS: [&str; 5] = ["/usr", "/opt", "/sbin", "/bin", "/lib"];

/// What the text of a script names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// Absolute paths of files that may have pids.
    pub(super) pid_files: Vec<String>,
    /// Absolute paths: programs are among them.
    pub(super) paths: Vec<String>,
    pub(super) reloads: bool,
}

impl Script {
    pub(super) fn read(name: &str, text: &str) -> Script {
        let mut script = Script {
            pid_files: vec![format!("{RUN}/{name}.pid")],
            ..Script::default()
        };
        let mut variables = HashMap::new();
        for line in text.lines().map(str::trim) {
            script.reloads |= is_case(line, "reload");
            // Red Hat's scripts have the file in a comment: # pidfile: /var/run/web.pid
            let line = line.strip_prefix("# pidfile:").unwrap_or(line);
            if line.starts_with('#') {
                continue;
            }
            let line = expanded(line, &variables);
            if let Some((name, value)) = assignment(&line) {
                variables.insert(name.to_owned(), value.to_owned());
            }
            let words = line.split(|c: char| c.is_whitespace() || "\"'`;()=|&<>".contains(c));
            script.take(words.filter(|word| word.starts_with('/') && !word.contains('$')));
        }
        script
    }

    fn take<'a>(&mut self, paths: impl Iterator<Item = &'a str>) {
        for path in paths {
            let of = match path.ends_with(".pid") {
                true => &mut self.pid_files,
                false => &mut self.paths,
            };
            if !of.iter().any(|known| known == path) {
                of.push(path.to_owned());
            }
        }
    }
}

/// The folders that have the files of pids of that service, where the script names none: postfix has the last one.
pub(super) fn pid_folders(name: &str) -> [String; 2] {
    [format!("{RUN}/{name}"), format!("/var/spool/{name}/pid")]
}

/// Whether a program is that service's by its path: `/usr/sbin/vsftpd` of vsftpd, `/usr/sbin/mariadbd` of mariadb,
/// `/usr/lib/postfix/sbin/master` of postfix.
pub(super) fn is_named_so(program: &Path, name: &str) -> bool {
    let is_version = |rest: &str| rest.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let file = program.file_name().and_then(|file| file.to_str());
    let rest = file.and_then(|file| file.strip_prefix(name));
    let folders = program.parent().into_iter().flat_map(Path::iter);
    let is_so = rest.is_some_and(|rest| rest == "d" || is_version(rest));
    let is_installed = PROGRAMS.iter().any(|folder| program.starts_with(folder));
    is_installed && !name.is_empty() && (is_so || { folders }.any(|folder| folder == name))
}

/// Programs that execute what others have written, without the numbers of their versions.
const INTERPRETERS: [&str; 31] = [
    "ash",
    "bash",
    "beam.smp",
    "bun",
    "busybox",
    "dash",
    "deno",
    "dotnet",
    "erl",
    "guile",
    "java",
    "julia",
    "ksh",
    "lua",
    "luajit",
    "mksh",
    "mono",
    "mono-sgen",
    "node",
    "nodejs",
    "perl",
    "php",
    "pypy",
    "python",
    "R",
    "Rscript",
    "ruby",
    "sh",
    "tclsh",
    "wish",
    "zsh",
];

/// Whether many processes may execute this file, each something else: `/usr/bin/python3.11`.
pub(super) fn is_interpreter(program: &Path) -> bool {
    let file = program.file_name().and_then(|file| file.to_str());
    let is_version = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    file.is_some_and(|file| INTERPRETERS.contains(&file.trim_end_matches(is_version)))
}

/// The file that an interpreter with this command line executes: `/usr/bin/python3 -u /usr/bin/gunicorn app`. Its first
/// argument that is no option, if it is a path from the root.
pub(super) fn interpreted(call: &[String]) -> Option<&str> {
    let mut words = call.iter().skip(1).map(String::as_str);
    let first = words.find(|word| !word.starts_with('-'));
    first.filter(|word| word.starts_with('/'))
}

/// The name of the program, where a process has a title in place of its command line: `gunicorn: master [app]`.
pub(super) fn titled(call: &[String]) -> Option<&str> {
    let [title] = call else {
        return None;
    };
    Some(title.split_once(": ")?.0)
}

/// `NAME=value`, at the beginning of a line.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next()?,
        _ => value
            .split(|c: char| c.is_whitespace() || c == ';')
            .next()?,
    };
    (is_name && !name.is_empty()).then_some((name, value))
}

/// The line with the values of the variables that are known, for `$NAME` and `${NAME}`.
fn expanded(line: &str, variables: &HashMap<String, String>) -> String {
    let mut parts = line.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = match part.strip_prefix('{').and_then(|p| p.split_once('}')) {
            Some(braced) => braced,
            None => {
                let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                part.split_at(part.find(is_end).unwrap_or(part.len()))
            }
        };
        match variables.get(name) {
            Some(value) => {
                text.push_str(value);
                text.push_str(rest);
            }
            None => {
                text.push('$');
                text.push_str(part);
            }
        }
    }
    text
}

/// Whether the line begins a branch of a case for this word: `start|reload)`.
fn is_case(line: &str, word: &str) -> bool {
    let Some((patterns, _)) = line.split_once(')') else {
        return false;
    };
    let mut patterns = patterns.trim_start_matches('(').split('|');
    patterns.any(|pattern| pattern.trim().trim_matches(['"', '\'']) == word)
}

/// What holds for any text as a script.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let script = Script::read("web", &String::from_utf8_lossy(bytes));
    assert_eq!(script.pid_files[0], "/run/web.pid");
    let all = script.pid_files.iter().chain(&script.paths);
    assert!({ all }.all(|path| path.starts_with('/') && !path.contains(['$', '\n'])));
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "#!/bin/sh\n# Provides: /not/this\nNAME=web\nexport BASE=\"/opt/$NAME\"\n\
        DAEMON=${BASE}/sbin/webd # the program\nPIDFILE=/var/run/${NAME}.pid;\n[ -x $DAEMON ] || exit 0\n\
        X=$UNKNOWN/x.pid Y=/opt/$UNKNOWN/y\ncase \"$1\" in\n  start|stop)\n  /usr/bin/other --pidfile=/run/o.pid\n;;\n\
        \x20 \"restart\" | reload)\n;;\nesac\n";

    #[test]
    fn a_script_names_files_of_pids_and_programs() {
        let script = Script::read("web", WEB);
        let pid_files = ["/run/web.pid", "/var/run/web.pid", "/run/o.pid"];
        assert_eq!(script.pid_files, pid_files);
        for path in ["/opt/web/sbin/webd", "/usr/bin/other"] {
            assert!(script.paths.iter().any(|p| p == path), "{script:?}");
        }
        assert!(
            !script.paths.iter().any(|p| p.contains("not")),
            "{script:?}"
        );
        assert!(script.reloads);
        let old = Script::read("old", "# pidfile: /var/run/o.pid\n");
        assert_eq!(old.pid_files, ["/run/old.pid", "/var/run/o.pid"]);
    }

    #[test]
    fn a_program_is_a_service_s_by_its_path() {
        for (program, name, is_so) in [
            ("/usr/sbin/vsftpd", "vsftpd", true),
            ("/usr/sbin/mariadbd", "mariadb", true),
            ("/usr/bin/python3.11", "python", true),
            ("/usr/lib/postfix/sbin/master", "postfix", true),
            ("/opt/web/bin/server", "web", true),
            ("/usr/sbin/haproxy-wrapper", "haproxy", false),
            ("/usr/lib/postfix-policy/master", "postfix", false),
            ("/usr/sbin/sshd", "postfix", false),
            ("/home/web/server", "web", false),
            ("/tmp/web", "web", false),
            ("/usr/sbin/d", "", false),
        ] {
            assert_eq!(is_named_so(Path::new(program), name), is_so, "{program}");
        }
        assert_eq!(pid_folders("postfix")[1], "/var/spool/postfix/pid");
    }

    #[test]
    fn an_interpreter_is_known_by_its_name() {
        for (program, is_so) in [
            ("/usr/bin/python3.11", true),
            ("/usr/bin/php8.2", true),
            ("/usr/bin/guile-3.0", true),
            ("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", true),
            ("/bin/busybox", true),
            ("/usr/sbin/php-fpm8.2", false),
            ("/usr/sbin/webd", false),
            ("/usr/bin/7", false),
            ("/", false),
        ] {
            assert_eq!(is_interpreter(Path::new(program)), is_so, "{program}");
        }
    }

    #[test]
    fn what_an_interpreter_executes_is_in_its_command_line() {
        for (call, file) in [
            (
                "/usr/bin/python3 -u /usr/bin/gunicorn -b /x",
                Some("/usr/bin/gunicorn"),
            ),
            ("/usr/bin/perl /opt/web/app.pl", Some("/opt/web/app.pl")),
            ("python3 app.py /opt/web/x", None),
            ("/usr/bin/web", None),
            ("gunicorn: master [app]", None),
        ] {
            let call: Vec<String> = call.split(' ').map(str::to_owned).collect();
            assert_eq!(interpreted(&call), file, "{call:?}");
        }
        let titles = ["gunicorn: master [app]", "/usr/bin/gunicorn"].map(|word| [word.to_owned()]);
        assert_eq!(
            titles.each_ref().map(|title| titled(title)),
            [Some("gunicorn"), None]
        );
        assert_eq!(titled(&[]), None);
    }

    #[test]
    fn a_script_that_can_t_reload_is_known() {
        for (line, reloads) in [
            ("reload)", true),
            ("(reload)", true),
            ("restart|reload|force-reload)", true),
            ("restart|force-reload)", false),
            ("echo reload", false),
            ("echo \"Usage: web {start|reload}\"", false),
            ("# reload)", false),
        ] {
            assert_eq!(Script::read("web", line).reloads, reloads, "{line}");
        }
        withstand(WEB.as_bytes());
    }
}
