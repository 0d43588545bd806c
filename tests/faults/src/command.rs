//! COMMAND, and how the service starts, as lines of shell.

use std::path::PathBuf;

use crate::{
    setting::{Place, Setting},
    subject::Subject::{self, *},
};

/// Where the service is in turn, if it moves: where it is at first, and then.
fn places(subject: Subject) -> [&'static str; 2] {
    const EVERYWHERE: &str = "--listen 0.0.0.0:80";
    const APART: &str = "--listen 10.77.0.1:80 --listen 127.0.0.1:80";
    const MORE: &str = "--listen 10.77.0.1:80 --listen 127.0.0.1:80 --listen 127.0.0.2:80";
    match subject {
        MovesToV6 => [EVERYWHERE, "--listen [::]:80 --both-versions"],
        MovesToAddresses => [EVERYWHERE, APART],
        GivesUpAddress => [MORE, APART],
        _ => [EVERYWHERE; 2],
    }
}

/// Python: listens, accepts nobody, and ends. The argument: whether it sets SO_REUSEPORT.
const FOR_A_MOMENT: &str = "import socket, sys; s = socket.socket(); \
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); \
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(sys.argv[1])); \
    s.bind((\"0.0.0.0\", 80)); s.listen(512)";

/// A question to the service, by a shell's own means; what it is not answered is written down, with the moment.
const ASKS: &str = "ask() {
    bash -c 'exec 3<>/dev/tcp/127.0.0.1/80; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3
             read -r -t 15 line <&3; [[ $line == *\" 200 \"* ]]' 2>$DIR/why ||
        echo \"$1: $(cat $DIR/why)\" >>$DIR/unanswered
}
";

/// So few local ports are there that each next client has one of these.
pub const FEW_PORTS: [&str; 2] = ["sysctl", "net.ipv4.ip_local_port_range=40000 42047"];

/// Python: connects from all these ports, to the service and to where nobody listens, and closes without waiting there.
const FROM_EACH_PORT: &str = "
import socket, struct
for port in range(40000, 42048):
    for to in 80, 9:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(\"ii\", 1, 0))
        try:
            s.bind((\"127.0.0.1\", port))
            s.connect((\"127.0.0.1\", to))
        except OSError:
            pass # a client has the port, or nobody listens
        s.close()
";

/// A file that tells that a keep is told to end.
pub const ENDS: &str = "ends";

/// How long COMMAND goes on where those who come meanwhile would meet a room that is in the way.
const GOES_ON: &str = "sleep 0.6\n";

/// The rest of what a haproxy is told.
pub const HAPROXY: &str = "global
maxconn 8000
defaults
mode http
timeout connect 5s
timeout client 50s
timeout server 50s
listen front
bind :80
server back 127.0.0.1:81
retries 0
listen back
bind :81
http-request return status 200 content-type text/plain string ok
";

impl Place {
    /// COMMAND: it writes down when it runs (see [`ran_ms`](crate::setting::ran_ms)), replaces the service, writes down
    /// that it is through, and does what `AFTERWARDS` says. No signal stops it in the middle. The server takes its time,
    /// so that some clients come while nobody listens. The old one is killed, with all that it has, unless the run keeps
    /// nobody from it. Where connections wait in rooms, somebody tries the configuration first, and listens for that for
    /// a moment, as `nginx -t` does.
    pub fn restart(&self, setting: &Setting, subject: Subject) -> String {
        let folder = &self.folder;
        let shares = u8::from(setting.shares_port);
        let before = match subject {
            Asks => "ask before\n".to_owned(),
            LeavesPorts => format!("python3 -c '{FROM_EACH_PORT}'\n"),
            _ => String::new(),
        };
        let stop = match subject {
            LeavesFirst => "cp $DIR/pid $DIR/first\n".to_owned(),
            _ => self.stop(setting, subject),
        };
        let tries = match subject {
            Plain | Asks | LeavesPorts | HasManyPorts if setting.has_rooms() => {
                format!("python3 -c '{FOR_A_MOMENT}' {shares}\n")
            }
            _ => String::new(),
        };
        let start = self.start(setting, subject);
        let after = match subject {
            Asks => "ask after\n",
            MovesToV6 | MovesToAddresses => GOES_ON,
            _ => "",
        };
        format!(
            "trap : HUP INT QUIT TERM\n\
             DIR={folder}\n\
             {ASKS}\
             read -r up _ </proc/uptime\n\
             echo \"$up\" >>$DIR/ran\n\
             {before}{stop}{tries}{start}\
             read -r up _ </proc/uptime\n\
             echo \"$up\" >$DIR/listens\n\
             {after}\
             echo through >>$DIR/through\n\
             eval \"$AFTERWARDS\"\n"
        )
    }

    /// Who restarts a service that is kept. The argument: the pid of the keep, which is ended then. A fault may have lost
    /// the line that says that it keeps: then it has had more time than it needs.
    pub fn beside(&self) -> String {
        let restart = self.file("restart");
        let said = self.file("stderr");
        let ends = self.file(ENDS);
        format!(
            "lives() {{ kill -0 $1 2>/dev/null; }}\n\
             n=0\n\
             until grep -qs 'keeping ' {said} || ! lives $1 || [ $n -ge 1000 ]; do sleep 0.01; n=$((n + 1)); done\n\
             sh {restart}\n\
             sleep 0.4\n\
             : >{ends}\n\
             kill $1 2>/dev/null\n"
        )
    }

    /// What is there once the restart of a service that is kept has begun, and once the keep is told to end.
    pub fn marks(&self, setting: &Setting) -> Vec<(PathBuf, &'static str)> {
        match setting.keeps() {
            true => [("ran", "restart"), (ENDS, "ends")]
                .map(|(file, phase)| (self.file(file).into(), phase))
                .to_vec(),
            false => Vec::new(),
        }
    }

    /// The service anew, where it was, for the next trial.
    pub fn anew(&self, setting: &Setting, subject: Subject) -> String {
        let folder = &self.folder;
        // A program that the service has brought along keeps a run from it.
        let subject = match subject {
            BringsProgram => Plain,
            subject => subject,
        };
        let (stop, start) = (self.stop(setting, subject), self.start(setting, subject));
        format!("DIR={folder}\n{stop}{start}")
    }

    /// Ends the service, and waits for that; haproxy's next process does so itself.
    fn stop(&self, setting: &Setting, subject: Subject) -> String {
        let signal = if setting.hands_over() { "QUIT" } else { "TERM" };
        match subject {
            AsksItself => String::new(),
            _ => format!(
                "kill -{signal} \"$(cat $DIR/pid)\"\n\
                 while kill -0 \"$(cat $DIR/pid)\" 2>/dev/null; do sleep 0.001; done\n"
            ),
        }
    }

    /// Starts the service, and, unless it is plain, waits until it listens.
    fn start(&self, setting: &Setting, subject: Subject) -> String {
        let testkit = &self.testkit;
        let share = match setting.shares_port {
            true => " --reuseport",
            false => "",
        };
        let [first, then] = places(subject);
        let serve = format!("{testkit} serve --start-delay 40ms{share}");
        let daemon = "--daemon --pidfile $DIR/pid </dev/null >/dev/null 2>&1\n";
        match subject {
            Plain => format!(
                "setsid {serve} {first} </dev/null >/dev/null 2>&1 &\n\
                 echo $! >$DIR/pid\n"
            ),
            AsksItself => {
                let end = if setting.hands_over() { "-sf" } else { "-st" };
                format!(
                    "sh -c 'echo 0 >{}/cgroup.procs; exec haproxy -D \"$@\"' sh -f $DIR/haproxy.cfg -p $DIR/pid {end} \
                     $(cat $DIR/pid 2>/dev/null) </dev/null >/dev/null 2>&1\n",
                    self.group
                )
            }
            BringsProgram => format!("{serve} --own-program {first} {daemon}"),
            HasManyPorts => {
                format!("{serve} {first} $(seq -f '--listen 0.0.0.0:%.0f' 10001 10127) {daemon}")
            }
            moves if moves.moves() => format!(
                "if [ -e $DIR/moved ]; then rm $DIR/moved; places='{first}'
                 else : >$DIR/moved; places='{then}'; fi\n\
                 {serve} $places {daemon}"
            ),
            _ => format!("{serve} {first} {daemon}"),
        }
    }
}
