//! Plays a run event by event, for tests.

use std::time::{Duration, Instant};

use crate::decide::config::{Config, OpenOn, Settle};
use crate::decide::drain::DrainUntil;
use crate::decide::event::{Event, Task};
use crate::decide::policy::{NoPolicy, Policy};
use crate::decide::state::State;
use crate::kernel::sockets::holders::Holder;
use crate::kernel::sockets::{Connections, Device, Listener, Sample, SocketId};
use crate::words::ended::CommandExit;
use crate::words::gated::Gated;
use crate::words::ports::PortSet;

pub(crate) const COST: Duration = Duration::from_micros(50);
pub(crate) const HUP: i32 = 1;
pub(crate) const INT: i32 = 2;
pub(crate) const TERM: i32 = 15;

/// Times are milliseconds since the gate was closed.
pub(crate) struct Tale {
    pub(crate) state: State,
    pub(crate) closed_at: Instant,
    pub(crate) now_ms: u64,
}

pub(crate) fn config() -> Config {
    Config {
        gated: gated("80"),
        drain: Duration::from_secs(1),
        drain_until: DrainUntil::Requests,
        drain_command: false,
        settle: Settle::Auto,
        ready_timeout: Duration::from_secs(10),
        open_on: OpenOn::Exit,
        best_effort: false,
        ready_check: false,
        search: false,
    }
}

pub(crate) fn ports(text: &str) -> PortSet {
    PortSet::parse(text, |_| None).unwrap()
}

pub(crate) fn gated(text: &str) -> Gated {
    Gated {
        ports: ports(text),
        ..Gated::default()
    }
}

pub(crate) fn listener(port: u16, cookie: u64) -> Listener {
    Listener {
        address: "0.0.0.0".parse().unwrap(),
        port,
        v6only: false,
        device: Device::Any,
        id: SocketId { netns: 1, cookie },
        uid: 0,
        cgroup: None,
        inode: cookie as u32,
        accept_queue: 0,
        backlog: 128,
    }
}

pub(crate) fn on_80(cookies: &[u64]) -> Sample {
    Sample {
        listeners: cookies.iter().map(|c| listener(80, *c)).collect(),
        connections: Some(Connections::default()),
        ..Sample::default()
    }
}

/// The same listeners, in a look that did not ask for connections.
pub(crate) fn no_connections_seen(cookies: &[u64]) -> Sample {
    Sample {
        connections: None,
        ..on_80(cookies)
    }
}

pub(crate) fn busy(connections: u32) -> Option<Connections> {
    Some(Connections {
        established: connections,
        busy: connections,
    })
}

pub(crate) fn held_by(mut sample: Sample, pids: &[i32]) -> Sample {
    let holder = Holder {
        name: "nginx".to_owned(),
        started: 1,
        inodes: sample.listeners.iter().map(|l| l.inode).collect(),
        files: Vec::new(),
    };
    sample.holders = pids.iter().map(|pid| (*pid, holder.clone())).collect();
    sample
}

impl Tale {
    pub(crate) fn new(config: Config, before: &Sample) -> Tale {
        let closed_at = Instant::now();
        let deadline = closed_at + Duration::from_secs(30);
        Tale {
            state: State::new(
                config,
                before,
                closed_at,
                Some(deadline),
                Box::new(NoPolicy),
            ),
            closed_at,
            now_ms: 0,
        }
    }

    /// Sets the policy, as if the run had started with it.
    pub(crate) fn has(&mut self, policy: impl Policy + 'static) {
        self.state.policy = Box::new(policy);
    }

    pub(crate) fn at(&mut self, ms: u64, event: Event) -> Option<Task> {
        assert!(ms >= self.now_ms, "time goes on");
        self.now_ms = ms;
        self.state
            .step(event, self.closed_at + Duration::from_millis(ms))
    }

    pub(crate) fn wakes_at(&self) -> Option<u64> {
        let at = self.state.wake()?;
        Some((at - self.closed_at).as_micros().div_ceil(1_000) as u64)
    }

    /// A run from the closed gate to the running COMMAND, which starts at 10 ms.
    pub(crate) fn running(config: Config, before: &Sample) -> Tale {
        let drain = config.drain;
        let mut tale = Tale::new(config, before);
        if drain.is_zero() {
            assert_eq!(tale.at(0, Event::Closed), Some(Task::Check));
        } else {
            tale.closes();
            let quiet = Sample {
                connections: busy(0),
                ..before.clone()
            };
            assert_eq!(tale.saw(8, quiet), Some(Task::Check));
        }
        assert_eq!(tale.at(9, Event::Stands(true)), Some(Task::Start));
        assert_eq!(tale.at(10, Event::Started(true)), None);
        tale
    }

    /// Closes the gate. The first look comes 5 ms later.
    pub(crate) fn closes(&mut self) {
        let first = self.at(0, Event::Closed);
        if first.is_none() {
            assert_eq!(self.wakes_at(), Some(5));
            assert!(matches!(self.at(5, Event::Time), Some(Task::Look(_))));
        }
    }

    pub(crate) fn saw(&mut self, ms: u64, sample: Sample) -> Option<Task> {
        self.at(ms, Event::Saw(sample, COST))
    }

    pub(crate) fn exits(&mut self, ms: u64, status: u8) -> Option<Task> {
        self.at(ms, Event::Exited(CommandExit::Code(status)))
    }

    #[track_caller]
    pub(crate) fn removes(&mut self) {
        let now = self.now_ms;
        assert_eq!(
            self.at(now, Event::Done),
            Some(Task::Remove { anyway: false })
        );
    }

    #[track_caller]
    pub(crate) fn opens_and_ends(&mut self, action: Option<Task>) {
        assert_eq!(action, Some(Task::Open));
        self.removes();
        let now = self.now_ms;
        assert_eq!(self.at(now, Event::Done), Some(Task::End));
    }
}
