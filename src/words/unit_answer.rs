//! What systemctl tells of a unit, and what that means for waiting connections. Pure.

use super::unit_name::slice_path;

/// The properties to ask for (org.freedesktop.systemd1(5)).
pub(crate) const PROPERTIES: &str =
    "Id,LoadState,ActiveState,ControlGroup,Slice,CanReload,MainPID,KillMode,TriggeredBy,Job";

/// The kind of job that ends a unit.
const STOP: &str = "stop";
/// The kind of job that ends it, until it has. Then it is one that starts it.
const RESTART: &str = "restart";

/// What systemd knows of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The name of the unit, if the question was about an alias of it.
    pub id: String,
    load: String,
    active: String,
    control_group: String,
    slice: String,
    can_reload: String,
    main_pid: String,
    kill_mode: String,
    triggered_by: String,
    /// What systemd was about to do with it, a moment before it told the rest.
    job: Option<String>,
    /// The number of a job that it had together with the rest.
    job_id: String,
}

/// Whether the unit is going to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs, or systemd starts it, now or later: those who connect wait for it.
    Comes,
    /// It is being stopped, or has ended, and systemd does not start it: a port of it refuses.
    Stopped,
}

impl Answer {
    /// Reads what `systemctl list-jobs --no-legend` prints (`4711 haproxy.service stop running`), and
    /// `systemctl show` (`ActiveState=active`). `None`: it has told nothing of a unit.
    pub(crate) fn read(text: &str) -> Option<Answer> {
        let mut answer = Answer::default();
        let properties = text.lines().filter_map(|line| line.split_once('='));
        for (name, value) in properties {
            match name {
                "Id" => &mut answer.id,
                "LoadState" => &mut answer.load,
                "ActiveState" => &mut answer.active,
                "ControlGroup" => &mut answer.control_group,
                "Slice" => &mut answer.slice,
                "CanReload" => &mut answer.can_reload,
                "MainPID" => &mut answer.main_pid,
                "KillMode" => &mut answer.kill_mode,
                "TriggeredBy" => &mut answer.triggered_by,
                "Job" => &mut answer.job_id,
                _ => continue,
            }
            .push_str(value);
        }
        answer.job = job_of(&answer.id, text).map(str::to_owned);
        let told = !answer.id.is_empty() && !answer.active.is_empty();
        told.then_some(answer)
    }

    /// A restart is a job up to the end of the start. So is a start by `Restart=`; between the two, the unit is
    /// activating. One that has begun since the jobs were listed is known by its number only.
    pub(crate) fn fate(&self) -> Fate {
        match (self.job.as_deref(), self.active.as_str()) {
            (Some(STOP), _) => Fate::Stopped,
            (None, "inactive" | "failed") if self.job_id.is_empty() => Fate::Stopped,
            _ => Fate::Comes,
        }
    }

    /// Whether it is being stopped, to be started again.
    pub(crate) fn is_restarted(&self) -> bool {
        self.job.as_deref() == Some(RESTART)
    }

    /// Whether it runs, or is about to.
    pub(crate) fn is_active(&self) -> bool {
        !matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// The state of the unit, in systemd's word.
    pub(crate) fn state(&self) -> &str {
        &self.active
    }

    /// Whether `systemctl reload` works on it.
    pub(crate) fn can_reload(&self) -> bool {
        self.can_reload != "no"
    }

    /// `None`: it has none, or systemd does not know it.
    pub(crate) fn main_process(&self) -> Option<i32> {
        self.main_pid.parse().ok().filter(|pid| *pid > 0)
    }

    /// Whether a restart ends the main process alone, and what it has started goes on.
    pub(crate) fn spares_children(&self) -> bool {
        matches!(self.kill_mode.as_str(), "process" | "none")
    }

    /// The sockets that systemd holds for it.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &str> {
        let units = self.triggered_by.split_whitespace();
        units.filter(|unit| unit.ends_with(".socket"))
    }

    /// There is no unit of that name.
    pub(crate) fn is_missing(&self) -> bool {
        self.load == "not-found"
    }

    /// Why nobody can start it.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        match self.load.as_str() {
            "not-found" => Some("there is no such unit"),
            "masked" => Some("the unit is masked, so nobody can start it"),
            _ => None,
        }
    }

    /// Where its control group is, or will be once it is started, below the root of control groups.
    pub(crate) fn control_group(&self) -> Option<String> {
        match self.control_group.is_empty() {
            true => Some(format!("{}/{}", slice_path(&self.slice)?, self.id)),
            false => Some(self.control_group.clone()),
        }
    }
}

/// Whether a job is to stop the unit, as the beginning of an answer tells.
pub(crate) fn is_to_stop(unit: &str, so_far: &str) -> bool {
    job_of(unit, so_far) == Some(STOP)
}

/// The kind of job.
fn job_of<'a>(unit: &str, text: &'a str) -> Option<&'a str> {
    let jobs = text.lines().filter(|line| !line.contains('='));
    let mut jobs = jobs.map(|line| line.split_whitespace().skip(1));
    jobs.find_map(|mut fields| fields.next().filter(|of| *of == unit).and(fields.next()))
}

/// What holds for any text as an answer of systemctl's.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    if let Some(answer) = Answer::read(&String::from_utf8_lossy(bytes)) {
        assert!(!answer.id.is_empty());
        let path = answer.control_group();
        assert!(path.is_none_or(|path| !path.is_empty()));
        let stopped = answer.fate() == Fate::Stopped;
        assert!(!stopped || answer.job.is_none_or(|job| job == "stop"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(jobs: &str, active: &str) -> Answer {
        let show = format!(
            "Id=haproxy.service\nLoadState=loaded\nActiveState={active}\nSlice=system.slice\nControlGroup=\n"
        );
        Answer::read(&format!("{jobs}{show}")).unwrap()
    }

    #[test]
    fn a_stop_is_told_from_a_restart() {
        use Fate::{Comes, Stopped};
        for (job, active, fate) in [
            ("stop", "deactivating", Stopped),
            ("stop", "active", Stopped),
            ("restart", "deactivating", Comes),
            ("start", "inactive", Comes),
            ("start", "activating", Comes),
            ("try-restart", "deactivating", Comes),
            ("reload", "active", Comes),
        ] {
            let line = format!("  4711 haproxy.service {job} running\n");
            assert_eq!(told(&line, active).fate(), fate, "{line}{active}");
            assert_eq!(is_to_stop("haproxy.service", &line), job == "stop");
            assert!(!is_to_stop("nginx.service", &line));
        }
        for (active, fate) in [
            ("active", Comes),
            ("reloading", Comes),
            ("activating", Comes),
            ("deactivating", Comes),
            ("inactive", Stopped),
            ("failed", Stopped),
        ] {
            let others = "12 nginx.service stop running\n13 x.service start waiting\n";
            assert_eq!(told(others, active).fate(), fate, "{active}");
            assert_eq!(told("", active).fate(), fate, "{active}");
            let mut meanwhile = told("", active);
            meanwhile.job_id = "4711".to_owned();
            assert_eq!(meanwhile.fate(), Comes, "{active}, and a job has begun");
        }
        let told = Answer::read("Id=a.service\nActiveState=inactive\nJob=7\n").unwrap();
        assert_eq!(told.fate(), Comes);
    }

    #[test]
    fn where_its_control_group_will_be() {
        let mut answer = told("", "inactive");
        let path = answer.control_group();
        assert_eq!(path.as_deref(), Some("/system.slice/haproxy.service"));
        answer.control_group = "/a.slice/haproxy.service".to_owned();
        assert_eq!(answer.control_group(), Some(answer.control_group.clone()));
        answer.control_group.clear();
        answer.slice.clear();
        assert_eq!(answer.control_group(), None);
    }

    #[test]
    fn what_a_restart_ends_is_told() {
        let answer = |more: &str| {
            let show = format!("Id=ssh.service\nActiveState=active\n{more}");
            Answer::read(&show).unwrap()
        };
        let ssh =
            answer("CanReload=yes\nMainPID=71\nKillMode=process\nTriggeredBy=a.timer ssh.socket\n");
        assert!(ssh.can_reload() && ssh.spares_children());
        assert_eq!(ssh.main_process(), Some(71));
        assert_eq!(ssh.sockets().collect::<Vec<_>>(), ["ssh.socket"]);
        let other = answer("CanReload=no\nMainPID=0\nKillMode=control-group\nTriggeredBy=\n");
        assert!(!other.can_reload() && !other.spares_children());
        assert_eq!(other.main_process(), None);
        assert_eq!(other.sockets().count(), 0);
        assert!(answer("").can_reload(), "systemctl itself says so, else");
        for (state, active) in [("active", true), ("failed", false), ("inactive", false)] {
            assert_eq!(told("", state).is_active(), active, "{state}");
            assert_eq!(told("", state).state(), state);
        }
        assert!(answer("LoadState=not-found\n").is_missing() && !answer("").is_missing());
    }

    #[test]
    fn what_can_t_be_started_is_refused() {
        for (load, refused) in [
            ("loaded", false),
            ("not-found", true),
            ("masked", true),
            ("error", false),
        ] {
            let mut answer = told("", "inactive");
            answer.load = load.to_owned();
            assert_eq!(answer.refusal().is_some(), refused, "{load}");
        }
        for text in ["", "sh: 1: systemctl: not found\n", "Id=\nActiveState=\n"] {
            assert_eq!(Answer::read(text), None, "{text}");
        }
    }
}
