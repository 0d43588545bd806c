//! Runs a program under ptrace(2), sees each of its system calls, and hits it at one of them.
//!
//! Seen are the program's own processes: those that it forks until they become something else. x86-64
//! only, for the sake of its registers.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Command,
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

use crate::point::{Course, Fault, Point};

/// Each process comes to a standstill within this time.
const STANDSTILL: Duration = Duration::from_secs(10);

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
    /// Whether it was hit.
    pub hit: bool,
    /// What it passed.
    pub course: Course,
}

/// A process of the program's.
struct Process {
    /// See [`Point::process`].
    name: String,
    /// Between the entry and the exit of this call; with what it is to say, if it is the one.
    within: Option<Within>,
}

#[derive(Clone, Copy)]
struct Within {
    number: u64,
    fault: Option<Fault>,
}

/// The program, as long as it runs.
struct Tracer<'a> {
    program: PathBuf,
    main: Pid,
    /// It has become the program.
    begun: bool,
    processes: HashMap<Pid, Process>,
    target: Option<&'a Target<'a>>,
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
/// an error.
pub fn run(
    command: &mut Command,
    program: &Path,
    target: Option<&Target>,
    limit: Duration,
) -> Result<Traced> {
    let main = start(command)?;
    let mut tracer = Tracer {
        program: program.canonicalize()?,
        main,
        begun: false,
        processes: HashMap::new(),
        target,
        traced: Traced {
            code: 0,
            hit: false,
            course: Course::new(),
        },
    };
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let timer = thread::spawn(move || {
        let late = is_over.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
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
                    self.traced.code = code(status)?;
                    return self.let_go();
                }
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.processes.remove(&pid);
                }
                WaitStatus::PtraceSyscall(pid) => {
                    if let Some(visit) = self.syscall(pid) {
                        return self.receive(visit);
                    }
                }
                WaitStatus::PtraceEvent(pid, signal, event) => self.event(pid, signal, event)?,
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
                other => bail!("{other:?}"),
            }
        }
    }

    /// Lets a visitor in, and waits for the end of the program.
    fn receive(&mut self, visit: &dyn Fn(Pid) -> Result<()>) -> Result<()> {
        // It stops as soon as it is let go.
        kill(self.main, Signal::SIGSTOP)?;
        ptrace::detach(self.main, None)?;
        self.let_go()?;
        waitpid(self.main, Some(WaitPidFlag::WUNTRACED))?;
        let visited = visit(self.main);
        let _ = kill(self.main, Signal::SIGCONT);
        self.traced.code = code(waitpid(self.main, None)?)?;
        visited
    }

    /// The main process needs us no more; its guards are to do their work without us. Only who stands
    /// still can be let go, and who has called vfork(2) does not before its child is let go.
    fn let_go(&mut self) -> Result<()> {
        self.processes.remove(&self.main);
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
                go_on(pid, None);
            }
            libc::PTRACE_EVENT_EXEC => self.exec(pid),
            libc::PTRACE_EVENT_STOP => {
                self.add(pid, "child");
                go_on(pid, None);
            }
            _ => go_on(pid, Some(signal)),
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
            return go_on(pid, None);
        }
        if !is_program {
            let within = self
                .processes
                .remove(&pid)
                .and_then(|process| process.within);
            if within.is_some_and(|within| within.fault == Some(Fault::KillAfter)) {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = ptrace::detach(pid, None);
            return;
        }
        self.begun |= pid == self.main;
        if pid != self.main
            && let Some(process) = self.processes.get_mut(&pid)
        {
            process.name = first_argument(pid);
        }
        go_on(pid, None);
    }

    /// At the entry or exit of a call; a visit, if it is time for one.
    fn syscall(&mut self, pid: Pid) -> Option<&'a dyn Fn(Pid) -> Result<()>> {
        // A process that was killed meanwhile has no registers.
        if let Ok(registers) = ptrace::getregs(pid) {
            let within = self.processes.get(&pid).and_then(|process| process.within);
            let blow = match within {
                None if self.begun => self.blow(pid, &registers),
                _ => None,
            };
            match (within, blow) {
                (_, Some(Blow::Visit(visit))) => return Some(visit),
                (None, Some(Blow::Fault(fault))) => self.entry(pid, registers, Some(fault)),
                (None, None) => self.entry(pid, registers, None),
                (Some(within), _) => self.exit(pid, registers, within),
            }
        }
        go_on(pid, None);
        None
    }

    fn entry(&mut self, pid: Pid, mut registers: libc::user_regs_struct, fault: Option<Fault>) {
        let number = registers.orig_rax;
        match fault {
            Some(Fault::KillBefore) => {
                let _ = kill(pid, Signal::SIGKILL);
            }
            Some(fault) if fault.errno().is_some() => {
                registers.orig_rax = u64::MAX; // no call at all
                let _ = ptrace::setregs(pid, registers);
            }
            _ => (),
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.within = Some(Within { number, fault });
        }
    }

    fn exit(&mut self, pid: Pid, mut registers: libc::user_regs_struct, within: Within) {
        match within.fault {
            Some(Fault::KillAfter) => {
                let _ = kill(pid, Signal::SIGKILL);
            }
            Some(fault) => {
                if let Some(errno) = fault.errno() {
                    registers.rax = (-(errno as i64)).cast_unsigned();
                    let _ = ptrace::setregs(pid, registers);
                }
            }
            None if within.number == Sysno::write as u64 && registers.rdi == 2 => {
                let said = memory(pid, registers.rsi, registers.rdx);
                self.traced.course.said(&said.unwrap_or_default());
            }
            None => (),
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
        let point = self.traced.course.call(name, call)?;
        let target = self.target?;
        if point != *target.point {
            return None;
        }
        self.traced.hit = true;
        Some(target.blow)
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

fn go_on(pid: Pid, signal: Option<Signal>) {
    // It may have been killed.
    let _ = ptrace::syscall(pid, signal.filter(|signal| *signal != Signal::SIGTRAP));
}

/// The name that a guard gives itself.
fn first_argument(pid: Pid) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = words.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(first).into_owned()
}

fn memory(pid: Pid, at: u64, length: u64) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(length)?.min(64 * 1024)];
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    memory.seek(SeekFrom::Start(at))?;
    memory.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
