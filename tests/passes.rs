//! `--syn park` and `--syn handover`: whose connections are told from those of clients. COMMAND asks the service
//! that it has started, a service connects to itself, and other programs of the host use the same ports.

mod harness;

use std::process::Stdio;
use std::time::Duration;

use harness::group::Group;
use harness::latch::Latch;
use harness::rooms::{all_served, are_parked, figure, nothing_is_left};
use harness::{Call, call, words};
use testkit::services::{HaproxyConfig, Serve};
use testkit::{Host, Load, Pair, SERVER};

const ACTIONS: [&str; 2] = ["park", "handover"];

fn run<'a>(host: &'a Host, options: &str) -> Call<'a> {
    call(host, words(options)).unhurried()
}

/// The run may not have seen the new listener yet. Without syngate, it answers.
#[test]
fn commands_question_right_after_the_start_is_answered() {
    for action in ACTIONS {
        for reuseport in [false, true] {
            let host = Host::new().unwrap();
            let pid = host.dir().join("server.pid");
            let server = Serve::on("0.0.0.0:80").reuseport_if(reuseport);
            let start = server.daemon_argv(&pid).unwrap().join(" ");
            host.must(["sh", "-c", &start]);
            let restart = format!(
                "kill $(cat {}); {start} && exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/80'",
                pid.display()
            );
            for _ in 0..10 {
                let call = run(&host, &format!("--port 80 --syn {action} --drain 0"));
                let outcome = call.run(["sh", "-c", &restart]);
                assert_eq!(outcome.code, 0, "{action}, {reuseport}: {outcome:?}");
            }
            nothing_is_left(&host, 1);
        }
    }
}

/// A front end and a back end of one haproxy, in a control group of its own, as systemd has it. What it connects to
/// is told from COMMAND's orders to stop.
#[test]
fn a_service_that_connects_to_itself_is_served() {
    const BACK: &str = "\nlisten back\nbind :81\n\
        http-request return status 200 content-type text/plain string ok\n";
    for (action, stop) in [("park", "-st"), ("handover", "-sf")] {
        let pair = Pair::new().unwrap();
        let host = &pair.server;
        let group = Group::of(host);
        let front = HaproxyConfig::bind(":80").backend("127.0.0.1:81\nretries 0");
        let config = host.write("haproxy.cfg", front.text() + BACK);
        let pid = host.dir().join("haproxy.pid");
        let start = format!(
            "{} haproxy -D -f {} -p {}",
            group.entered(host),
            config.display(),
            pid.display()
        );
        host.must(["sh", "-c", &start]);
        host.wait_listen(81).unwrap();
        let load = Load::to(format!("{SERVER}:80")).rate(200);
        let load = load.duration(Duration::from_secs(60));
        let mut load = load.start(&pair.client).unwrap();
        load.wait_flowing().unwrap();
        for _ in 0..3 {
            let reload = format!("{start} {stop} $(cat {})", pid.display());
            let call = run(host, &format!("--port 80,81 --syn {action}"));
            let outcome = call.run(["sh", "-c", &reload]);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert_eq!(figure(&outcome, action, "reset"), 0, "{outcome:?}");
        }
        all_served(&load.stop().unwrap());
        host.must(["sh", "-c", &format!("kill $(cat {})", pid.display())]);
        drop(pair);
        drop(group);
    }
}

/// A port of a client is COMMAND's only while COMMAND has it, and only for connections to a gated port.
#[test]
fn a_client_that_has_a_port_after_command_waits_as_all_others_do() {
    /// Python: connects from a port to another one, and closes without waiting there.
    const FROM: &str = "
import socket, struct, sys
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
client.bind(('127.0.0.1', int(sys.argv[1])))
client.connect(('127.0.0.1', int(sys.argv[2])))
if len(sys.argv) > 3:
    client.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    print(client.recv(12).decode())
";
    for action in ACTIONS {
        let host = Host::new().unwrap();
        let from = host.write("from.py", FROM);
        let script = from.to_str().unwrap();
        let from = format!("python3 {script}");
        let _other = Serve::on("127.0.0.1:9000").start(&host).unwrap();
        let pid = host.dir().join("server.pid");
        let start = Serve::on("0.0.0.0:80").daemon_argv(&pid).unwrap().join(" ");
        host.must(["sh", "-c", &start]);
        let mut down = Latch::new(&host, "down");
        let command = format!(
            "{from} 40000 9000; {from} 40001 80; kill $(cat {}); {}; exec {start}",
            pid.display(),
            down.hold()
        );
        let call = run(&host, &format!("--port 80 --syn {action}"));
        let running = call.start(["sh", "-c", &command]);
        down.wait();
        let clients = [40_000, 40_001].map(|port| {
            let mut ask = host.command("python3");
            ask.args([script, &port.to_string(), "80", "ask"]);
            host.spawn(ask.stdout(Stdio::piped())).unwrap()
        });
        assert!(are_parked(&host, 2), "the gate has opened");
        down.release();
        let outcome = call.end(running);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        for client in clients {
            assert_eq!(client.output().unwrap().stdout, b"HTTP/1.1 200\n");
        }
        nothing_is_left(&host, 1);
    }
}
