//! Calls by name (`syngate restart web`), and what they print.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use testkit::{Host, Ran};

use super::SYNGATE;
use super::group::Group;

/// syngate as a shell calls it. The ruleset is what it was before.
#[track_caller]
pub(crate) fn by_name(host: &Host, line: &str) -> Ran {
    let before = host.ruleset();
    let mut call = host.command("sh");
    call.args(["-c", &format!("exec {SYNGATE} {line}")]);
    // Before the programs of this machine come those that the test has put there.
    let own = host.dir().join("bin").display().to_string();
    let path = format!("{own}:{}", std::env::var("PATH").unwrap());
    call.env("PATH", path).stdin(Stdio::null());
    let ran = Ran::from(call.output().unwrap());
    assert_eq!(host.ruleset(), before, "{line}: the ruleset is what it was");
    ran
}

#[track_caller]
pub(crate) fn done(ran: &Ran) {
    assert_eq!(ran.code(), 0, "{ran:?}");
}

/// One line, and nothing was done.
#[track_caller]
pub(crate) fn refused(ran: &Ran, says: &str) {
    assert_eq!(ran.code(), 125, "{ran:?}");
    assert!(ran.stderr.contains(says), "{says}: {ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert_eq!(ran.stdout, "", "{ran:?}");
}

/// The call that a dry run prints first, without the program's name.
#[track_caller]
pub(crate) fn long_form(ran: &Ran) -> String {
    done(ran);
    let first = ran.stdout.lines().next().unwrap_or_default();
    let form = first.strip_prefix("# syngate ");
    form.unwrap_or_else(|| panic!("{ran:?}")).to_owned()
}

/// An executable file of that name, which comes first in the PATH of [`by_name`].
pub(crate) fn program(host: &Host, name: &str, text: &str) {
    let folder = host.dir().join("bin");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A unit of that name, and a systemctl that knows it alone. It notes what it is asked to do, and does it by
/// `service`, in the unit's control group.
pub(crate) struct NamedUnit<'a> {
    host: &'a Host,
    name: &'static str,
    group: Group,
}

impl<'a> NamedUnit<'a> {
    pub(crate) fn of(host: &'a Host, name: &'static str) -> NamedUnit<'a> {
        let folder = host.dir().join("bin").display().to_string();
        let unit = NamedUnit {
            host,
            name,
            group: Group::of(host),
        };
        let within = unit.within();
        let script = format!(
            "#!/bin/sh\ncd {folder}\ncase $1 in\nlist-jobs) ;;\n\
             show) case $4 in {name}.service) cat told ;;\n\
             *) printf 'Id=%s\\nLoadState=not-found\\nActiveState=inactive\\n' \"$4\" ;; esac ;;\n\
             *) echo \"$*\" >>asked; exec {within} service {name} $1 ;;\nesac\n"
        );
        program(host, "systemctl", &script);
        unit.tell("");
        unit
    }

    /// What it says of the unit, besides the usual.
    pub(crate) fn tell(&self, more: &str) {
        let (name, group) = (self.name, self.group.path());
        let told = format!("Id={name}.service\nActiveState=active\nControlGroup={group}\n{more}");
        fs::write(self.host.dir().join("bin/told"), told).unwrap();
    }

    /// What it was asked to do.
    pub(crate) fn asked(&self) -> String {
        fs::read_to_string(self.host.dir().join("bin/asked")).unwrap_or_default()
    }

    /// All its processes are told to end.
    pub(crate) fn ends(&self) {
        let folder = self.group.folder().display().to_string();
        // Some may have ended meanwhile.
        let all = format!("kill $(cat {folder}/cgroup.procs) || true");
        let _ = self.host.sh(&all);
    }

    /// Before a command line that is to be in the unit.
    pub(crate) fn within(&self) -> String {
        self.group.entered(self.host)
    }
}

/// The control group can be removed only when it is empty.
impl Drop for NamedUnit<'_> {
    fn drop(&mut self) {
        self.ends();
    }
}
