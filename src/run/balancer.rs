//! What a run does to leave a load balancer: the options, checked, and what the report has of it. Pure.

use std::time::Duration;

use serde::Serialize;

use crate::cli::{LEAVE_QUIET, LEAVE_TIMEOUT, RunOptions};
use crate::gate::kinds::Kind;
use crate::words::gated::Gated;
use crate::words::ms::Ms;
use crate::words::ports::{PortSet, as_ranges};
use crate::words::scope::{HookChoice, Networks};

/// What a run does to leave a load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leave {
    /// Whose new connections are refused.
    pub(crate) ports: PortSet,
    /// Whose; empty: everybody's.
    pub(crate) from: Networks,
    /// The load balancer checks the gated ports themselves.
    pub(crate) gated: bool,
    pub(crate) quiet: Duration,
    pub(crate) timeout: Duration,
}

/// What came of it, in the report.
#[derive(Debug, Serialize)]
pub(crate) struct LeaveRow {
    #[serde(serialize_with = "as_ranges")]
    pub(super) ports: PortSet,
    pub(super) from: Vec<String>,
    /// How long it has waited for quiet.
    pub(super) wait_ms: Ms,
    /// How many new connections came to the gated ports meanwhile.
    pub(super) connections: u64,
    /// False: they still came when the time was over.
    pub(super) quiet: bool,
    /// How many new connections were refused, to the end; null if the count could not be read.
    pub(super) refused: Option<u64>,
}

impl Leave {
    /// # Errors
    /// One line that names the option, its value and what would be right.
    pub(crate) fn wanted(options: &RunOptions, gated: &Gated) -> Result<Option<Leave>, String> {
        let given = &options.leaving;
        let each = given.leave_ports.iter();
        let ports = each.fold(PortSet::EMPTY, |all, ports| all.union(ports));
        let from = given.leave_from.iter().flat_map(|n| n.iter().copied());
        let from = Networks::new(from);
        if ports.is_empty() && from.is_empty() {
            let times = [
                ("--leave-quiet", given.leave_quiet),
                ("--leave-timeout", given.leave_timeout),
            ];
            let alone = times
                .iter()
                .find_map(|(option, time)| Some((option, (*time)?)));
            return alone.map_or(Ok(None), |(option, time)| {
                let time = humantime::format_duration(time);
                Err(format!(
                    "{option} {time} has no effect without --leave or --leave-from; give one of them, such \
                     as --leave 8081"
                ))
            });
        }
        let leave = Leave {
            gated: ports.is_empty(),
            ports: match ports.is_empty() {
                true => gated.ports.clone(),
                false => ports,
            },
            from,
            quiet: given.leave_quiet.unwrap_or(LEAVE_QUIET),
            timeout: given.leave_timeout.unwrap_or(LEAVE_TIMEOUT),
        };
        leave.makes_sense(options, gated)?;
        Ok(Some(leave))
    }

    fn makes_sense(&self, options: &RunOptions, gated: &Gated) -> Result<(), String> {
        let both = self.ports.intersection(&gated.ports);
        if !self.gated && !both.is_empty() {
            let (both, all) = (both.brief(), gated.ports.brief());
            return Err(format!(
                "--leave {both}: --port {all} gates that port too, and --leave would refuse its clients; \
                 expected ports that only health checks go to, or --leave-from alone with the load \
                 balancer's addresses"
            ));
        }
        if self.gated && self.from.all().iter().any(|n| n.prefix_len() == 0) {
            return Err(format!(
                "--leave-from {}: without --leave that refuses every client; expected the load balancer's \
                 addresses, such as 10.0.0.0/24",
                self.from
            ));
        }
        let (quiet, timeout) = (self.quiet, self.timeout);
        let (shown, limit) = (
            humantime::format_duration(quiet),
            humantime::format_duration(timeout),
        );
        if quiet.is_zero() {
            return Err(format!(
                "--leave-quiet {shown}: the run would not wait; expected the time in which the load \
                 balancer takes a server out, such as 6s"
            ));
        }
        if quiet >= timeout {
            return Err(format!(
                "--leave-quiet {shown} is not shorter than --leave-timeout {limit}: the wait could not \
                 succeed; expected a longer --leave-timeout"
            ));
        }
        let by_iptables = |kind: &Kind| matches!(kind, Kind::Iptables(_));
        if options.hook == HookChoice::Prerouting && options.backend.kinds().iter().all(by_iptables)
        {
            let backend = options.backend.name();
            return Err(format!(
                "--leave, --hook prerouting and --backend {backend} exclude each other: iptables refuses \
                 connections in the input hook alone; expected --backend nft"
            ));
        }
        Ok(())
    }

    /// The run's own gate lets these sources pass, since the rules of `--leave` refuse them.
    pub(crate) fn spares(&self) -> Networks {
        match self.gated {
            true => self.from.clone(),
            false => Networks::default(),
        }
    }

    /// Who is refused where, as options.
    pub(super) fn shown(&self) -> String {
        let ports = self.ports.brief();
        match self.from.is_empty() {
            true => ports,
            false => format!("{ports} from {}", self.from),
        }
    }

    /// What `--dry-run` says.
    pub(crate) fn lines(&self, gated: &PortSet) -> [String; 2] {
        let (quiet, timeout) = (self.quiet, self.timeout);
        let (quiet, timeout) = (
            humantime::format_duration(quiet),
            humantime::format_duration(timeout),
        );
        [
            format!(
                "leave the load balancer: refuse new connections to {}, until the gate is open again",
                self.shown()
            ),
            format!(
                "wait at most {timeout} until no new connections have come to {} for {quiet}",
                gated.brief()
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Args;
    use crate::words::scope::parse_networks;

    fn wanted(options: &str) -> Result<Option<Leave>, String> {
        let words = format!("syngate --port 80,443 {options} -- true");
        let args = Args::try_parse_from(words.split_whitespace()).unwrap();
        let gated = Gated {
            ports: PortSet::from_iter([80, 443]),
            ..Gated::default()
        };
        Leave::wanted(&args.options, &gated)
    }

    fn networks(text: &str) -> Networks {
        Networks::new(parse_networks(text).unwrap())
    }

    #[test]
    fn who_is_refused_where() {
        assert_eq!(wanted(""), Ok(None));
        let health = wanted("--leave 8081 --leave 9000").unwrap().unwrap();
        assert_eq!(
            (health.ports.to_string().as_str(), health.gated),
            ("8081,9000", false)
        );
        assert_eq!((health.quiet, health.timeout), (LEAVE_QUIET, LEAVE_TIMEOUT));
        assert!(health.from.is_empty() && health.spares().is_empty());

        let both = wanted("--leave 8081 --leave-from 10.0.0.0/24,fd00::1")
            .unwrap()
            .unwrap();
        assert_eq!(both.from, networks("10.0.0.0/24,fd00::1"));
        assert!(
            !both.gated && both.spares().is_empty(),
            "the gate stops it as others"
        );

        let times = "--leave-quiet 1s --leave-timeout 1001ms";
        let gated = wanted(&format!("--leave-from 10.0.0.9 {times}"))
            .unwrap()
            .unwrap();
        assert_eq!(
            (gated.ports.to_string().as_str(), gated.gated),
            ("80,443", true)
        );
        assert_eq!(gated.spares(), networks("10.0.0.9"));
        let ports = PortSet::from_iter([80, 443]);
        let [refuses, waits] = gated.lines(&ports);
        assert!(refuses.contains("80,443 from 10.0.0.9, until"), "{refuses}");
        assert!(
            waits.contains("at most 1s 1ms until") && waits.ends_with("for 1s"),
            "{waits}"
        );
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (options, says) in [
            (
                "--leave-quiet 1s",
                "--leave-quiet 1s has no effect without --leave",
            ),
            (
                "--leave-timeout 1s",
                "--leave-timeout 1s has no effect without --leave",
            ),
            (
                "--leave 443,8081",
                "--leave 443: --port 80,443 gates that port too",
            ),
            ("--leave-from ::/0", "--leave-from ::/0: without --leave"),
            (
                "--leave 81 --leave-quiet 0",
                "--leave-quiet 0s: the run would not wait",
            ),
            (
                "--leave 81 --leave-quiet 1m",
                "--leave-quiet 1m is not shorter than --leave-timeout 1m: ",
            ),
            (
                "--leave 81 --hook prerouting --backend iptables",
                "exclude each other",
            ),
        ] {
            let why = wanted(options).unwrap_err();
            assert!(
                why.contains(says) && why.lines().count() == 1,
                "{options}: {why}"
            );
        }
        for options in [
            "--leave 81 --leave-from 0.0.0.0/0",
            "--leave 81 --hook prerouting",
            "--leave 81 --hook prerouting --backend nft",
            "--leave 81 --backend iptables",
        ] {
            assert!(wanted(options).unwrap().is_some(), "{options}");
        }
    }
}
