//! Which programs test their own configuration, and how. Pure: from the executable file and the command line of a
//! process to the call that tests what this process was started with.

use std::ffi::OsString;
use std::path::Path;

use crate::words::command_line::command_line;

/// A program's own test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    /// The program that tests: its name; `None`: the executable file of the process itself.
    pub(super) tester: Option<&'static str>,
    words: Vec<String>,
    printed: Printed,
    /// The files and folders among the words. The process names them, so they may be anybody's.
    pub(super) paths: Vec<String>,
}

/// What becomes of the output of a test that succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Printed {
    Shown,
    /// It prints the configuration to stdout.
    NotToStdout,
    /// It prints a lot, whether it succeeds or not.
    IfItFails,
    /// It prints warnings, and tells only the mail log why it fails.
    ToTheMailLog,
}

/// An option of the process, and the tester's.
type Copied = (&'static str, &'static str);

/// A line of the table.
struct Row {
    /// The name of the executable file: all of it, or its beginning where versions are part of it.
    program: &'static str,
    /// In that folder only.
    within: &'static str,
    tester: Option<&'static str>,
    before: &'static [&'static str],
    /// With their values. The empty option of the tester's stands for the value alone.
    copied: &'static [Copied],
    after: &'static [&'static str],
    /// Without this one the tester would test another configuration, or none.
    needs: Option<&'static str>,
    printed: Printed,
}

const ROW: Row = Row {
    program: "",
    within: "",
    tester: None,
    before: &[],
    copied: &[],
    after: &[],
    needs: None,
    printed: Printed::Shown,
};

/// Tried against the programs of Debian 12, with the configuration that the running process names: a good one gives 0, a
/// broken one another status. envoy and httpd, which Debian does not have, are from their manuals. What the tests do not
/// see: files of zones (named), certificates (dovecot), programs that are missing (postfix).
const TABLE: &[Row] = &[
    Row {
        program: "haproxy",
        before: &["-c"],
        copied: &[("-C", "-C"), ("-f", "-f")],
        needs: Some("-f"),
        ..ROW
    },
    Row {
        program: "nginx",
        before: &["-t"],
        copied: &[("-p", "-p"), ("-c", "-c")],
        ..ROW
    },
    // Debian's apache2 needs variables that this script sets.
    Row {
        program: "apache2",
        tester: Some("apache2ctl"),
        before: &["-t"],
        copied: &[("-d", "-d"), ("-f", "-f"), ("-D", "-D")],
        ..ROW
    },
    Row {
        program: "httpd",
        before: &["-t"],
        copied: &[("-d", "-d"), ("-f", "-f"), ("-D", "-D")],
        ..ROW
    },
    Row {
        program: "lighttpd",
        before: &["-tt"],
        copied: &[("-f", "-f")],
        needs: Some("-f"),
        ..ROW
    },
    Row {
        program: "varnishd",
        before: &["-C"],
        copied: &[("-f", "-f")],
        needs: Some("-f"),
        printed: Printed::IfItFails,
        ..ROW
    },
    Row {
        program: "squid",
        before: &["-k", "parse"],
        copied: &[("-f", "-f")],
        printed: Printed::IfItFails,
        ..ROW
    },
    Row {
        program: "envoy",
        before: &["--mode", "validate"],
        copied: &[("-c", "-c"), ("--config-path", "-c")],
        needs: Some("-c"),
        printed: Printed::IfItFails,
        ..ROW
    },
    Row {
        program: "sshd",
        before: &["-t"],
        copied: &[("-f", "-f"), ("-o", "-o")],
        ..ROW
    },
    Row {
        program: "named",
        tester: Some("named-checkconf"),
        copied: &[("-t", "-t"), ("-c", "")],
        ..ROW
    },
    Row {
        program: "unbound",
        tester: Some("unbound-checkconf"),
        copied: &[("-c", "")],
        printed: Printed::NotToStdout,
        ..ROW
    },
    Row {
        program: "bird",
        before: &["-p"],
        copied: &[("-c", "-c")],
        ..ROW
    },
    Row {
        program: "master",
        within: "postfix",
        tester: Some("postfix"),
        copied: &[("-c", "-c")],
        after: &["check"],
        printed: Printed::ToTheMailLog,
        ..ROW
    },
    Row {
        program: "dovecot",
        tester: Some("doveconf"),
        copied: &[("-c", "-c")],
        after: &["-n"],
        printed: Printed::NotToStdout,
        ..ROW
    },
    Row {
        program: "php-fpm",
        before: &["-t"],
        copied: &[("--fpm-config", "-y"), ("-y", "-y"), ("-c", "-c")],
        ..ROW
    },
    Row {
        program: "prometheus",
        tester: Some("promtool"),
        before: &["check", "config"],
        copied: &[("--config.file", "")],
        needs: Some("--config.file"),
        printed: Printed::NotToStdout,
        ..ROW
    },
];

/// How the program of that file tests the configuration that `call`, the command line of a process, names. `None`: it
/// has no test, or the command line does not tell the configuration.
pub(super) fn test_of(file: &Path, call: &[String]) -> Option<Test> {
    let name = file.file_name()?.to_str()?;
    let row = TABLE.iter().find(|row| row.is_of(name, file))?;
    let call = as_started(call);
    let copied: Vec<(&str, String)> = copied(row, &call);
    let needed = row.copied.iter().find(|(own, _)| Some(*own) == row.needs);
    if needed.is_some_and(|(_, its)| !copied.iter().any(|(option, _)| option == its)) {
        return None;
    }
    let is_path = |value: &&(&str, String)| value.0 != "-D" && value.0 != "-o";
    let paths = copied.iter().filter(is_path);
    let paths = paths.map(|(_, value)| value.clone()).collect();
    let copied = copied.into_iter().flat_map(|(option, value)| {
        let option = (!option.is_empty()).then(|| option.to_owned());
        option.into_iter().chain([value])
    });
    let fixed = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let words: Vec<String> = [fixed(row.before), copied.collect(), fixed(row.after)].concat();
    let is_plain = |word: &String| !word.chars().any(char::is_control);
    words.iter().all(is_plain).then_some(Test {
        tester: row.tester,
        words,
        printed: row.printed,
        paths,
    })
}

impl Row {
    fn is_of(&self, name: &str, file: &Path) -> bool {
        let version = name.strip_prefix(self.program);
        let is_version = |rest: &str| {
            rest.bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        let folders = file.parent().into_iter().flat_map(Path::iter);
        version.is_some_and(is_version)
            && (self.within.is_empty() || { folders }.any(|folder| folder == self.within))
    }
}

/// Some programs replace their command line by a title: `nginx: master process /usr/sbin/nginx -c /etc/web.conf`, or
/// `php-fpm: master process (/etc/php-fpm.conf)`, which names the file alone.
fn as_started(call: &[String]) -> Vec<String> {
    let title = call.first().map_or("", |word| word);
    let file = title.strip_prefix("php-fpm: master process (");
    if let Some(file) = file.and_then(|rest| rest.trim_end().strip_suffix(')')) {
        return ["php-fpm", "-y", file].map(str::to_owned).to_vec();
    }
    match call {
        [title] => title.split_whitespace().map(str::to_owned).collect(),
        words => words.to_vec(),
    }
}

/// The tester's options for those of the process: `-f FILE`, `-fFILE`, `--file FILE`, `--file=FILE`.
fn copied(row: &Row, call: &[String]) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut words = call.iter().skip(1);
    while let Some(word) = words.next() {
        let value = row.copied.iter().find_map(|(own, its)| {
            let rest = word.strip_prefix(own)?;
            let is_long = own.starts_with("--");
            match rest.strip_prefix('=').filter(|_| is_long) {
                Some(value) => Some((*its, Some(value.to_owned()))),
                None if rest.is_empty() => Some((*its, None)),
                None if is_long || row.program == "haproxy" => None,
                None => Some((*its, Some(rest.to_owned()))),
            }
        });
        match value {
            Some((its, Some(value))) => found.push((its, value)),
            Some((its, None)) => found.extend(words.next().map(|value| (its, value.clone()))),
            None => (),
        }
    }
    found
}

impl Test {
    fn has_relative(&self) -> bool {
        self.paths.iter().any(|path| !path.starts_with('/'))
    }

    /// The line for a shell. `tester`: the program, as it is called. `directory`: that of the process.
    pub(super) fn line(&self, tester: &str, directory: Option<&str>) -> String {
        let call = [tester.to_owned()].into_iter().chain(self.words.clone());
        let call = shell(call);
        let call = match directory.filter(|_| self.has_relative()) {
            Some(directory) => format!("cd {} && {call}", shell([directory.to_owned()])),
            None => call,
        };
        match self.printed {
            Printed::Shown => call,
            Printed::NotToStdout => format!("{call} >/dev/null"),
            Printed::IfItFails => {
                format!("said=$({call} 2>&1) || {{ echo \"$said\"; exit 1; }}")
            }
            Printed::ToTheMailLog => {
                format!(
                    "said=$({call} 2>&1) || {{ echo \"$said\"; echo the mail log tells more; exit 1; }}"
                )
            }
        }
    }
}

fn shell(words: impl IntoIterator<Item = String>) -> String {
    let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    command_line(&words)
}

/// What holds for any command line of a process: the words are its own, or the table's.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let call: Vec<String> = text.split('\0').map(str::to_owned).collect();
    for row in TABLE {
        let file = Path::new("/usr/sbin").join(row.within).join(row.program);
        if let Some(test) = test_of(&file, &call) {
            let line = test.line("tester", Some("/srv"));
            assert!(!line.chars().any(char::is_control), "{line}");
            let known = |word: &String| {
                let fixed = row
                    .before
                    .iter()
                    .chain(row.after)
                    .chain(row.copied.iter().map(|(_, its)| its));
                text.contains(word.as_str()) || { fixed }.any(|own| own == word)
            };
            assert!(test.words.iter().all(known), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(file: &str, call: &[&str]) -> Option<String> {
        let call: Vec<String> = call.iter().map(|word| (*word).to_owned()).collect();
        let test = test_of(Path::new(file), &call)?;
        let name = file.rsplit('/').next().unwrap();
        Some(test.line(test.tester.unwrap_or(name), Some("/srv/web")))
    }

    #[test]
    fn each_program_tests_the_configuration_that_it_was_started_with() {
        for (file, call, expected) in [
            (
                "/usr/sbin/haproxy",
                &[
                    "/usr/sbin/haproxy",
                    "-Ws",
                    "-f",
                    "/etc/h/a.cfg",
                    "-f",
                    "/etc/h/b.cfg",
                    "-p",
                    "/run/h.pid",
                ][..],
                "haproxy -c -f /etc/h/a.cfg -f /etc/h/b.cfg",
            ),
            (
                "/usr/sbin/haproxy",
                &[
                    "haproxy",
                    "-sf",
                    "12",
                    "-x",
                    "sockpair@4",
                    "-Ws",
                    "-f",
                    "my web.cfg",
                ],
                "cd /srv/web && haproxy -c -f 'my web.cfg'",
            ),
            (
                "/usr/sbin/nginx",
                &["nginx: master process nginx"],
                "nginx -t",
            ),
            (
                "/usr/sbin/nginx",
                &["nginx: master process /usr/sbin/nginx -c /etc/n.conf -g daemon on; "],
                "nginx -t -c /etc/n.conf",
            ),
            (
                "/usr/sbin/nginx",
                &["nginx", "-c/etc/n.conf"],
                "nginx -t -c /etc/n.conf",
            ),
            (
                "/usr/sbin/apache2",
                &["/usr/sbin/apache2", "-D", "SSL", "-k", "start"],
                "apache2ctl -t -D SSL",
            ),
            (
                "/usr/sbin/httpd",
                &["/usr/sbin/httpd", "-DFOREGROUND"],
                "httpd -t -D FOREGROUND",
            ),
            (
                "/usr/sbin/lighttpd",
                &["/usr/sbin/lighttpd", "-D", "-f", "/etc/l.conf"],
                "lighttpd -tt -f /etc/l.conf",
            ),
            (
                "/usr/sbin/sshd",
                &["sshd: /usr/sbin/sshd -D -f /etc/s [listener] 0 of 10-100 startups"],
                "sshd -t -f /etc/s",
            ),
            (
                "/usr/sbin/named",
                &[
                    "/usr/sbin/named",
                    "-f",
                    "-u",
                    "bind",
                    "-t",
                    "/jail",
                    "-c",
                    "/named.conf",
                ],
                "named-checkconf -t /jail /named.conf",
            ),
            (
                "/usr/sbin/unbound",
                &["/usr/sbin/unbound", "-d"],
                "unbound-checkconf >/dev/null",
            ),
            (
                "/usr/sbin/bird",
                &["/usr/sbin/bird", "-f", "-u", "bird"],
                "bird -p",
            ),
            (
                "/usr/lib/postfix/sbin/master",
                &[
                    "/usr/lib/postfix/sbin/master",
                    "-w",
                    "-c",
                    "/etc/postfix-out",
                ],
                "said=$(postfix -c /etc/postfix-out check 2>&1) || \
                 { echo \"$said\"; echo the mail log tells more; exit 1; }",
            ),
            (
                "/usr/sbin/dovecot",
                &["/usr/sbin/dovecot", "-F"],
                "doveconf -n >/dev/null",
            ),
            (
                "/usr/sbin/varnishd",
                &["/usr/sbin/varnishd", "-a", ":80", "-f", "/etc/v.vcl"],
                "said=$(varnishd -C -f /etc/v.vcl 2>&1) || { echo \"$said\"; exit 1; }",
            ),
            (
                "/usr/sbin/squid",
                &["/usr/sbin/squid", "--foreground", "-sYC"],
                "said=$(squid -k parse 2>&1) || { echo \"$said\"; exit 1; }",
            ),
            (
                "/usr/bin/envoy",
                &["envoy", "--config-path=/etc/e.yaml"],
                "said=$(envoy --mode validate -c /etc/e.yaml 2>&1) || { echo \"$said\"; exit 1; }",
            ),
            (
                "/usr/sbin/php-fpm8.2",
                &[
                    "/usr/sbin/php-fpm8.2",
                    "--nodaemonize",
                    "--fpm-config",
                    "/etc/php-fpm.conf",
                ],
                "php-fpm8.2 -t -y /etc/php-fpm.conf",
            ),
            (
                "/usr/sbin/php-fpm8.2",
                &["php-fpm: master process (/etc/php/own.conf)"],
                "php-fpm8.2 -t -y /etc/php/own.conf",
            ),
            (
                "/usr/sbin/php-fpm8.2",
                &["php-fpm: pool www", "", ""],
                "php-fpm8.2 -t",
            ),
            (
                "/usr/bin/prometheus",
                &[
                    "/usr/bin/prometheus",
                    "--config.file=/etc/p.yml",
                    "--web.config.file=/x",
                ],
                "promtool check config /etc/p.yml >/dev/null",
            ),
        ] {
            assert_eq!(line(file, call).as_deref(), Some(expected), "{call:?}");
        }
    }

    #[test]
    fn where_nothing_is_known_nothing_is_tested() {
        for (file, call) in [
            (
                "/usr/bin/redis-server",
                &["/usr/bin/redis-server *:6379"][..],
            ),
            ("/usr/sbin/haproxy", &["/usr/sbin/haproxy", "-Ws"]),
            ("/usr/sbin/haproxy", &["haproxy", "-f"]),
            ("/usr/sbin/haproxy", &["haproxy", "-f", "a\nb"]),
            ("/usr/sbin/haproxyctl", &["haproxyctl", "-f", "/x"]),
            ("/usr/lib/other/master", &["master"]),
            ("/", &[]),
        ] {
            assert_eq!(line(file, call), None, "{file} {call:?}");
        }
        withstand(b"haproxy\0-f\0/etc/h.cfg\0-C\0/srv");
        withstand(b"nginx: master process nginx -c a b");
    }
}
