//! docs/recipes.md: real services are configured as it says, and its calls restart them, while clients send POSTs
//! over connections that they keep. None is lost, though none may be sent again.

mod harness;

use std::time::Duration;

use harness::named::{by_name, done};
use harness::{report_in, words};
use testkit::services::{Haproxy, HaproxyConfig};
use testkit::{Host, Load, LoadReport, Pair, SERVER};

const PAGE: &str = include_str!("../docs/recipes.md");
const LONG: Duration = Duration::from_secs(60);
const RESTARTS: usize = 3;

/// The blocks of code below the heading of a service: what its configuration needs, if anything, and the calls.
struct Recipe {
    configuration: Option<String>,
    call: String,
}

fn recipe(service: &str) -> Recipe {
    let (_, section) = PAGE.split_once(&format!("\n## {service}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks: Vec<(&str, &str)> = section
        .split("\n```")
        .skip(1)
        .step_by(2)
        .map(|block| block.split_once('\n').unwrap())
        .collect();
    let of = |shell: bool| blocks.iter().find(|(kind, _)| (*kind == "sh") == shell);
    Recipe {
        configuration: of(false).map(|(_, text)| (*text).to_owned()),
        call: of(true).unwrap().1.replace("\\\n", ""),
    }
}

impl Recipe {
    /// Restarts the service under load. Clients lose nothing.
    #[track_caller]
    fn is_noticed_by_nobody(&self, pair: &Pair) {
        let (report, closed) = self.carried_out(pair);
        assert_eq!((report.failed(), report.resent), (0, 0), "{report}");
        assert!(report.ok > 100, "{report}");
        assert_eq!(closed, 0, "idle connections");
    }

    fn carried_out(&self, pair: &Pair) -> (LoadReport, u64) {
        let host = &pair.server;
        let load = Load::to(format!("{SERVER}:80")).rate(200).keep_alive(20);
        let load = load.post().timeout(LONG).duration(LONG);
        let mut load = load.start(&pair.client).unwrap();
        load.wait_flowing().unwrap();
        let file = host.dir().join("report.json");
        let call = self.call.trim().strip_prefix("syngate ").unwrap();
        let (before, rest) = call.split_once(" --").unwrap();
        let call = format!("{before} --report-file {} --{rest}", file.display());
        let mut closed = 0;
        for _ in 0..RESTARTS {
            done(&by_name(host, &call));
            closed += report_in(&file)["idle_closed"].as_u64().unwrap();
        }
        let report = load.stop().unwrap();
        harness::tell(&format!("{report}; {closed} idle connections closed"));
        (report, closed)
    }
}

#[test]
fn haproxy_says_goodbye() {
    let recipe = recipe("haproxy");
    let option = recipe.configuration.as_ref().unwrap().trim();
    let pair = Pair::new().unwrap();
    let config = HaproxyConfig::port(80);
    let haproxy = Haproxy::debian_init(&pair.server, &config).unwrap();
    let text = config.text().replace("defaults\n", &format!("{option}\n"));
    pair.server.write("haproxy.cfg", text);
    haproxy.start().unwrap();
    recipe.is_noticed_by_nobody(&pair);
    haproxy.stop().unwrap();
}

/// By Debian's init script.
#[test]
fn nginx_says_goodbye() {
    let recipe = recipe("nginx");
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let locations = recipe.configuration.as_ref().unwrap();
    let locations = locations.replace("proxy_pass http://app;", "return 200 ok;");
    let log = host.dir().join("error.log").display().to_string();
    let config = format!(
        "user root root; pid /run/nginx.pid; error_log {log}; events {{ worker_connections 8000; }}\n\
         http {{ access_log off; server {{ listen 80 reuseport; {locations} }} }}\n"
    );
    let config = host.write("nginx.conf", config);
    host.bind(config, "/etc/nginx/nginx.conf").unwrap();
    host.must(words("service nginx start"));
    recipe.is_noticed_by_nobody(&pair);
    host.must(words("service nginx stop"));
}

/// A service `web`, with an init script. `start`: a shell script that starts it in the background, and writes its
/// pid to /run/web.pid.
fn has_web(host: &Host, start: &str) {
    let up = "until ss -Hltn sport = :80 | grep -q .; do sleep 0.01; done";
    let down = "pid=$(cat /run/web.pid); kill $pid; while kill -0 $pid 2>&-; do sleep 0.01; done";
    let script = format!(
        "#!/bin/sh\n# PIDFILE=/run/web.pid\n[ $1 = start ] || {{ {down}; }}\n[ $1 = stop ] || {{ {start}; {up}; }}\n"
    );
    host.own_etc().unwrap();
    let script = host.write("web", script).display().to_string();
    host.must(["install", &script, "/etc/init.d/web"]);
    host.must(words("service web start"));
}

#[test]
fn gunicorn_says_goodbye() {
    let recipe = recipe("gunicorn");
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let app = "def app(e, start):\n    start('200 OK', [('Content-Length', '3')])\n    return [b'ok\\n']\n";
    host.write("app.py", app);
    host.write("gunicorn.conf.py", recipe.configuration.as_ref().unwrap());
    let dir = host.dir().display();
    let start = "/usr/bin/python3 /usr/bin/gunicorn -D -p /run/web.pid -k gthread --threads 40 -w 2 -b 0.0.0.0:80";
    has_web(
        host,
        &format!("{start} --chdir {dir} -c {dir}/gunicorn.conf.py app:app"),
    );
    recipe.is_noticed_by_nobody(&pair);
    host.must(words("service web stop"));
}

#[test]
fn node_says_goodbye() {
    let recipe = recipe("Node.js");
    let pair = Pair::new().unwrap();
    let host = &pair.server;
    let block = recipe.configuration.as_ref().unwrap();
    let app = format!(
        "const server = require('http').createServer((request, response) => {{ request.resume(); response.end('ok'); }});\n\
         {block}\nserver.listen(80);\n"
    );
    let app = host.write("app.js", app);
    has_web(
        host,
        &format!(
            "setsid node {} </dev/null >&- 2>&- & echo $! >/run/web.pid",
            app.display()
        ),
    );
    recipe.is_noticed_by_nobody(&pair);
    host.must(words("service web stop"));
}
