//! What holds of a keep, whether the service sets SO_REUSEPORT or not.

use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::services::Serve;
use testkit::{Host, Load, Running, RunningLoad, wait_until};

use super::keep::{Keep, LONG, client, wait_kept, wait_queued, waiting_client};
use super::latch::Latch;
use super::rooms::{all_served, listeners, listeners_on, nothing_is_left};
use super::{SOON, call, syngate, words};

pub(crate) fn flowing(host: &Host, rate: u32) -> RunningLoad {
    let load = Load::to("127.0.0.1:80").rate(rate);
    let mut load = load.timeout(LONG).duration(LONG).start(host).unwrap();
    load.wait_flowing().unwrap();
    load
}

/// A keep that was killed, in a gap in which a client waits, or while the service listens.
pub(crate) fn killed(
    host: &Host,
    service: &Serve,
    options: &str,
    in_gap: bool,
) -> (Option<Running>, Option<RunningLoad>) {
    let server = service.start(host).unwrap();
    let mut keep = Keep::on(host, options);
    let server = (!in_gap).then_some(server);
    let waits = in_gap.then(|| client(host));
    if in_gap {
        wait_queued(host, 1);
    }
    keep.running.signal(Signal::SIGKILL).unwrap();
    keep.running.wait().unwrap();
    (server, waits)
}

/// A run does on a kept port what it does elsewhere; keep stands back, and comes again.
pub(crate) fn beside_runs(service: &Serve, options: &str) {
    let host = &Host::new().unwrap();
    // The old one has closed its listener by then.
    let service = service.clone().start_delay(Duration::from_millis(50));
    let server = service.start_daemon(host).unwrap();
    let keep = Keep::on(host, options);
    for action in ["drop", "park", "handover"] {
        let load = flowing(host, 200);
        let call = call(host, words("--port 80 --syn")).arg(action);
        let call = match action {
            "handover" => call,
            _ => call.args(["--drain", "20s"]),
        };
        let outcome = call.run(server.reload_argv());
        assert_eq!(outcome.code, 0, "{action}: {outcome:?}");
        // It is a restart, and handover asks whether it is one if a client had to wait.
        let warnings = outcome.report["warnings"].as_array().unwrap().iter();
        let others = warnings.filter(|text| !text.to_string().contains("was COMMAND a restart?"));
        assert_eq!(others.count(), 0, "{action}: {outcome:?}");
        wait_kept(host);
        all_served(&load.stop().unwrap());
    }
    keep.ends(1);
}

/// The others are kept meanwhile, also by the guard of a keep that is dead: a gap that begins there is bridged. So is
/// one that lasts already as a run begins.
pub(crate) fn beside_runs_on_one_port(on: impl Fn(&str) -> Serve, options: &str, is_dead: bool) {
    let host = &Host::new().unwrap();
    let _other = on("0.0.0.0:81").start(host).unwrap();
    let server = on("0.0.0.0:80").start(host).unwrap();
    let mut keep = Keep::begun(host, &format!("--port 80,81 {options}"), &[]);
    if is_dead {
        keep.running.signal(Signal::SIGKILL).unwrap();
        keep.running.wait().unwrap();
    }
    let beside = || listeners_on(host, 81).len() - 1;
    assert!(beside() > 0 && listeners(host).len() > 1);
    let mut latch = Latch::new(host, "restart");
    let call = call(host, words("--port 81"));
    let run = call.start(["sh".to_owned(), "-c".to_owned(), latch.hold()]);
    latch.wait();
    assert_eq!(beside(), 0, "keep has stood back there");
    drop(server);
    let waits = waiting_client(host);
    latch.release();
    for outcome in [call.end(run), call.run(["true"])] {
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }
    let server = on("0.0.0.0:80").start(host).unwrap();
    all_served(&waits.finish().unwrap());
    if is_dead {
        // It goes on as the keep would.
        drop(server);
        let waits = waiting_client(host);
        let _server = on("0.0.0.0:80").start(host).unwrap();
        all_served(&waits.finish().unwrap());
        assert_eq!(syngate(host, "clear").code(), 0);
        nothing_is_left(host, 1);
    } else {
        wait_until(SOON, "the port to be kept again", || beside() > 0).unwrap();
        drop(server);
        let waits = waiting_client(host);
        let _server = on("0.0.0.0:80").start(host).unwrap();
        all_served(&waits.finish().unwrap());
        keep.ends(1);
    }
    assert_eq!(beside(), 0);
}
