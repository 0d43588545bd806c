//! Runs a program under ptrace(2), sees each of its system calls, and hits it at one of them.
//!
//! Seen are the program's own processes: those that it forks until they become something else. x86-64
//! only, for the sake of its registers.

mod call;
mod going;
mod memory;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use syscalls::Sysno;
use testkit::wait_until;

use crate::{
    clock::{now_ms, wait_patiently},
    fault::{DELAY, Fault, HANG},
    point::{Course, Point},
};
use call::Within;
use going::{Still, go_on, passed_on};

/// Each process comes to a standstill within this time.
const STANDSTILL: Duration = Duration::from_secs(10);
/// So many lines tell well enough when a run has begun: one may be seen late.
const TELLING_LINES: usize = 3;

/// What is to happen at a point of the run.
pub struct Target<'a> {
    /// Where.
    pub point: &'a Point,
    /// What.
    pub blow: Blow<'a>,
}

/// What comes over the program.
#[derive(Clone, Copy)]
pub enum Blow<'a> {
    /// It is killed, or its call fails.
    Fault(Fault),
    /// This is done while the program is stopped (SIGSTOP), and nobody is traced any more: its guards
    /// go on. It is told the program's pid.
    Visit(&'a dyn Fn(Pid) -> Result<()>),
}

/// How the program ended, and what it did until then.
pub struct Traced {
    /// As a shell has it: 128 + n for signal n.
    pub code: i32,
    /// When, in ms of CLOCK_MONOTONIC: when it was killed, if it was killed at a call, since a process may
    /// take a while to be gone.
    pub ended_ms: f64,
    /// From when on nobody saw its calls any more, in ms of CLOCK_MONOTONIC; it was slow before.
    pub unseen_ms: Option<f64>,
    /// How often it was hit.
    pub hits: usize,
    /// What it passed.
    pub course: Course,
}

impl Traced {
    /// When it began, in ms of CLOCK_MONOTONIC: when it was started, if it has not said anything.
    pub fn began_ms(&self, started_ms: f64) -> f64 {
        let said = self.course.began_ms;
        said.map_or(started_ms, |began| began.max(started_ms))
    }
}

/// A process of the program's.
struct Process {
    /// See [`Point::process`].
    name: String,
    /// Between the entry and the exit of this call; with what it is to say, if it is the one.
    within: Option<Within>,
}

/// The program, as long as it runs.
struct Tracer<'a> {
    program: PathBuf,
    main: Pid,
    /// It has become the program.
    begun: bool,
    processes: HashMap<Pid, Process>,
    /// One after the other.
    targets: &'a [Target<'a>],
    /// Files that tell what the program does, each once it is there; in order.
    marks: &'a [(PathBuf, &'a str)],
    /// How many of these points were reached.
    reached: usize,
    /// A fault that waits for its call, and whose.
    armed: Option<(Pid, Fault)>,
    /// Until a process of this pid ends, which does nothing but sleep: waitpid(2) tells of it, too.
    still: HashMap<Pid, Still>,
    /// When [`main`](Self::main) was killed.
    killed_ms: Option<f64>,
    traced: Traced,
}

/// A command that stops before it becomes what it is to run, so that nothing of that is missed.
pub fn stopping(words: &[String]) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .args(words);
    shell
}

/// Runs a command that is [`stopping`] to the end of `program`, which is killed after `limit`: that is
/// an error. `marks`: files that tell what a program does that does not say so.
pub fn run(
    command: &mut Command,
    program: &Path,
    targets: &[Target],
    marks: &[(PathBuf, &str)],
    limit: Duration,
) -> Result<Traced> {
    let main = start(command)?;
    let mut tracer = Tracer {
        program: program.canonicalize()?,
        main,
        begun: false,
        processes: HashMap::new(),
        targets,
        marks,
        reached: 0,
        armed: None,
        still: HashMap::new(),
        killed_ms: None,
        traced: Traced {
            code: 0,
            ended_ms: 0.0,
            unseen_ms: None,
            hits: 0,
            course: Course::new(),
        },
    };
    let (over, is_over) = mpsc::channel::<()>();
    let timer = thread::spawn(move || {
        let late = has_passed(limit, &is_over);
        if late {
            let _ = kill(main, Signal::SIGKILL);
        }
        late
    });
    tracer.follow()?;
    drop(over);
    let late = timer.join().expect("it does not panic");
    ensure!(!late, "it still ran after {limit:?}");
    Ok(tracer.traced)
}

/// Waits for so long, unless it is over before.
fn has_passed(limit: Duration, is_over: &Receiver<()>) -> bool {
    let ended = || is_over.try_recv() == Err(TryRecvError::Disconnected);
    wait_patiently(limit, "its end", ended).is_err()
}

fn start(command: &mut Command) -> Result<Pid> {
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    ensure!(
        matches!(stopped, WaitStatus::Stopped(..)),
        "a shell that stops: {stopped:?}"
    );
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE;
    ptrace::seize(pid, options)?;
    kill(pid, Signal::SIGCONT)?;
    Ok(pid)
}

impl<'a> Tracer<'a> {
    fn follow(&mut self) -> Result<()> {
        self.add(self.main, "syngate");
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => continue,
                status => status?,
            };
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == self.main => {
                    self.ended(status)?;
                    return self.let_go();
                }
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.processes.remove(&pid);
                    if let Some(still) = self.still.remove(&pid) {
                        still.go_on();
                    }
                }
                WaitStatus::PtraceSyscall(pid) => {
                    if let Some(visit) = self.syscall(pid) {
                        return self.receive(visit);
                    }
                }
                WaitStatus::PtraceEvent(pid, signal, event) => self.event(pid, signal, event)?,
                WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
                other => bail!("{other:?}"),
            }
        }
    }

    /// Whether all has happened that is to, and is known.
    fn is_done(&self) -> bool {
        let some = !self.targets.is_empty() && self.traced.course.lines >= TELLING_LINES;
        some && self.reached == self.targets.len() && self.armed.is_none()
    }

    /// When all has happened, system calls are not looked at any more: that makes a run many times slower,
    /// and the more so where others keep the machine busy.
    fn go_on(&mut self, pid: Pid, signal: Option<Signal>) {
        let within = self.processes.get(&pid).and_then(|process| process.within);
        let is_hit = within.is_some_and(|within| within.fault.is_some());
        match self.is_done() && !is_hit {
            true => {
                self.traced.unseen_ms.get_or_insert_with(now_ms);
                let _ = ptrace::cont(pid, passed_on(signal));
            }
            false => go_on(pid, signal),
        }
    }

    /// For so long; if that can't be, not at all.
    fn stand(&mut self, still: Still, time: Duration) {
        let mut sleep = Command::new("sleep");
        sleep.arg(time.as_secs_f64().to_string());
        match sleep.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(timer) => {
                let timer = Pid::from_raw(timer.id().cast_signed());
                self.still.insert(timer, still);
            }
            Err(_) => still.go_on(),
        }
    }

    /// Lets all go on that stand still.
    fn end_standing(&mut self) {
        for (timer, still) in self.still.drain() {
            let _ = kill(timer, Signal::SIGKILL);
            let _ = waitpid(timer, None);
            still.go_on();
        }
    }

    /// Lets a visitor in, and waits for the end of the program.
    fn receive(&mut self, visit: &dyn Fn(Pid) -> Result<()>) -> Result<()> {
        self.traced.unseen_ms = Some(now_ms());
        // It stops as soon as it is let go.
        kill(self.main, Signal::SIGSTOP)?;
        ptrace::detach(self.main, None)?;
        self.let_go()?;
        waitpid(self.main, Some(WaitPidFlag::WUNTRACED))?;
        let visited = visit(self.main);
        let _ = kill(self.main, Signal::SIGCONT);
        self.ended(waitpid(self.main, None)?)?;
        visited
    }

    fn ended(&mut self, status: WaitStatus) -> Result<()> {
        self.traced.code = code(status)?;
        self.traced.ended_ms = self.killed_ms.unwrap_or_else(now_ms);
        Ok(())
    }

    /// The main process needs us no more; its guards are to do their work without us. Only who stands
    /// still can be let go, and who has called vfork(2) does not before its child is let go.
    fn let_go(&mut self) -> Result<()> {
        self.processes.remove(&self.main);
        self.end_standing();
        for pid in self.processes.keys() {
            let _ = ptrace::interrupt(*pid);
        }
        wait_until(STANDSTILL, "processes that stand still", || {
            let pids: Vec<Pid> = self.processes.keys().copied().collect();
            pids.into_iter().for_each(|pid| self.let_go_of(pid));
            self.processes.is_empty()
        })
    }

    fn let_go_of(&mut self, pid: Pid) {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        let signal = match waitpid(pid, Some(flags)) {
            Ok(WaitStatus::StillAlive) => return,
            Ok(WaitStatus::PtraceEvent(_, _, event)) => {
                // Whom it has started is ours as well.
                let _ = self.born(pid, event);
                None
            }
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            _ => None,
        };
        let _ = ptrace::detach(pid, signal);
        self.processes.remove(&pid);
    }

    fn add(&mut self, pid: Pid, name: &str) {
        let name = name.to_owned();
        self.processes
            .entry(pid)
            .or_insert(Process { name, within: None });
    }

    /// Adds the new process or thread, if the event is about one.
    fn born(&mut self, by: Pid, event: i32) -> Result<()> {
        let named = match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => None,
            // A thread.
            libc::PTRACE_EVENT_CLONE => self.processes.get(&by),
            _ => return Ok(()),
        };
        let name = named.map_or("child", |p| &p.name).to_owned();
        let new = ptrace::getevent(by).context("the pid of the new process")?;
        self.add(Pid::from_raw(new as i32), &name);
        Ok(())
    }

    fn event(&mut self, pid: Pid, signal: Signal, event: i32) -> Result<()> {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.born(pid, event)?;
                self.go_on(pid, None);
            }
            libc::PTRACE_EVENT_EXEC => self.exec(pid),
            libc::PTRACE_EVENT_STOP => {
                self.add(pid, "child");
                self.go_on(pid, None);
            }
            _ => self.go_on(pid, Some(signal)),
        }
        Ok(())
    }

    /// It has become the program, a guard (which is the program as well), or something else.
    fn exec(&mut self, pid: Pid) {
        let is_program =
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.program);
        // What sets limits first, and then becomes the program.
        let before = pid == self.main && !self.begun && !is_program;
        if before {
            return self.go_on(pid, None);
        }
        if !is_program {
            let within = self
                .processes
                .remove(&pid)
                .and_then(|process| process.within);
            match within.and_then(|within| within.fault) {
                Some(Fault::KillAfter) => {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                Some(Fault::Hang) => {
                    let _ = kill(pid, Signal::SIGSTOP);
                    self.stand(Still::Hanging(pid), HANG);
                }
                _ => (),
            }
            let _ = ptrace::detach(pid, None);
            return;
        }
        self.begun |= pid == self.main;
        let process = self.processes.get_mut(&pid);
        if let Some(process) = process.filter(|_| pid != self.main) {
            process.name = memory::first_argument(pid);
            if process
                .within
                .is_some_and(|within| within.fault == Some(Fault::Hang))
            {
                return self.stand(Still::Stopped(pid), HANG);
            }
        }
        self.go_on(pid, None);
    }

    /// At the entry or exit of a call; a visit, if it is time for one.
    fn syscall(&mut self, pid: Pid) -> Option<&'a dyn Fn(Pid) -> Result<()>> {
        // A process that was killed meanwhile has no registers.
        let Ok(mut registers) = ptrace::getregs(pid) else {
            self.go_on(pid, None);
            return None;
        };
        let within = self.processes.get(&pid).and_then(|process| process.within);
        let fault = match (within, self.begun) {
            (Some(within), _) => {
                self.exit(pid, registers, within);
                self.go_on(pid, None);
                return None;
            }
            (None, false) => None,
            (None, true) => match self.blow(pid, &registers) {
                Some(Blow::Visit(visit)) => return Some(visit),
                Some(Blow::Fault(fault)) => Some(fault),
                None => None,
            },
        };
        // A little early, if it is killed after the call.
        if pid == self.main && fault.is_some_and(Fault::kills) {
            self.killed_ms = Some(now_ms());
        }
        let within = call::enter(pid, &mut registers, fault);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.within = Some(within);
        }
        match fault {
            Some(Fault::Delay) => self.stand(Still::Stopped(pid), DELAY),
            _ => self.go_on(pid, None),
        }
        None
    }

    fn exit(&mut self, pid: Pid, mut registers: libc::user_regs_struct, within: Within) {
        if within.number == Sysno::write as u64 && registers.rdi == 2 && within.fault.is_none() {
            let said = memory::read(pid, registers.rsi, registers.rdx).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            self.traced.course.said(&said, now_ms());
        }
        let happened = call::leave(pid, &mut registers, within);
        if within.fault.is_some_and(Fault::is_of_netlink) && happened {
            self.armed = None;
            self.traced.hits += 1;
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.within = None;
        }
    }

    /// Counts the call; what is to happen to it, if it is the one.
    fn blow(&mut self, pid: Pid, registers: &libc::user_regs_struct) -> Option<Blow<'a>> {
        let name = &self.processes.get(&pid)?.name;
        let number = usize::try_from(registers.orig_rax).ok()?;
        let call = Sysno::new(number).map_or("unknown", |call| call.name());
        if let Some((_, phase)) = self.marks.iter().rev().find(|(file, _)| file.exists()) {
            self.traced.course.is_in(phase);
        }
        let point = self.traced.course.call(name, call);
        let target = self.targets.get(self.reached);
        match target.filter(|target| point.as_ref() == Some(target.point)) {
            None => self.awaited(pid, registers),
            Some(target) => {
                self.reached += 1;
                match target.blow {
                    Blow::Fault(fault) if fault.waits_for_its_call() => {
                        self.armed = Some((pid, fault));
                        self.awaited(pid, registers)
                    }
                    blow => {
                        self.traced.hits += 1;
                        Some(blow)
                    }
                }
            }
        }
    }

    /// The fault that waits for such a call of this process.
    fn awaited(&mut self, pid: Pid, registers: &libc::user_regs_struct) -> Option<Blow<'a>> {
        let (_, fault) = self.armed.filter(|(whose, _)| *whose == pid)?;
        if !call::takes(pid, registers, fault) {
            return None;
        }
        if !fault.is_of_netlink() {
            self.armed = None;
            self.traced.hits += 1;
        }
        Some(Blow::Fault(fault))
    }
}

/// How it has ended, as a shell has it.
fn code(status: WaitStatus) -> Result<i32> {
    match status {
        WaitStatus::Exited(_, code) => Ok(code),
        WaitStatus::Signaled(_, signal, _) => Ok(128 + signal as i32),
        other => bail!("{other:?}"),
    }
}
