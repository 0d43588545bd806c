//! The soak at its shortest: it finds nothing, and would find something.

mod tried;

use std::process::Output;

use serde_json::Value;
use tried::tried;

/// Three rounds, the last with haproxy. The rows of the results, the totals last.
fn soak(name: &str, options: &[&str]) -> (Output, Vec<Value>) {
    let three = ["soak", "--seconds", "12", "--every", "4"];
    tried(&format!("soak-{name}"), &[&three[..], options].concat())
}

#[test]
fn nobody_fails_and_nothing_grows() {
    let names = [
        "nft, drop",
        "nft, hold",
        "nft, redirect",
        "nft, divert",
        "iptables-nft, redirect",
        "iptables-legacy, hold",
        "park",
        "handover",
    ];
    let settings = names.iter().flat_map(|name| ["--setting", name]);
    let options: Vec<&str> = settings.chain(["--rate", "200"]).collect();
    let (output, rows) = soak("well", &options);
    assert!(output.status.success(), "{output:?}");
    let totals = &rows.last().unwrap()["totals"];
    assert_eq!(
        (&totals["seconds"], &totals["connections"]),
        (&12.into(), &2_400.into())
    );
    assert_eq!(
        (&totals["failed"], &totals["violations"]),
        (&0.into(), &Value::Array(vec![]))
    );
    for name in names {
        assert!(
            totals["restarts"][name]["clean"].as_u64().unwrap() > 0,
            "{totals}"
        );
    }
    let by = |service: &str| {
        let runs = rows.iter().filter(|row| row["run"]["service"] == service);
        runs.filter(|row| row["run"]["closed_ms"].as_f64().is_some())
            .count()
    };
    assert!(by("server") > 0 && by("haproxy") > 0, "{rows:?}");
}

/// The control.
#[test]
fn without_syngate_connections_fail_and_that_is_found() {
    let (output, rows) = soak("bare", &["--bare"]);
    assert!(!output.status.success(), "{output:?}");
    let totals = &rows.last().unwrap()["totals"];
    let failed = totals["failed"].as_u64().unwrap();
    assert!(failed > 0, "{totals}");
    let told = format!("VIOLATION: {failed} of 12000 connections failed");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(&told),
        "{output:?}"
    );
}
