#!/usr/bin/python

# Copyright: the authors of syngate
# SPDX-License-Identifier: MIT OR Apache-2.0

"""The module: options for syngate, and the report of its run for Ansible."""

from __future__ import annotations

DOCUMENTATION = r"""
module: syngate
short_description: Restart or reload a TCP service without a client noticing
description:
  - Runs a command behind a closed gate, which keeps new connections to some TCP ports from the service and
    does nothing else, and opens it the moment the new process listens.
  - It calls C(syngate), which must be on the host; the role P(syngate.syngate.syngate#role) puts it there.
  - What an option does is said in full by C(man syngate). One that is not given is left to syngate, which
    also reads it from the environment, as E(SYNGATE_DRAIN); O(syn) and O(reload) have defaults of their own.
    V(false) and V([]) are given.
version_added: 0.1.0
author:
  - The authors of syngate
attributes:
  check_mode:
    support: full
    description: With C(--dry-run), syngate tests all options, and does nothing. O(precheck) is not run.
  diff_mode:
    support: partial
    description:
      - In check mode, the rules that would stand while the gate is closed. After a run there are none.
      - With O(syn=auto) they are what it comes to where connections can't wait without rules.
  platform:
    support: full
    description: Linux with nf_tables or iptables.
    platforms: linux
options:
  cmd:
    description:
      - The command to run, as for M(ansible.builtin.command), split into words as by a shell, and run without one.
      - One of O(cmd), O(argv), O(service) and O(profile) is required; they exclude each other.
    type: str
  argv:
    description: The command to run, as a list of words.
    type: list
    elements: str
  service:
    description:
      - The service to restart or to reload, as O(state) says, which is required with it.
      - By C(systemctl) where systemd runs the host, else by C(service).
    type: str
  profile:
    description:
      - A service by its name, as for C(syngate restart) and C(syngate reload), as O(state) says. syngate finds its
        ports, and the test of its configuration, and takes the options of C(/etc/syngate/NAME.conf), if that is there.
      - Without O(state), the command of that profile, as for C(syngate run).
      - O(syn) and O(reload) are then left to syngate.
    type: str
  no_precheck:
    description: With O(profile), leave out the test of the configuration that syngate or the profile has.
    type: bool
  state:
    description: What to do with O(service), which is required with it, or with O(profile).
    type: str
    choices: [restarted, reloaded]
  executable:
    description:
      - The program, a name or a path.
      - As the command, it is looked for in E(PATH), then in C(/usr/local/sbin), C(/usr/sbin) and C(/sbin).
    type: str
    default: syngate
  port:
    description:
      - TCP ports to gate, numbers, ranges (V(8000-8010)) and names from the services database.
      - Required, unless E(SYNGATE_PORT) has them, or O(container) or O(profile) is given.
    type: list
    elements: str
  container:
    description:
      - Gate the TCP ports that this container of docker's or podman's publishes, by its name or id. Its listeners and
        its health check are found.
      - O(syn) is then left to syngate.
    type: str
  syn:
    description:
      - What happens to new SYNs while the gate is closed.
      - V(drop), they are dropped, and their clients send them again.
      - V(hold), they wait in a queue of the kernel, and go on when the gate opens.
      - V(park), they are established at once, and wait until the service listens again.
      - V(handover), for reloads, they reach the service, and wait only while nobody listens.
      - V(auto), the first that can be done of V(park), V(hold) and V(drop).
      - V(redirect=PORT), they go to a standby on that port.
      - V(divert=ADDR), they go to the other host of a pair.
      - The module's default is V(auto), unless E(SYNGATE_SYN) has another.
    type: str
  reload:
    description:
      - The command hands its sockets over itself. Then O(syn=auto) is the first that can be done of V(handover),
        V(hold) and V(drop).
      - With O(syn=auto), the module's default is V(true) for O(state=reloaded).
    type: bool
  max_held:
    description:
      - With O(syn=hold), how many SYNs may wait at a time. What comes then is dropped.
      - syngate's default is V(65536).
    type: int
  max_held_per_source:
    description:
      - With O(syn=hold), how many of them may come from one source, an IPv4 address or an IPv6 /64.
      - syngate's default is a quarter of O(max_held).
    type: int
  release_timeout:
    description:
      - With O(syn=hold), how long letting them go may take. Then the gate opens all the same.
      - syngate's default is V(2s).
    type: str
  release_rate:
    description:
      - With O(syn=hold), O(syn=park) or O(syn=handover), how many a second of those who wait are let go at most.
      - syngate's default is as many as the service's queues have place for.
    type: int
  queue_num:
    description:
      - With O(syn=hold), number of the queue (NFQUEUE) that they wait in.
      - syngate's default is one that is free.
    type: int
  standby:
    description: With O(syn=redirect=PORT), run this (by C(sh -c)) as the standby, for as long as connections go to it.
    type: str
  standby_check:
    description: With O(syn=redirect=PORT), go on only once this (by C(sh -c)) has succeeded. Nothing is gated before.
    type: str
  standby_timeout:
    description:
      - With O(syn=redirect=PORT), how long the standby may take to listen, and its check to succeed.
      - syngate's default is V(10s).
    type: str
  standby_grace:
    description:
      - With O(syn=redirect=PORT), how long the standby has to end after SIGTERM. Then it gets SIGKILL.
      - syngate's default is V(10s).
    type: str
  keep_standby:
    description: With O(syn=redirect=PORT), leave the O(standby) running.
    type: bool
  max_diverted:
    description:
      - With O(syn=divert=ADDR), how many connections may be the peer's at a time, of each IP version.
      - syngate's default is V(65536).
    type: int
  peer_timeout:
    description:
      - With O(syn=divert=ADDR), how long the peer may take to accept a connection to each address and port.
      - syngate's default is V(2s).
    type: str
  no_peer_check:
    description: With O(syn=divert=ADDR), don't ask the peer.
    type: bool
  linger:
    description:
      - How long connections to the standby, or the peer, may take to finish once the gate is open.
      - syngate's default is V(1m).
    type: str
  leave:
    description:
      - Ports that a load balancer checks, and that are not gated. New connections to them are refused until the gate is
        open again. Before it closes, the run waits until no new connections come to the gated ports.
    type: list
    elements: str
  leave_from:
    description:
      - A load balancer's addresses or prefixes. With O(leave), only its checks are refused. Without, its new connections
        to the gated ports are.
    type: list
    elements: str
  leave_quiet:
    description:
      - How long no new connection has to have come before the gate closes. syngate's default is V(6s).
    type: str
  leave_timeout:
    description:
      - How long to wait for that at most. syngate's default is V(1m).
    type: str
  drain:
    description:
      - How long to wait at most, gate closed, for what is under way to finish. V(0s) is not at all.
      - syngate's default is V(1s).
    type: str
  drain_cmd:
    description:
      - Run this (by C(sh -c)) once the gate is closed, within O(drain), so that the service says goodbye to clients
        that keep their connections.
    type: str
  drain_until:
    description:
      - What the drain waits for.
      - V(handshakes), handshakes are over and accept queues are empty, which is enough for reloads.
      - V(requests), also, no connection is in the middle of a request or an answer.
      - V(connections), also, every established connection has ended.
      - syngate's default is V(requests).
    type: str
    choices: [handshakes, requests, connections]
  settle:
    description:
      - Extra time closed once the service listens. V(auto) is as long as its sockets still change.
      - syngate's default is V(auto).
    type: str
  ready_timeout:
    description:
      - How long to wait, after the command, for the service to listen. V(0s) is not to watch listeners.
      - syngate's default is V(10s).
    type: str
  open_on:
    description:
      - When a port opens whose service was replaced.
      - V(exit), once the command has exited with status 0.
      - V(ready), as soon as the new process listens, also while the command runs.
      - syngate's default is V(exit).
    type: str
    choices: [exit, ready]
  max_closed:
    description:
      - The kernel opens the gate after this time, even if syngate hangs.
      - syngate's default is V(30s).
    type: str
  backend:
    description:
      - How the gate is made. V(auto) is nft where it works, else iptables.
      - syngate's default is V(auto).
    type: str
    choices: [auto, nft, iptables, iptables-nft, iptables-legacy]
  hook:
    description:
      - Where packets are stopped.
      - V(auto), V(input), or V(prerouting) where the host's firewall would use dropped SYNs up.
      - V(input), before sockets of the host.
      - V(prerouting), before NAT, also for ports that are published by containers.
      - syngate's default is V(auto).
    type: str
    choices: [auto, input, prerouting]
  to:
    description: Gate connections to these addresses or prefixes only.
    type: list
    elements: str
  allow_from:
    description: Let connections from these addresses or prefixes through, as those of health checks.
    type: list
    elements: str
  allow_local:
    description: Let connections through that come in over the loopback interface.
    type: bool
  interface:
    description: Gate connections that come in over these interfaces only.
    type: list
    elements: str
  listen_port:
    description: Ports of the listeners, where they are not the gated ones, as V(8080) or V(80=8080,443=8443).
    type: str
  listen_netns:
    description: Network namespace of the listeners, a name, a process id, or a path.
    type: str
  listen_netns_from:
    description: Run this (by C(sh -c)) to learn O(listen_netns), and again after the command, while nobody listens.
    type: str
  xtables_wait:
    description:
      - How long to wait for the lock of iptables.
      - syngate's default is V(5s).
    type: str
  precheck:
    description:
      - Run this first (by C(sh -c)), gate open. If it fails, nothing is gated and the command is not run.
    type: str
  ready_check:
    description: Run this (by C(sh -c)) after the command, again and again, and open only once it has succeeded.
    type: str
  ready_url:
    description:
      - Open only once this URL answers 2xx, as V(http://127.0.0.1:8080/health), or once V(tcp:8080) takes a connection.
      - It is asked through the gate, again and again.
    type: str
  ready_insecure:
    description: Don't check the certificate of an O(ready_url) with C(https).
    type: bool
  lock_timeout:
    description:
      - How long to wait for another run on the same ports.
      - syngate's default is V(1m).
    type: str
  best_effort:
    description: Run the command even if the gate could not be closed, and say so.
    type: bool
  report_file:
    description: Leave the report in this file on the host, say for metrics. It is RV(report) in any case.
    type: path
  verbose:
    description: Tell each phase, in RV(stderr).
    type: bool
  quiet:
    description: Tell errors only, in RV(stderr). RV(report) has the warnings all the same.
    type: bool
notes:
  - Durations need a unit, as V(500ms), V(2s), V(1m30s).
  - It needs root, or the capability CAP_NET_ADMIN and the right to run the command.
seealso:
  - module: ansible.builtin.service
"""

EXAMPLES = r"""
- name: Reload haproxy, if its configuration is one that it takes
  syngate.syngate.syngate:
    port: [80, 443]
    precheck: haproxy -c -f /etc/haproxy/haproxy.cfg
    syn: auto
    reload: true
    service: haproxy
    state: reloaded

- name: Restart an application, its clients' connections waiting meanwhile where that can be done
  syngate.syngate.syngate:
    port: 8080
    syn: auto
    ready_check: curl -fso /dev/null http://localhost:8080/health
    allow_local: true
    cmd: systemctl restart app

- name: Reload nginx, on the ports and with the test that are found, and the options of its profile
  syngate.syngate.syngate:
    profile: nginx
    state: reloaded

- name: Make a container of a new image, once that is there
  syngate.syngate.syngate:
    container: web
    cmd: docker compose up -d web

- name: Restart the host of a pair that is behind the VIP just now
  syngate.syngate.syngate:
    port: https
    to: 10.0.0.100
    syn: divert=10.0.0.2
    argv: [service, haproxy, restart]
"""

RETURN = r"""
msg:
  description: How the run ended, in one line.
  returned: always
  type: str
  sample: service haproxy reload exited with status 0; 80 was closed for 128 ms, 0 SYNs dropped
changed:
  description: Whether the command was run; in check mode, whether it would be.
  returned: always
  type: bool
cmd:
  description: The call of syngate.
  returned: when syngate was called
  type: list
  elements: str
rc:
  description: Exit status of syngate, the command's own, or 124 to 127, see C(man syngate); 127 without syngate. RV(changed) tells whose 125, 126 or 127 it is.
  returned: when syngate was called, or was not there
  type: int
stdout:
  description:
    - What the command has printed; in check mode, the plan and the rules.
    - In this and in RV(stderr), what is not UTF-8 is replaced by U+FFFD.
  returned: when syngate was called
  type: str
stderr:
  description: What syngate and the command have said.
  returned: when syngate was called
  type: str
report:
  description:
    - The JSON report, as syngate's C(contrib/schema/report.schema.json) describes it.
    - Null, if there is none, as in check mode, or when the options make no sense.
  returned: when syngate was called
  type: dict
  sample:
    outcome: ok
    reason: done
    closed_ms: 128.31
    syns_stopped: 39
"""

import json
import os
import shlex
import stat

from ansible.module_utils.basic import AnsibleModule

TEXT = {"type": "str"}
NUMBER = {"type": "int"}
FLAG = {"type": "bool"}
WORDS = {"type": "list", "elements": "str"}


def one_of(*words):
    return {"type": "str", "choices": list(words)}


# syngate's own, with underscores.
OPTIONS = {
    "port": WORDS,
    "container": TEXT,
    "syn": TEXT,
    "reload": FLAG,
    "max_held": NUMBER,
    "max_held_per_source": NUMBER,
    "release_timeout": TEXT,
    "release_rate": NUMBER,
    "queue_num": NUMBER,
    "standby": TEXT,
    "standby_check": TEXT,
    "standby_timeout": TEXT,
    "standby_grace": TEXT,
    "keep_standby": FLAG,
    "max_diverted": NUMBER,
    "peer_timeout": TEXT,
    "no_peer_check": FLAG,
    "linger": TEXT,
    "leave": WORDS,
    "leave_from": WORDS,
    "leave_quiet": TEXT,
    "leave_timeout": TEXT,
    "drain": TEXT,
    "drain_cmd": TEXT,
    "drain_until": one_of("handshakes", "requests", "connections"),
    "settle": TEXT,
    "ready_timeout": TEXT,
    "open_on": one_of("exit", "ready"),
    "max_closed": TEXT,
    "backend": one_of("auto", "nft", "iptables", "iptables-nft", "iptables-legacy"),
    "hook": one_of("auto", "input", "prerouting"),
    "to": WORDS,
    "allow_from": WORDS,
    "allow_local": FLAG,
    "interface": WORDS,
    "listen_port": TEXT,
    "listen_netns": TEXT,
    "listen_netns_from": TEXT,
    "xtables_wait": TEXT,
    "precheck": TEXT,
    "ready_check": TEXT,
    "ready_url": TEXT,
    "ready_insecure": FLAG,
    "lock_timeout": TEXT,
    "best_effort": FLAG,
    "report_file": {"type": "path"},
    "verbose": FLAG,
    "quiet": FLAG,
}

ARGUMENTS = dict(
    OPTIONS,
    cmd=TEXT,
    argv=WORDS,
    service=TEXT,
    profile=TEXT,
    no_precheck=FLAG,
    state=one_of("restarted", "reloaded"),
    executable={"type": "str", "default": "syngate"},
)

VERBS = {"restarted": "restart", "reloaded": "reload"}
SUBCOMMANDS = ("restart", "reload", "run")

# Of what a login of root's has, an SSH session may lack these.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# Without a report, these may be a command's own.
NOT_RUN = (125, 126, 127)


def command_of(params):
    """The command that is run behind the gate."""
    if params["argv"] is not None:
        return params["argv"]
    if params["cmd"] is not None:
        return shlex.split(params["cmd"])
    service, verb = params["service"], VERBS[params["state"]]
    # As sd_booted(3) has it.
    if os.path.isdir("/run/systemd/system"):
        return ["systemctl", verb, service]
    return ["service", service, verb]


def words_of(params):
    """The words of the call, with the subcommand first, if there is one."""
    options = options_of(params)
    if params["profile"] is None:
        return options + ["--"] + command_of(params)
    if params["no_precheck"]:
        options.append("--no-precheck")
    return [VERBS.get(params["state"], "run")] + options + [params["profile"]]


def call_of(syngate, option, words):
    """The call with one more option: a subcommand comes before all options."""
    verb = 1 if words[0] in SUBCOMMANDS else 0
    return [syngate] + words[:verb] + [option] + words[verb:]


def options_of(params):
    """syngate's options, each with its value in one word."""
    words = []
    for name, kind in OPTIONS.items():
        value, option = params[name], "--" + name.replace("_", "-")
        if value is None or value is False or name == "report_file":
            continue  # the report is needed in any case: see main
        if kind is FLAG:
            words.append(option)
        elif kind is WORDS:
            words.extend("%s=%s" % (option, word) for word in value)
        else:
            words.append("%s=%s" % (option, value))
    return words


def choose_action(params):
    """The defaults that are the module's: what clients notice least."""
    if params["profile"] is not None or params["container"] is not None:
        return  # syngate knows better, and a profile may say otherwise
    if params["syn"] is None and "SYNGATE_SYN" not in os.environ:
        params["syn"] = "auto"
    syn = params["syn"] or os.environ.get("SYNGATE_SYN")
    if params["reload"] is None and syn == "auto" and params["state"] == "reloaded":
        params["reload"] = True


def settle_environment(params):
    """What is given is not asked of the environment, `false` and `[]` least of all: they add no word."""
    for name in OPTIONS:
        if params[name] is not None:
            os.environ.pop("SYNGATE_" + name.upper(), None)


def extend_path():
    dirs = os.environ.get("PATH", "/usr/bin:/bin").split(":")
    os.environ["PATH"] = ":".join(dirs + [sbin for sbin in SBIN if sbin not in dirs])


def call_program(module, call):
    """The words as they are: no `$HOME`, no `~`. What a command prints need not be UTF-8, which is all
    that a result can have."""
    return module.run_command(call, errors="replace", expand_user_and_vars=False)


def read_report(path):
    """The report in that file; None if there is no whole one."""
    try:
        # A named pipe that somebody has put there would keep us waiting.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            report = json.load(file)
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def last_line(stderr):
    """syngate's verdict is the last of its lines."""
    prefix = "syngate: "
    lines = [line for line in stderr.splitlines() if line.startswith(prefix)]
    return lines[-1][len(prefix):] if lines else stderr.strip()


def was_run(report, status, refused):
    """Whether the command was run. A call that makes no sense has no report, and a dry run of it is refused;
    a report may also be missing because it could not be written."""
    if report is None:
        return status not in NOT_RUN or not refused()
    end = (report.get("outcome"), report.get("reason"))
    return end[0] != "not_run" and end != ("interrupted", "before_command")


def dry_run(module, syngate, words):
    """Check mode: the rules that would be there, as a diff."""
    call = call_of(syngate, "--dry-run", words)
    status, stdout, stderr = call_program(module, call)
    result = {"cmd": call, "rc": status, "stdout": stdout, "stderr": stderr, "report": None}
    if status != 0:
        module.fail_json(msg=last_line(stderr), changed=False, **result)
    # The plan comes first, then an empty line.
    rules = stdout.partition("\n\n")[2]
    diff = {
        "before_header": "rules",
        "after_header": "rules while the gate is closed",
        "before": "",
        "after": rules,
    }
    # Of a service by its name, the whole call comes first.
    shown = stdout.partition("\n")[0] if words[0] in SUBCOMMANDS else " ".join(words)
    command = (" " + shown).partition(" -- ")[2]
    msg = "%s would be run by syngate" % command
    module.exit_json(msg=msg, changed=True, diff=diff, **result)


def run(module, syngate, words, report_file):
    """A run; what it was is told by its report."""
    call = call_of(syngate, "--report-file=" + report_file, words)
    # A command line that makes no sense leaves an older report where it is.
    older = read_report(report_file)
    status, stdout, stderr = call_program(module, call)
    report = read_report(report_file)
    if report == older:
        report = None
    for warning in (report or {}).get("warnings", []):
        module.warn("syngate: %s" % warning)
    result = {"cmd": call, "rc": status, "stdout": stdout, "stderr": stderr, "report": report}
    if report is not None:
        msg = report["message"]
    elif status < 0:
        msg = "signal %d ended syngate: the gate is gone, and the command, if it was started, runs on" % -status
    elif status == 0:
        msg = "syngate has written no report: is SYNGATE_DRY_RUN set on the host? Here it is check mode"
        module.fail_json(msg=msg, changed=False, **result)
    else:
        msg = last_line(stderr)
    end = module.exit_json if status == 0 else module.fail_json
    refused = lambda: call_program(module, call_of(syngate, "--dry-run", words))[0] != 0
    end(msg=msg, changed=was_run(report, status, refused), **result)


def main():
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        mutually_exclusive=[("cmd", "argv", "service", "profile"), ("cmd", "state"), ("argv", "state"), ("verbose", "quiet")],
        required_one_of=[("cmd", "argv", "service", "profile")],
        required_by={"service": "state", "no_precheck": "profile"},
        supports_check_mode=True,
    )
    params = module.params
    extend_path()
    syngate = module.get_bin_path(params["executable"])
    if syngate is None:
        hint = "the role syngate.syngate.syngate puts it there"
        msg = "no program %s on the host: %s" % (params["executable"], hint)
        module.fail_json(msg=msg, rc=127)
    choose_action(params)
    try:
        words = words_of(params)
    except ValueError as error:
        module.fail_json(msg="cmd: %s: %s" % (params["cmd"], error))
    settle_environment(params)
    if module.check_mode:
        dry_run(module, syngate, words)
    own = os.path.join(module.tmpdir, "report.json")
    report_file = params["report_file"] or os.environ.get("SYNGATE_REPORT_FILE") or own
    run(module, syngate, words, report_file)


if __name__ == "__main__":
    main()
