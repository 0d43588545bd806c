//! Which unit of systemd's a process belongs to, as its control groups tell (proc(5)).

use std::fs;

/// A unit of the system's manager, or of a user's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unit {
    /// The unit that `systemctl` knows by this name: for the unit of a user's manager, that manager.
    pub(crate) of_system: String,
    /// The unit that `systemctl --user` knows by this name.
    of_user: Option<String>,
}

impl Unit {
    pub(crate) fn of(pid: i32) -> Option<Unit> {
        Unit::read(&cgroups(&pid.to_string()))
    }

    pub(crate) fn of_this_process() -> Option<Unit> {
        Unit::read(&cgroups("self"))
    }

    /// Reads `/proc/PID/cgroup`: below slices is the unit, and below the unit what it has made for
    /// itself. A path that begins in another way is that of a container's manager.
    pub(crate) fn read(cgroups: &str) -> Option<Unit> {
        cgroups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let systemd_s = matches!(fields.next()?, "" | "name=systemd");
            let path = fields.next().filter(|_| systemd_s)?;
            let mut parts = path.strip_prefix('/')?.split('/');
            let of_system = first(&mut parts)?.to_owned();
            let is_manager = of_system.starts_with("user@") && of_system.ends_with(SERVICE);
            let of_user = is_manager.then(|| first(&mut parts)).flatten();
            Some(Unit {
                of_system,
                of_user: of_user.map(str::to_owned),
            })
        })
    }

    /// Whether it is a service, and no session, container or manager of a user.
    pub(crate) fn is_service(&self) -> bool {
        match &self.of_user {
            Some(unit) => unit.ends_with(SERVICE),
            None => self.of_system.ends_with(SERVICE) && !self.of_system.starts_with("user@"),
        }
    }

    /// The name of a service that the system's manager restarts, without `.service`.
    pub(crate) fn service_of_system(&self) -> Option<&str> {
        let system_s = self.of_user.is_none() && self.is_service();
        self.of_system.strip_suffix(SERVICE).filter(|_| system_s)
    }
}

const SERVICE: &str = ".service";

fn cgroups(process: &str) -> String {
    fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default()
}

/// The first unit behind slices.
fn first<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let unit = parts.find(|part| !part.ends_with(".slice"))?;
    let is_unit = unit.ends_with(SERVICE) || unit.ends_with(".scope");
    is_unit.then_some(unit)
}

/// What holds for any text as a process's control groups.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    if let Some(unit) = Unit::read(text) {
        let names = [Some(&unit.of_system), unit.of_user.as_ref()];
        for name in names.into_iter().flatten() {
            assert!(text.contains(name.as_str()) && !name.contains('/'));
        }
        assert!(
            unit.service_of_system()
                .is_none_or(|name| unit.of_system.starts_with(name))
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_from_cgroups() {
        let user = "0::/user.slice/user-1000.slice/user@1000.service/";
        for (cgroups, of_system, of_user, service) in [
            (
                "0::/system.slice/nginx.service\n",
                "nginx.service",
                None,
                Some("nginx"),
            ),
            (
                "0::/system.slice/redis.service/.control\n",
                "redis.service",
                None,
                Some("redis"),
            ),
            (
                "0::/web.slice/web-a.slice/x@1.service/worker.service\n",
                "x@1.service",
                None,
                Some("x@1"),
            ),
            (
                "12:pids:/\n1:name=systemd:/system.slice/ssh.service\n0::/\n",
                "ssh.service",
                None,
                Some("ssh"),
            ),
            (
                "0::/user.slice/user-0.slice/session-1.scope\n",
                "session-1.scope",
                None,
                None,
            ),
            (
                "0::/system.slice/docker-01.scope/init.scope\n",
                "docker-01.scope",
                None,
                None,
            ),
            (
                "0::/machine.slice/machine-a.scope/payload/system.slice/nginx.service\n",
                "machine-a.scope",
                None,
                None,
            ),
            (
                &format!("{user}app.slice/x.service\n"),
                "user@1000.service",
                Some("x.service"),
                None,
            ),
            (
                &format!("{user}init.scope\n"),
                "user@1000.service",
                Some("init.scope"),
                None,
            ),
            (user, "user@1000.service", None, None),
        ] {
            let unit = Unit::read(cgroups).unwrap();
            assert_eq!(unit.of_system, of_system, "{cgroups}");
            assert_eq!(unit.of_user.as_deref(), of_user, "{cgroups}");
            assert_eq!(unit.service_of_system(), service, "{cgroups}");
            let is_service =
                service.is_some() || of_user.is_some_and(|unit| unit.ends_with(SERVICE));
            assert_eq!(unit.is_service(), is_service, "{cgroups}");
        }
        for cgroups in [
            "0::/\n",
            "0::/system.slice\n",
            "0::/lxc.payload.web/system.slice/nginx.service\n",
            "5:cpu:/system.slice/nginx.service\n",
            "nonsense",
            "",
        ] {
            assert_eq!(Unit::read(cgroups), None, "{cgroups}");
        }
    }
}
