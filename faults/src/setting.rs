//! What syngate is told to do while it is hit.

use serde::{Deserialize, Serialize};

/// A backend, and what happens to SYNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its name in the results.
    pub name: &'static str,
    /// `--backend`.
    pub backend: &'static str,
    /// `--syn`.
    pub syn: &'static str,
    /// More options.
    pub options: &'static [&'static str],
    /// A fault that debug builds have on demand: what this kernel is to lack.
    pub lacking: Option<&'static str>,
}

/// The options that have to do with a standby.
const STANDBY: &[&str] = &["--linger", "300ms", "--standby-timeout", "2s"];
const NO_OWNER: Option<&str> = Some("no-owner-tables");

const fn setting(name: &'static str, backend: &'static str, syn: &'static str) -> Setting {
    Setting {
        name,
        backend,
        syn,
        options: &[],
        lacking: None,
    }
}

const fn redirecting(name: &'static str, backend: &'static str) -> Setting {
    Setting {
        options: STANDBY,
        ..setting(name, backend, "redirect=8080")
    }
}

const fn plain(setting: Setting) -> Setting {
    Setting {
        lacking: NO_OWNER,
        ..setting
    }
}

/// All of them.
pub const SETTINGS: [Setting; 12] = [
    setting("nft, drop", "nft", "drop"),
    setting("nft, hold", "nft", "hold"),
    redirecting("nft, redirect", "nft"),
    plain(setting("nft without owner, drop", "nft", "drop")),
    plain(setting("nft without owner, hold", "nft", "hold")),
    plain(redirecting("nft without owner, redirect", "nft")),
    setting("iptables-nft, drop", "iptables-nft", "drop"),
    setting("iptables-nft, hold", "iptables-nft", "hold"),
    redirecting("iptables-nft, redirect", "iptables-nft"),
    setting("iptables-legacy, drop", "iptables-legacy", "drop"),
    setting("iptables-legacy, hold", "iptables-legacy", "hold"),
    redirecting("iptables-legacy, redirect", "iptables-legacy"),
];

/// The setting of that name.
pub fn named(name: &str) -> Option<Setting> {
    SETTINGS.into_iter().find(|setting| setting.name == name)
}

/// Files and programs of one host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// A folder for all files.
    pub folder: String,
    /// The syngate that is hit.
    pub syngate: String,
    /// The server that it restarts.
    pub testkit: String,
}

impl Place {
    /// A file of that name.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// The whole call.
    pub fn call(&self, setting: &Setting) -> Vec<String> {
        let report = self.file("report.json");
        let standby = format!("{} serve --listen 0.0.0.0:8080", self.testkit);
        let mut words = vec![
            self.syngate.as_str(),
            "-v",
            "--port",
            "80",
            "--backend",
            setting.backend,
            "--syn",
            setting.syn,
            "--max-closed",
            "3s",
            "--drain",
            "300ms",
            "--ready-timeout",
            "2s",
            "--report-file",
            &report,
        ];
        words.extend(setting.options);
        if setting.syn.starts_with("redirect") {
            words.extend(["--standby", &standby]);
        }
        let restart = self.file("restart");
        words.extend(["--", "sh", &restart]);
        words.into_iter().map(str::to_owned).collect()
    }

    /// COMMAND: it writes down that it runs, replaces the server, and writes down that it is through.
    pub fn restart(&self) -> String {
        let Place {
            folder, testkit, ..
        } = self;
        format!(
            "echo ran >>{folder}/ran\n\
             kill \"$(cat {folder}/pid)\"\n\
             while kill -0 \"$(cat {folder}/pid)\" 2>/dev/null; do sleep 0.001; done\n\
             setsid {testkit} serve --listen 0.0.0.0:80 </dev/null >/dev/null 2>&1 &\n\
             echo $! >{folder}/pid\n\
             echo through >>{folder}/through\n"
        )
    }
}
