//! A sample of all, and what was found before.

mod tried;

use tried::tried;

/// All of it takes hours; but soon much is seen of what has become wrong.
#[test]
fn a_sample() {
    let options = ["--except", "delay", "--except", "hang", "--seconds", "40"];
    assert!(matrix("sample", &options) >= 14);
}

/// A fault, and then another one.
#[test]
fn a_sample_of_pairs() {
    let settings = [
        "nft, hold",
        "iptables-nft, hold",
        "nft without owner, redirect",
    ];
    let options = settings
        .into_iter()
        .flat_map(|setting| ["--setting", setting]);
    let options: Vec<&str> = options.chain(["--seconds", "8"]).collect();
    assert!(campaign("pairs", "pairs", &options) >= 3);
}

/// Some answers of the kernel and of files come in pieces, or torn.
#[test]
fn what_comes_in_pieces_is_read_whole() {
    let settings = ["nft, hold", "iptables-nft, hold"];
    let deeds = ["short", "dump-intr", "truncate"];
    let options = settings
        .into_iter()
        .flat_map(|setting| ["--setting", setting]);
    let options = options.chain(deeds.into_iter().flat_map(|deed| ["--deed", deed]));
    let options: Vec<&str> = options.chain(["--seconds", "10"]).collect();
    assert!(matrix("pieces", &options) >= 8);
}

/// Services that ask and connect to themselves, and COMMANDs that do. Of those that move to another address, handover
/// loses clients, so they are not among them.
#[test]
fn a_sample_of_services_and_commands() {
    let subjects = ["leaves-ports", "asks-itself", "leaves-first"];
    let subjects = subjects
        .into_iter()
        .flat_map(|subject| ["--subject", subject]);
    let settings = ["--setting", "park", "--setting", "handover, SO_REUSEPORT"];
    // The same ones each time; `make faults` takes all.
    let few = [
        "--except",
        "delay",
        "--except",
        "hang",
        "--seconds",
        "20",
        "--seed",
        "1",
    ];
    let options: Vec<&str> = settings.into_iter().chain(subjects).chain(few).collect();
    assert!(matrix("subjects", &options) >= 5);
}

/// A keep that takes over the rooms of one that was killed.
#[test]
fn a_sample_of_keeps_that_follow_another() {
    let settings = ["--setting", "keep", "--setting", "keep, SO_REUSEPORT"];
    let few = ["--subject", "follows", "--seconds", "20", "--seed", "1"];
    let few = few
        .into_iter()
        .chain(["--except", "delay", "--except", "hang"]);
    let options: Vec<&str> = settings.into_iter().chain(few).collect();
    assert!(matrix("follows", &options) >= 5);
}

/// A room that could not be shut at once had its clients wait until the end of the run.
#[test]
fn a_room_is_shut_in_spite_of_a_call_that_fails() {
    let only = [
        "--setting",
        "handover, SO_REUSEPORT",
        "--subject",
        "leaves-ports",
        "--call",
        "shutdown",
        "--deed",
        "enobufs",
    ];
    assert!(matrix("shutting", &only) >= 1);
}

/// A program of iptables, and COMMAND, that hang for 7 s.
#[test]
fn a_child_that_hangs_keeps_no_port_shut() {
    let only = ["--setting", "nft, hold", "--deed", "hang"];
    assert!(matrix("hanging", &only) >= 1);
}

/// The client is an SSH tunnel away, or a continent.
#[test]
fn clients_far_away_are_served() {
    let only = ["--setting", "nft, hold", "--rtt", "250", "--call", "ppoll"];
    let options = [&only[..], &["--except", "delay", "--seconds", "10"]].concat();
    assert!(matrix("far", &options) >= 1);
}

fn matrix(name: &str, options: &[&str]) -> usize {
    campaign("matrix", name, options)
}

/// It finds nothing. How many trials reached their point.
fn campaign(what: &str, name: &str, options: &[&str]) -> usize {
    let (output, rows) = tried(name, &[&[what], options].concat());
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    rows.iter().filter(|row| row["hit"] == true).count()
}

/// A wait for signals that failed was taken for a SIGTERM, which COMMAND then got; and COMMAND's end was
/// never noticed when waitpid(2) was interrupted.
#[test]
fn a_wait_that_fails_ends_nothing() {
    let only = [
        "--setting",
        "nft, drop",
        "--deed",
        "enomem",
        "--deed",
        "eintr",
    ];
    let calls = ["--call", "ppoll", "--call", "wait4", "--call", "read"];
    assert!(matrix("waits", &[&only[..], &calls].concat()) >= 6);
}

/// syngate panicked where a wait for what a program of iptables prints failed.
#[test]
fn programs_that_can_t_be_listened_to_are_no_bug() {
    let only = ["--setting", "iptables-nft, drop", "--deed", "enomem"];
    let calls = [
        "poll",
        "ioctl",
        "read",
        "wait4",
        "waitid",
        "memfd_create",
        "lseek",
    ];
    let calls = calls.into_iter().flat_map(|call| ["--call", call]);
    let options: Vec<&str> = only.into_iter().chain(calls).collect();
    assert!(matrix("programs", &options) >= 6);
}

/// What others do to the host, at each moment of a run: those that have the most to take away.
#[test]
fn neighbours_do_no_harm() {
    let settings = ["nft without owner, hold", "iptables-legacy, hold"];
    let deeds = [
        "flushes-ruleset",
        "reloads-firewall",
        "kills-guards",
        "keeps-run-read-only",
    ];
    assert!(neighbours("neighbours", &settings, &deeds, &[]) >= 2 * (3 * 8 + 1));
}

/// Others add something to the host.
#[test]
fn what_neighbours_add_does_no_harm() {
    let deeds = [
        "accepts-above",
        "listens-too",
        "listens-as-other",
        "bridges-port",
        "sends-elsewhere",
        "saves-and-restores",
    ];
    assert!(neighbours("adding", &["nft, hold"], &deeds, &["--seconds", "30"]) >= 12);
}

fn neighbours(name: &str, settings: &[&str], deeds: &[&str], more: &[&str]) -> usize {
    let settings = settings.iter().flat_map(|setting| ["--setting", setting]);
    let deeds = deeds.iter().flat_map(|deed| ["--deed", deed]);
    let options: Vec<&str> = settings.chain(deeds).chain(more.iter().copied()).collect();
    campaign("neighbours", name, &options)
}

/// Where nobody heard the kernel's answer, rules that it had taken were left.
#[test]
fn an_answer_that_is_not_heard_leaves_no_rules() {
    let only = [
        "--setting",
        "nft without owner, drop",
        "--call",
        "poll",
        "--deed",
        "enomem",
    ];
    assert!(matrix("answers", &only) >= 1);
}

/// Where the guard could not be told to stop the standby, the run waited for that for ever.
#[test]
fn an_order_that_does_not_arrive_stops_the_standby_all_the_same() {
    let only = [
        "--setting",
        "nft, redirect",
        "--call",
        "sendto",
        "--deed",
        "eperm",
    ];
    assert!(matrix("order", &only) >= 2);
}

/// The guard was killed when it had started the standby, and before it could tell: the standby lived on.
#[test]
fn a_guard_that_dies_early_leaves_no_standby() {
    let only = [
        "--setting",
        "nft, redirect",
        "--call",
        "chdir",
        "--deed",
        "kill-after",
    ];
    assert!(matrix("standby", &only) >= 1);
}

/// A call that failed once left listeners SO_REUSEPORT that they had from syngate, and a program: the next
/// process of the service could not listen beside the rooms of the next run.
#[test]
fn what_listeners_were_given_is_taken_back_although_a_call_fails() {
    let only = ["--setting", "park", "--deed", "enomem"];
    let calls = ["--call", "pidfd_open", "--call", "pidfd_getfd"];
    assert!(matrix("taken-back", &[&only[..], &calls].concat()) >= 4);
}

/// The guard had gone before the run took back what listeners had: who killed the run then left all of it.
#[test]
fn a_run_that_dies_as_it_takes_back_leaves_that_to_its_guard() {
    let only = ["--setting", "park", "--deed", "kill-after"];
    let calls = ["--call", "rmdir", "--call", "getdents64"];
    assert!(matrix("dying", &[&only[..], &calls].concat()) >= 2);
}

/// The process that was to become COMMAND had died early. Another one became COMMAND, and was in no control group of its
/// own: what it asked the service waited with all clients.
#[test]
fn commands_questions_are_answered_although_its_first_process_dies() {
    let only = [
        "--setting",
        "park",
        "--subject",
        "asks",
        "--call",
        "pread64",
    ];
    let deeds = ["--deed", "enobufs", "--deed", "kill-before"];
    assert!(matrix("died", &[&only[..], &deeds].concat()) >= 2);
}

/// The note of a keep stayed, as a call failed once.
#[test]
fn what_a_keep_has_noted_is_removed_although_a_call_fails() {
    let only = ["--setting", "keep", "--call", "unlink", "--deed", "enobufs"];
    assert!(matrix("noted", &only) >= 1);
}

/// Who could not reach the rooms for a moment took them for shut, and a service that had come back elsewhere got none
/// of its clients for 30 s.
#[test]
fn rooms_that_can_t_be_reached_for_a_moment_are_not_taken_for_shut() {
    let only = ["--setting", "handover", "--subject", "moves-to-addresses"];
    let calls = ["--call", "recvmsg", "--deed", "enobufs", "--each", "5"];
    assert!(matrix("unreached", &[&only[..], &calls].concat()) >= 4);
}

/// Nobody waited for handshakes that were under way in a room, as they could not be listed once: reset.
#[test]
fn handshakes_under_way_in_a_room_are_waited_for_although_a_call_fails() {
    let only = ["--setting", "park, SO_REUSEPORT", "--rtt", "250"];
    let calls = ["--call", "sendmsg", "--deed", "eagain"];
    assert!(matrix("handshakes", &[&only[..], &calls].concat()) >= 2);
}
