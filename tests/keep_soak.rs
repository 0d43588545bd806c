//! `syngate keep` for a long time: a crash or a restart every two seconds at 1,000 connections/s. Nobody is refused or
//! reset but who had been accepted by a process that died, and keep does not grow. `make soak-keep` does that for
//! half an hour, or SOAK_SECONDS; here it is a few gaps.

mod harness;

use std::time::{Duration, Instant};

use harness::deaths::{Deaths, Failed};
use harness::keep::Keep;
use harness::rooms::listeners;
use harness::services::Service;
use harness::{SOON, tell};
use testkit::{Host, Pair, wait_until};

/// How long a load is, after which it is looked whether keep has grown.
struct Length {
    all: Duration,
    part: Duration,
    pause: Duration,
}

impl Length {
    fn wanted() -> Length {
        let seconds = |n| Duration::from_secs(n);
        match std::env::var("SYNGATE_SOAK_SECONDS") {
            Ok(all) => Length {
                all: seconds(all.parse().unwrap()),
                part: seconds(30),
                pause: seconds(2),
            },
            Err(_) => Length {
                all: seconds(5),
                part: seconds(2),
                pause: Duration::from_millis(250),
            },
        }
    }
}

/// What keep and its guard have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    /// Each open file, by what it is: all, maps, programs, links.
    files: [u64; 4],
    /// On the whole host.
    programs: u64,
    kib: u64,
}

/// Python: how many programs of syngate's the kernel has (BPF_PROG_GET_NEXT_ID and its like, linux/bpf.h).
const PROGRAMS: &str = "
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    attributes = ctypes.create_string_buffer(attributes, 128)
    return libc.syscall(321, command, attributes, 128), attributes.raw
count, last = 0, 0
while True:
    ended, answer = bpf(11, struct.pack('III', last, 0, 0))
    if ended < 0:
        break
    last = struct.unpack_from('I', answer, 4)[0]
    fd, _ = bpf(13, struct.pack('III', last, 0, 0))
    if fd >= 0:
        info = ctypes.create_string_buffer(256)
        bpf(15, struct.pack('IIQ', fd, 256, ctypes.addressof(info)))
        count += info.raw[64:80].startswith(b'gate_')
        os.close(fd)
print(count)
";

impl Size {
    fn of(host: &Host) -> Size {
        let number = |command: &str| -> u64 {
            let said = host.sh(command).unwrap().stdout;
            let numbers = said.split_whitespace();
            numbers.map(|n| n.parse::<u64>().unwrap()).sum()
        };
        let of = "for pid in $(pgrep -x 'syngate|gate-room'); do";
        let files = |with: &str| {
            number(&format!(
                "{of} ls -l /proc/$pid/fd | grep -c -e '{with}'; done"
            ))
        };
        Size {
            files: ["->", "bpf-map", "bpf-prog", "bpf_link"].map(files),
            programs: host
                .must(["python3", "-c", PROGRAMS])
                .trim()
                .parse()
                .unwrap(),
            kib: number(&format!(
                "{of} grep RssAnon /proc/$pid/status | tr -dc 0-9; echo; done"
            )),
        }
    }
}

/// As long as it is wanted.
fn goes_on(pair: &Pair, options: &str, service: &Service) {
    let host = &pair.server;
    let length = Length::wanted();
    service.starts();
    let sockets = listeners(host).len();
    let keep = Keep::on(host, options);
    let began = Instant::now();
    let (mut first, mut gaps, mut clients, mut cut) = (None, 0, 0, 0);
    while began.elapsed() < length.all {
        let part = Instant::now();
        let load = service.clients(&pair.client, 1_000);
        let mut deaths = Deaths::default();
        while part.elapsed() < length.part {
            std::thread::sleep(length.pause); // a rate is what is wanted here
            match gaps % 3 {
                2 => service.stops(&mut deaths),
                _ => service.dies(&mut deaths),
            }
            service.starts();
            gaps += 1;
        }
        let report = load.stop().unwrap();
        let failed = Failed::of(&report, &deaths);
        (clients, cut) = (clients + report.sent, cut + failed.cut);
        assert_eq!(failed.refused + failed.others, 0, "{failed:?}: {report}");
        let size = Size::of(host);
        let (name, seconds) = (service.name, began.elapsed().as_secs());
        tell(&format!(
            "{name}: {seconds} s, {gaps} gaps, {clients} clients, {cut} cut by a death; {size:?}"
        ));
        let first: Size = *first.get_or_insert(size);
        // In the middle of a look there is one more.
        let as_before = || Size::of(host).files == first.files;
        wait_until(SOON, "as many files as at first", as_before).unwrap();
        // Other tests have some, too.
        assert!(size.programs < first.programs + 60, "{first:?}, {size:?}");
        assert!(size.kib < first.kib + 1_024, "{first:?}, {size:?}");
    }
    keep.ends(sockets);
}

#[test]
fn haproxy() {
    let pair = Pair::new().unwrap();
    goes_on(&pair, "", &Service::haproxy(&pair.server));
}

#[test]
fn nginx_as_it_is_installed() {
    let pair = Pair::new().unwrap();
    goes_on(&pair, "--any", &Service::nginx(&pair.server, false));
}
