//! docs/recipes.md. By the lines of its table, real services are restarted and reloaded under load, and no client fails.
//! By its recipes they are configured as it says, and restarted while clients send POSTs over connections that they keep:
//! none is lost, though none may be sent again.

mod harness;

use std::fs;
use std::time::Duration;

use harness::named::{by_name, done};
use harness::{report_in, words};
use testkit::services::{Haproxy, HaproxyConfig, Serve};
use testkit::{Host, Load, LoadReport, Pair, RunningLoad, SERVER};

const PAGE: &str = include_str!("../docs/recipes.md");
const LONG: Duration = Duration::from_secs(60);
const RESTARTS: usize = 3;

// The table ----------------------------------------------------------------------------------------

/// A line of the table.
struct Row {
    restart: String,
    /// `None`: the service has no reload.
    reload: Option<String>,
}

fn row(service: &str) -> Row {
    let line = { PAGE.lines() }.find(|line| line.starts_with(&format!("| {service} | ")));
    let cells: Vec<&str> = line.unwrap().split(" | ").collect();
    let call = |cell: &str| {
        let call = cell.split('`').nth(1)?.strip_prefix("syngate ")?;
        Some(call.to_owned())
    };
    Row {
        restart: call(cells[1]).unwrap(),
        reload: call(cells[2]),
    }
}

/// Of a service that is not in the table.
fn reload(script: &str) -> Row {
    let call = |verb| format!("{verb} {script}");
    Row {
        restart: call("restart"),
        reload: Some(call("reload")),
    }
}

/// A service as an init script has it on the server of a pair.
struct Tabled {
    pair: Pair,
    script: &'static str,
    port: u16,
    /// What its clients ask, unless it is HTTP.
    ask: Option<&'static str>,
    rate: u32,
}

impl Tabled {
    fn new(script: &'static str, port: u16, ask: Option<&'static str>) -> Tabled {
        let pair = Pair::new().unwrap();
        pair.server.own_etc().unwrap();
        Tabled {
            pair,
            script,
            port,
            ask,
            rate: 100,
        }
    }

    fn host(&self) -> &Host {
        &self.pair.server
    }

    fn has(&self, file: &str, text: &str) {
        let name = file.replace('/', "-");
        let own = self.host().write(&name, text).display().to_string();
        let install = format!("install -D -m 644 {own} {file}");
        self.host().must(words(&install));
    }

    /// A daemon may keep what its script prints to, so that is a file.
    fn service(&self, verb: &str) {
        let line = format!("service {} {verb} >/run/printed 2>&1", self.script);
        self.host().must(["sh", "-c", &line]);
        if verb != "stop" {
            self.host().wait_listen(self.port).unwrap();
        }
    }

    /// What syngate and its COMMAND print. The call succeeds.
    #[track_caller]
    fn call(&self, line: &str) -> String {
        let ran = by_name(self.host(), &format!("{line} >/run/printed 2>&1"));
        let printed = self.host().must(["cat", "/run/printed"]);
        assert_eq!(ran.code(), 0, "{line}: {printed}");
        printed
    }

    fn clients(&self) -> RunningLoad {
        let load = Load::to(format!("{SERVER}:{}", self.port)).rate(self.rate);
        let load = self.ask.iter().fold(load, |load, ask| load.ask(ask));
        let mut load = { load.timeout(LONG).duration(LONG) }
            .start(&self.pair.client)
            .unwrap();
        load.wait_flowing().unwrap();
        load
    }

    /// Which sockets listen, by their inodes.
    fn sockets(&self) -> String {
        let list = format!(
            "ss -Hltne sport = :{} | grep -o 'ino:[0-9]*' | sort",
            self.port
        );
        self.host().must(["sh", "-c", &list])
    }

    /// By the lines of the table no client fails. By the init script alone, some do.
    #[track_caller]
    fn nobody_notices(&self, row: &Row) {
        self.service("start");
        let clients = self.clients();
        let old = self.sockets();
        let said = self.call(&row.restart);
        assert_ne!(self.sockets(), old, "it was restarted: {said}");
        if let Some(reload) = &row.reload {
            let said = self.call(reload);
            assert!(!said.contains("nothing changed"), "{said}");
        }
        let report = clients.stop().unwrap();
        harness::tell(&format!("{}: {report}", self.script));
        assert_eq!(report.failed(), 0, "{report}");

        // A gap may be shorter than the time between two clients.
        let notices = (0..40).any(|_| self.restarted_bare().failed() > 0);
        assert!(notices, "the control has to fail");
    }

    fn restarted_bare(&self) -> LoadReport {
        let clients = self.clients();
        for _ in 0..200 / self.rate {
            self.service("stop");
            self.service("start");
        }
        clients.stop().unwrap()
    }

    /// The same, of one that reloads in place: that nothing changes is told, and is no warning.
    #[track_caller]
    fn reloads_in_place(&self, row: &Row) {
        self.service("start");
        let reload = row.reload.as_ref().unwrap();
        let old = self.sockets();
        let said = self.call(reload);
        assert_eq!(self.sockets(), old);
        let says = format!(
            "syngate: {} reloads in place: the same processes listen on ",
            self.script
        );
        assert!(said.contains(&says), "{said}");
        let said = self.call(&format!("{reload} -q"));
        assert!(!said.contains("syngate: "), "{said}");
        // The long form knows it as well, and a COMMAND that is no reload is told to have done nothing.
        let script = self.script;
        for (options, warns) in [("--syn auto --reload", false), ("--syn auto", true)] {
            let call = format!("{options} --port {} -- service {script} reload", self.port);
            let said = self.call(&call);
            assert_eq!(
                said.contains("warning: nothing changed on "),
                warns,
                "{said}"
            );
            assert_eq!(said.contains(" reloads in place: "), !warns, "{said}");
        }
        self.service("stop");
    }
}

/// An empty folder in the place of one of the machine's.
fn own_folder(host: &Host, of: &str, folder: &str) {
    let own = host.dir().join(folder.replace('/', "-"));
    fs::create_dir(&own).unwrap();
    host.must(words(&format!("chown {of} {}", own.display())));
    host.must(["mkdir", "-p", folder]);
    host.bind(own, folder).unwrap();
}

#[test]
fn each_line_of_the_table_is_tried() {
    let table = PAGE.split("\n## ").nth(1).unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = rows.filter_map(|line| line.split(" | ").next());
    let rows: Vec<&str> = rows.skip(1).collect();
    let tried = [
        "haproxy",
        "nginx",
        "apache2",
        "redis",
        "PostgreSQL",
        "sshd",
        "postfix",
        "dovecot",
        "varnish",
        "gunicorn",
        "Node.js",
        "Go",
    ];
    assert_eq!(rows, tried);
    for service in tried {
        let without = ["redis", "Node.js"].contains(&service);
        assert_eq!(row(service).reload.is_none(), without, "{service}");
    }
}

#[test]
fn nobody_notices_haproxy() {
    let haproxy = Tabled::new("haproxy", 80, None);
    haproxy.has("/etc/haproxy/haproxy.cfg", &HaproxyConfig::port(80).text());
    haproxy.nobody_notices(&row("haproxy"));
}

#[test]
fn nobody_notices_nginx() {
    let nginx = Tabled::new("nginx", 80, None);
    nginx.has(
        "/etc/nginx/nginx.conf",
        "user root root; pid /run/nginx.pid; error_log stderr; events {}\n\
         http { access_log off; server { listen 80; return 200 ok; } }\n",
    );
    nginx.nobody_notices(&row("nginx"));
}

#[test]
fn nobody_notices_apache2() {
    let apache = Tabled::new("apache2", 80, None);
    own_folder(apache.host(), "root:", "/var/log/apache2");
    apache.has("/run/www/index.html", "ok");
    let modules = ["mpm_event", "authz_core", "dir"];
    let modules = modules
        .map(|one| format!("LoadModule {one}_module /usr/lib/apache2/modules/mod_{one}.so\n"));
    apache.has(
        "/etc/apache2/apache2.conf",
        &format!(
            "{}ServerName web\nErrorLog /var/log/apache2/error.log\nListen 80\nPidFile /run/apache2/apache2.pid\nUser www-data\nGroup www-data\n\
             DocumentRoot /run/www\n<Directory /run/www>\nRequire all granted\n</Directory>\n",
            modules.concat()
        ),
    );
    apache.nobody_notices(&row("apache2"));
}

#[test]
fn nobody_notices_redis() {
    let redis = Tabled::new("redis-server", 6379, Some("redis"));
    redis.has(
        "/etc/redis/redis.conf",
        "port 6379\nbind 0.0.0.0\nprotected-mode no\nsave \"\"\ndaemonize yes\ndir /run/redis\nlogfile \"\"\n\
         pidfile /run/redis/redis-server.pid\n",
    );
    redis.nobody_notices(&row("redis"));
}

/// Without systemd, the unit of a cluster is the script of all.
#[test]
fn nobody_notices_postgresql() {
    let postgres = Tabled::new("postgresql", 5432, Some("postgres"));
    let host = postgres.host();
    host.must(["sh", "-c", "rm -rf /etc/postgresql/*"]);
    own_folder(host, "postgres:", "/var/lib/postgresql");
    own_folder(host, "postgres:", "/var/log/postgresql");
    let make = "pg_createcluster $(ls /usr/lib/postgresql | tail -1) main -o 'listen_addresses=*' -o fsync=off -- -A trust -N\n\
                echo host all all all trust >>$(ls /etc/postgresql/*/main/pg_hba.conf)";
    host.must(["sh", "-ec", make]);
    let mut row = row("PostgreSQL");
    for line in [Some(&mut row.restart), row.reload.as_mut()] {
        let line = line.unwrap();
        assert!(line.contains(" postgresql@15-main"), "{line}");
        *line = line.replace("@15-main", "");
    }
    postgres.reloads_in_place(&row);
    postgres.nobody_notices(&row);
}

/// It has no line in the table: most of its clients come by UDP.
#[test]
fn named_reloads_in_place() {
    let named = Tabled::new("named", 53, None);
    own_folder(named.host(), "bind:", "/var/cache/bind");
    named.has(
        "/etc/bind/named.conf",
        "options { directory \"/var/cache/bind\"; recursion no; };\n",
    );
    named.reloads_in_place(&reload("named"));
}

#[test]
fn unbound_reloads_in_place() {
    let unbound = Tabled::new("unbound", 53, None);
    unbound.has(
        "/etc/unbound/unbound.conf",
        "server:\n interface: 0.0.0.0\n pidfile: /run/unbound.pid\n chroot: \"\"\n directory: /run\n",
    );
    unbound.reloads_in_place(&reload("unbound"));
}

/// It refuses some of a burst.
#[test]
fn nobody_notices_sshd() {
    let mut sshd = Tabled::new("ssh", 22, Some("ssh"));
    sshd.rate = 20;
    let key = sshd.host().dir().join("key").display().to_string();
    let make =
        format!("rm -f /etc/ssh/sshd_not_to_be_run; ssh-keygen -q -t ed25519 -N '' -f {key}");
    sshd.host().must(["sh", "-ec", &make]);
    sshd.has(
        "/etc/ssh/sshd_config",
        &format!("HostKey {key}\nLogLevel QUIET\n"),
    );
    sshd.nobody_notices(&row("sshd"));
}

#[test]
fn nobody_notices_postfix() {
    let postfix = Tabled::new("postfix", 25, Some("smtp"));
    own_folder(postfix.host(), "root:", "/var/spool/postfix");
    own_folder(postfix.host(), "postfix:", "/var/lib/postfix");
    postfix.has(
        "/etc/postfix/main.cf",
        "compatibility_level = 3.6\nmyhostname = mail\nmydestination =\nalias_maps =\nalias_database =\n\
         smtpd_client_connection_count_limit = 0\n",
    );
    postfix.nobody_notices(&row("postfix"));
}

#[test]
fn nobody_notices_dovecot() {
    let dovecot = Tabled::new("dovecot", 143, Some("imap"));
    dovecot.has("/run/users", "");
    let file = dovecot.host().dir().join("log");
    dovecot.has(
        "/etc/dovecot/dovecot.conf",
        &format!(
            "protocols = imap\nlisten = *\nssl = no\nlog_path = {}\nbase_dir = /run/dovecot\n\
             passdb {{\n driver = passwd-file\n args = /run/users\n}}\nuserdb {{\n driver = passwd\n}}\n\
             service imap-login {{\n service_count = 0\n inet_listener imaps {{\n port = 0\n }}\n}}\n",
            file.display()
        ),
    );
    dovecot.nobody_notices(&row("dovecot"));
}

#[test]
fn nobody_notices_varnish() {
    let varnish = Tabled::new("varnish", 80, None);
    let _backend = Serve::on("127.0.0.1:8080").start(varnish.host()).unwrap();
    own_folder(varnish.host(), "root:", "/var/lib/varnish");
    varnish.has(
        "/etc/varnish/default.vcl",
        "vcl 4.1;\nbackend default { .host = \"127.0.0.1\"; .port = \"8080\"; }\n",
    );
    let options =
        "DAEMON_OPTS='-a :80 -T localhost:6082 -f /etc/varnish/default.vcl -s malloc,32m'\n";
    varnish.has("/etc/default/varnish", options);
    // It leaves files there.
    let folder = "sed -i 's|-n /tmp|-n /run/tested|' /etc/init.d/varnish";
    varnish.host().must(["sh", "-c", folder]);
    varnish.nobody_notices(&row("varnish"));
}

#[test]
fn nobody_notices_gunicorn() {
    let web = Tabled::new("web", 80, None);
    let app = "def app(e, start):\n    start('200 OK', [('Content-Length', '3')])\n    return [b'ok\\n']\n";
    web.host().write("app.py", app);
    let dir = web.host().dir().display();
    let start = "/usr/bin/python3 /usr/bin/gunicorn -D -p /run/web.pid -w 2 -b 0.0.0.0:80 --chdir";
    web_script(web.host(), &format!("{start} {dir} app:app"));
    web.nobody_notices(&row("gunicorn"));
}

#[test]
fn nobody_notices_node() {
    let web = Tabled::new("web", 80, None);
    let app =
        "require('http').createServer((request, response) => response.end('ok')).listen(80);\n";
    let app = web.host().write("app.js", app);
    let app = app.display();
    web_script(
        web.host(),
        &format!("setsid node {app} </dev/null >&- 2>&- & echo $! >/run/web.pid"),
    );
    web.nobody_notices(&row("Node.js"));
}

/// prometheus, by a script of its own: Debian's has no reload.
#[test]
fn nobody_notices_a_go_program() {
    let web = Tabled::new("web", 80, Some("healthy"));
    web.has("/run/prometheus.yml", "");
    let prometheus = "setsid prometheus --config.file=/run/prometheus.yml --storage.tsdb.path=/run/tsdb \
                      --web.listen-address=:80 </dev/null >&- 2>&- & echo $! >/run/web.pid";
    web_script(web.host(), prometheus);
    web.nobody_notices(&row("Go"));
}

// The recipes --------------------------------------------------------------------------------------

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

/// An init script `web`. `start`: a shell script that starts it in the background, and writes its pid to /run/web.pid.
fn web_script(host: &Host, start: &str) {
    let up = "until ss -Hltn sport = :80 | grep -q .; do sleep 0.01; done";
    let down = "pid=$(cat /run/web.pid); kill $pid; while kill -0 $pid 2>&-; do sleep 0.01; done";
    let script = format!(
        "#!/bin/sh\n# PIDFILE=/run/web.pid\ncase $1 in\nreload)\n exec kill -HUP $(cat /run/web.pid) ;;\nesac\n\
         [ $1 = start ] || {{ {down}; }}\n[ $1 = stop ] || {{ {start}; {up}; }}\n"
    );
    let script = host.write("web", script).display().to_string();
    host.must(["install", &script, "/etc/init.d/web"]);
}

/// Such a service, which runs.
fn has_web(host: &Host, start: &str) {
    host.own_etc().unwrap();
    web_script(host, start);
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
