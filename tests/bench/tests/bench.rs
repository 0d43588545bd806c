//! The bench as it is called, at its smallest; and what it has left in the repository.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_bench");

/// A folder of results that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
        Folder(path)
    }

    /// The rows of a file.
    fn rows(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.0.join(file)).unwrap();
        let rows = text.lines().map(serde_json::from_str);
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn bench(&self, what: &str, options: &[&str]) -> Command {
        let syngate = Path::new(BENCH).with_file_name("syngate");
        let mut bench = Command::new(BENCH);
        bench.arg(what).arg("--results").arg(&self.0);
        bench.arg("--syngate").arg(syngate).args(options);
        bench
    }

    fn measure(&self, what: &str, options: &[&str]) {
        succeeds(&mut self.bench(what, options));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    crates.skip(2).map(Path::to_owned).next().unwrap()
}

/// The control fails some, and held SYNs none; rounds that are there are not repeated.
#[test]
fn restarts_are_measured() {
    let folder = Folder::new("restarts");
    let options = [
        "--subject",
        "haproxy restart",
        "--family",
        "ipv4",
        "--mode",
        "fresh",
        "--rate",
        "500",
        "--way",
        "bare",
        "--way",
        "folk-no-sleep",
        "--way",
        "hold",
        "--way",
        "park",
        "--rounds",
    ];
    folder.measure("restarts", &[&options[..], &["1"]].concat());
    let rows = folder.rows("restarts.jsonl");
    let of = |way: &str| rows.iter().find(|row| row["way"] == way).unwrap();
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let count = |name: &str| row[name].as_u64().unwrap();
        let failed: u64 = ["refused", "reset", "cut", "timed_out", "other"]
            .map(count)
            .iter()
            .sum();
        assert_eq!(count("sent"), count("ok") + failed, "{row}");
        assert!(count("sent") > 100, "{row}");
        let (began, ended) = (row["began_ms"].as_f64(), row["ended_ms"].as_f64());
        assert!(began.unwrap() > 0.0 && began < ended, "{row}");
        assert_eq!(row["family"], "ipv4", "{row}");
    }
    assert!(of("bare")["refused"].as_u64() > Some(0));
    assert_eq!(of("hold")["ok"], of("hold")["sent"]);
    // The waiting room listens, and is no listener of the service.
    let park = of("park");
    assert_eq!(park["ok"], park["sent"], "{park}");
    assert!(park["gap_ms"].as_f64() > Some(0.0), "{park}");
    assert!(
        park["back_ms"].as_f64() >= park["gap_ms"].as_f64(),
        "{park}"
    );
    assert!(of("folk-no-sleep")["closed_ms"].as_f64() > Some(0.0));
    let hold = of("hold");
    assert!(
        hold["drain_ms"].as_f64() < hold["closed_ms"].as_f64(),
        "{hold}"
    );
    folder.measure("restarts", &[&options[..], &["2"]].concat());
    let rounds = folder
        .rows("restarts.jsonl")
        .into_iter()
        .map(|row| row["round"].as_u64());
    assert_eq!(
        rounds.collect::<Vec<_>>(),
        [1, 1, 1, 1, 2, 2, 2, 2].map(Some)
    );
}

#[test]
fn clients_that_keep_their_connections_are_measured() {
    let folder = Folder::new("kept");
    folder.measure(
        "restarts",
        &[
            "--subject",
            "haproxy restart",
            "--mode",
            "keep-alive",
            "--way",
            "bare",
            "--rounds",
            "1",
        ],
    );
    let rows = folder.rows("restarts.jsonl");
    assert_eq!(rows.len(), 1);
    assert!(rows[0]["refused"].as_u64().unwrap() + rows[0]["cut"].as_u64().unwrap() > 0);
}

#[test]
fn many_restarts_share_the_connections() {
    let folder = Folder::new("many");
    let few = ["--rate", "1000", "--connections", "2000", "--rounds", "2"];
    folder.measure("many", &few);
    let rows = folder.rows("many.jsonl");
    let sum = |name: &str| {
        rows.iter()
            .map(|row| row[name].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(rows.len(), 2);
    assert!(sum("sent") >= 2_000);
    assert_eq!(sum("ok"), sum("sent"));
}

/// And both ways to close say as much.
#[test]
fn costs_are_measured() {
    let folder = Folder::new("costs");
    folder.measure(
        "costs",
        &[
            "--quick", "--runs", "2", "--series", "pair", "--series", "held",
        ],
    );
    let rows = folder.rows("costs.jsonl");
    let of = |way: &str, figure: &str| -> Vec<f64> {
        let of_way = rows
            .iter()
            .filter(|row| row["way"] == way && row["series"] == "pair");
        of_way.filter_map(|row| row[figure].as_f64()).collect()
    };
    for way in ["syngate", "iptables", "nft", "iptables-legacy"] {
        assert_eq!(of(way, "wall_ms").len(), 2, "{way}");
    }
    let (closed, opened) = (of("syngate", "close_ms"), of("syngate", "open_ms"));
    assert!(closed.len() == 2 && opened.len() == 2, "{rows:?}");
    assert!(
        closed.iter().all(|ms| *ms > 0.0 && *ms < 5_000.0),
        "{closed:?}"
    );
    assert!(
        rows.iter()
            .any(|row| row["series"] == "held" && row["size"] == 1_000)
    );
}

/// Nor by those who are not root.
#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = Folder::new("refused");
    let refused = |options: &[&str], says: &str, rootless: bool| {
        let mut bench = folder.bench("restarts", options);
        if rootless {
            bench.env("TESTKIT_ROOTLESS", "1");
        }
        let said = bench.output().unwrap();
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(!said.status.success() && error.contains(says), "{error}");
    };
    refused(
        &["--subject", "nonsense"],
        "'haproxy, 50 ms backend'",
        false,
    );
    refused(&["--rounds", "0"], "--rounds", false);
    refused(&["--rate", "0"], "--rate", false);
    let none = ["--subject", "socket activation", "--way", "hold"];
    refused(&none, "no way to measure", false);
    refused(&[], "only root", true);
    assert!(!folder.0.join("restarts.jsonl").exists());
}

/// Results of other versions are not added to.
#[test]
fn results_of_another_machine_are_left_alone() {
    let folder = Folder::new("other");
    fs::create_dir(&folder.0).unwrap();
    let machine = root().join("tests/bench/results/machine.json");
    let other = fs::read_to_string(machine)
        .unwrap()
        .replacen("\"cpus\": ", "\"cpus\": 1000", 1);
    fs::write(folder.0.join("machine.json"), other).unwrap();
    let options = ["--runs", "1", "--series", "pair"];
    let said = folder.bench("costs", &options).output().unwrap();
    assert!(!said.status.success());
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(error.contains("of another machine"), "{error}");
    assert!(error.contains("cpus: 1000"), "{error}");
    assert!(!folder.0.join("costs.jsonl").exists());
}

#[test]
fn tables_are_what_follows_from_the_results() {
    let root = root();
    let mut render = Command::new(BENCH);
    render
        .args(["render", "--check", "--results"])
        .arg(root.join("tests/bench/results"));
    succeeds(render.arg("--readme").arg(root.join("README.md")));
}

/// The tests of the pictures; and those that the documents show are of the results.
#[test]
fn pictures() {
    let root = root();
    let mut tests = Command::new("/usr/bin/python3");
    tests.args(["-B", "-m", "unittest", "tests/bench/test_plot.py"]);
    succeeds(tests.current_dir(&root));
    let results = root.join("tests/bench/results");
    let [readme, report] = [root.join("README.md"), results.join("README.md")]
        .map(|page| fs::read_to_string(page).unwrap());
    for (name, file) in [("restart", "restarts.jsonl"), ("cost", "costs.jsonl")] {
        let digest = succeeds(Command::new("sha256sum").arg(results.join(file))).stdout;
        let digest = String::from_utf8(digest).unwrap();
        let digest = digest.split_whitespace().next().unwrap();
        for theme in ["light", "dark"] {
            let picture = format!("{name}-{theme}.svg");
            assert!(report.contains(&format!("\"{picture}\"")), "{picture}");
            let drawn = fs::read_to_string(results.join(&picture)).unwrap();
            assert!(drawn.contains(digest), "{picture}: make bench-render");
        }
    }
    assert!(readme.contains("tests/bench/results/restart-light.svg"));
}
