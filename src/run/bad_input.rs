//! What a run refuses, before it has touched anything: one line that names the option, its value and
//! what would be right.

use std::ffi::{OsStr, OsString};

use super::plan::Plan;
use super::tell::refusal;
use crate::cli::{Parsed, parse};

/// Why a call is refused; `None`: it is not.
fn refused(arguments: &[&str]) -> Option<String> {
    let words = [&["syngate"], arguments, &["--", "true"]].concat();
    match parse(words.into_iter().map(OsString::from)) {
        Parsed::Wrong(why) => Some(why),
        Parsed::Run(args) => {
            let plan = Plan::new(&args, Some(OsStr::new("/usr/bin:/bin")));
            plan.err().map(|why| refusal(why).message)
        }
        _ => None,
    }
}

/// Words before COMMAND, and what the line has to have in it.
const BAD: &[(&[&str], &[&str])] = &[
    (&["--port", ""], &["--port", "''"]),
    (&["--port="], &["--port", "''"]),
    (&["--port", " "], &["--port", "' '"]),
    (&["--port", "0"], &["--port", "'0'", "65535"]),
    (&["--port", "65536"], &["--port", "'65536'", "65535"]),
    (&["--port", "80-70"], &["--port", "'80-70'", "70-80"]),
    (&["--port", ","], &["--port", "','"]),
    (&["--port", "80,"], &["--port", "'80,'"]),
    (&["--port", "80,,443"], &["--port", "'80,,443'"]),
    (&["--port", "http s"], &["--port", "'http s'"]),
    (&["--port", "gopherish"], &["--port", "'gopherish'"]),
    (&["--port", "tftp"], &["--port", "'tftp'", "TCP"]),
    (&["--port", "8o"], &["--port", "'8o'"]),
    (&["--port", "-80"], &["--port", "-80"]),
    (&["--port", "80", "--port", "0"], &["--port", "'0'"]),
    (&["-p", "x y"], &["--port", "'x y'"]),
    (&["-p80", "--settle", "1"], &["--settle", "'1'", "unit"]),
    (&["-p80", "--settle", "-1s"], &["--settle", "-1s"]),
    (&["-p80", "--settle=-1s"], &["--settle", "'-1s'"]),
    (
        &["-p80", "--settle", "1M"],
        &["--settle", "'1M'", "minutes"],
    ),
    (
        &["-p80", "--settle", "soon"],
        &["--settle", "'soon'", "auto"],
    ),
    (
        &["-p80", "--settle", "18446744073709551615s"],
        &["--settle", "'18446744073709551615s'", "24h"],
    ),
    (
        &["-p80", "--settle", "86401s"],
        &["--settle", "'86401s'", "24h"],
    ),
    (&["-p80", "--drain", "2"], &["--drain", "'2'", "unit"]),
    (&["-p80", "--drain", "25h"], &["--drain", "'25h'", "24h"]),
    (
        &["-p80", "--ready-timeout", "3"],
        &["--ready-timeout", "'3'", "unit"],
    ),
    (
        &["-p80", "--max-closed", "9"],
        &["--max-closed", "'9'", "unit"],
    ),
    (
        &["-p80", "--lock-timeout", "1h 60"],
        &["--lock-timeout", "'1h 60'"],
    ),
    (
        &["-p80", "--drain", "20s", "--settle", "10s"],
        &[
            "--drain 20s",
            "--settle 10s",
            "--max-closed 30s (the default)",
        ],
    ),
    (
        &["-p80", "--drain", "30s"],
        &["--drain 30s is", "--max-closed 30s (the default)"],
    ),
    (
        &["-p80", "--max-closed", "1s"],
        &["--drain 1s (the default) is", "--max-closed 1s:"],
    ),
    (
        &["-p80", "--max-closed", "0"],
        &["--max-closed 0s: no gate", "such as 30s"],
    ),
    (&["-p80", "--to", "0.0.0.0"], &["--to 0.0.0.0", "no --to"]),
    (&["-p80", "--to", "::ffff:224.0.0.1"], &["--to 224.0.0.1"]),
    (
        &["-p80", "--allow-local", "--interface", "eth0,lo"],
        &["--interface lo", "--allow-local"],
    ),
    (
        &["-p80", "--allow-from", "0.0.0.0/0,::/0"],
        &["--allow-from 0.0.0.0/0,::/0"],
    ),
    (&["-p80", "--drian", "1s"], &["'--drian'", "--drain"]),
    (&["-p80", "--potr", "1"], &["'--potr'", "--port"]),
    (&["-p80", "-x"], &["'-x'", "--help"]),
    (
        &["-p80", "--drain-until", "never"],
        &["--drain-until", "'never'", "handshakes"],
    ),
    (
        &["-p80", "--open-on", "Ready"],
        &["--open-on", "'Ready'", "ready"],
    ),
    (&["-p80", "--syn", "reject"], &["--syn", "'reject'", "drop"]),
    (
        &["-p80", "--drain-until", ""],
        &["--drain-until", "value", "requests"],
    ),
    (&["-p80", "--drain"], &["--drain", "value"]),
    (&["-p80", "--precheck"], &["--precheck", "value"]),
    (&["-p80", "--report-file"], &["--report-file", "value"]),
    (&["-p80", "--quiet=maybe"], &["--quiet", "maybe"]),
    (&["-q", "-p80", "-v"], &["--quiet", "--verbose"]),
    (
        &["-p80", "--drain", "1s", "--drain", "2s"],
        &["--drain", "twice"],
    ),
    (&[], &["--port", "missing"]),
    (&["-p80", "stray"], &["'stray'", "--", "as in"]),
    (&["–port", "80"], &["'–port'", "dash"]),
    (&["-p80", "—"], &["'—'", "dash"]),
    (
        &["-p80", "--drain", "0", "--settle", "40s"],
        &["raise --max-closed\n"],
    ),
    (&["-p80", "--report-file", ""], &["--report-file", "value"]),
    // Each names what would be right.
    (&["-p80", "443"], &["'443'", "--port 80,443"]),
    (&["80"], &["'80'", "--port 80,443"]),
    (&["-port", "80"], &["'-port'", "two dashes", " --port"]),
    (&["-p80", "-drain=2s"], &["two dashes", " --drain=2s"]),
    (
        &["--port", "htpp"],
        &["--port", "'htpp'", "did you mean http?"],
    ),
    (&["-p", "80,domian"], &["'domian'", "did you mean domain?"]),
    (
        &["-p80", "--listen-port", "80=htpp"],
        &["--listen-port", "did you mean http?"],
    ),
    (
        &["-p80", "--syn", "redirect=htpp"],
        &["--syn", "did you mean http?"],
    ),
    (&["-p80", "--syn", "hodl"], &["--syn", "did you mean hold?"]),
    (
        &["-p80", "--syn", "redirct=81"],
        &["did you mean redirect?"],
    ),
    (&["-p80", "--syn", "redirect"], &["redirect=8080"]),
    (
        &["-p80", "--syn", "redirect", "8080"],
        &["'8080'", "write --syn redirect=8080"],
    ),
    (
        &["-p80", "--hold"],
        &["'--hold'", "did you mean --syn hold?"],
    ),
    (
        &["-p80", "--redirect", "8080"],
        &["did you mean --syn redirect=PORT?"],
    ),
    (
        &["-p80", "--timeout", "5s"],
        &["did you mean --ready-timeout or --release-timeout?"],
    ),
    (
        &["-p80", "--reload"],
        &["--reload needs --syn auto", "add --syn auto"],
    ),
    (
        &["-p80", "--syn", "hold", "--reload"],
        &["--reload and --syn hold exclude each other"],
    ),
    (
        &["-p80", "--precheck", "haproxy", "-c", "-f", "FILE"],
        &["unknown option '-c'; a CMD of several words needs quotes: --precheck 'haproxy -c …'"],
    ),
    (
        &["-p80", "--precheck", "nginx", "-q", "-t"],
        &["--precheck 'nginx -q …'"],
    ),
    (
        &["-p80", "--ready-check", "pg_isready", "quietly"],
        &[
            "unexpected argument 'quietly'",
            "--ready-check 'pg_isready quietly …'",
        ],
    ),
    (
        &["restart", "haproxy"],
        &["'true': nothing may come behind --: syngate restart runs its own COMMAND"],
    ),
    (
        &["--reload", "haproxy"],
        &["unexpected argument 'haproxy'; did you mean syngate reload haproxy?"],
    ),
    (
        &["--restart", "haproxy"],
        &["unknown option '--restart'; did you mean syngate restart haproxy?"],
    ),
    (&["--port", "80:90"], &["--port", "'80:90'", "80-90"]),
    (
        &["-p80", "--max-held", "5"],
        &["--max-held has no effect with --syn drop", "--syn hold"],
    ),
    (
        &["-p80", "--syn", "park", "--linger", "5s"],
        &["--linger has no effect with --syn park", "redirect"],
    ),
    (
        &["-p80", "--syn", "redirect:8080"],
        &["did you mean redirect=8080?"],
    ),
    (
        &["-p80", "--syn", "divert:fe80::2%eth1"],
        &["did you mean divert=fe80::2%eth1?"],
    ),
    (
        &["-p80", "--listen-port", "80=8080=1"],
        &["'8080=1'", "pairs of a gated port"],
    ),
    (
        &["-p80", "--drain-until", "request"],
        &["--drain-until", "did you mean requests?"],
    ),
    (
        &["-p80", "--backend", "nftables"],
        &["--backend", "did you mean nft?"],
    ),
    (&["-p80", "--hook", "forward"], &["input, prerouting"]),
    (&["-P", "80"], &["'-P'", "did you mean -p?"]),
    (&["-p80", "--drain 2s"], &["did you mean --drain?"]),
    (
        &["-p80", "--quiet=1"],
        &["--quiet", "no value", "leave out '=1'"],
    ),
    (
        &["-p80", "-v", "-v"],
        &["--verbose", "leave one of them out"],
    ),
    (
        &["-p80", "status"],
        &["put status first: syngate status -p80"],
    ),
    (&["-p80", "--report"], &["did you mean --report-file?"]),
];

#[test]
fn good_input_is_not_refused() {
    assert_eq!(refused(&["--port", "80"]), None);
}

#[test]
fn bad_input_is_one_line_that_names_it() {
    let mut complaints = Vec::new();
    for (arguments, says) in BAD {
        let Some(line) = refused(arguments).map(|line| line + "\n") else {
            complaints.push(format!("{arguments:?} is not refused"));
            continue;
        };
        if line.lines().count() != 1 {
            complaints.push(format!("{arguments:?}: not one line: {line}"));
        }
        let unsaid = says.iter().filter(|word| !line.contains(**word));
        complaints.extend(unsaid.map(|word| format!("{arguments:?}: not {word:?}: {line}")));
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}
