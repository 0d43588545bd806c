#!/usr/bin/python3
"""A service for docs/messages.md, and a client of it, by the name that this is called by.

service web start|stop|restart|reload [how]
    how the new one comes up:
    broken      it does not: exit status 1
    refused     a test fails before anything is stopped: exit status 1
    late        443 is opened 2 s after the command has ended
    without-443 it listens on 80 alone
    slow        it needs 1.5 s
    asks-itself the command waits for an answer of the old one
client          opens a connection to port 80, sends half a request, and keeps it
"""
import os
import socket
import sys
import time

PIDS = os.path.dirname(os.path.abspath(sys.argv[0])) + "/web.pid"


def daemon(work):
    """Goes on in a process of its own. The command returns when that is ready."""
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os.read(ready, 1)
        return
    os.setsid()
    os.close(ready)
    with open("/proc/self/comm", "w") as name:
        name.write("web")
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    work(lambda: os.write(tell, b"r"))
    os._exit(0)


def listen(port):
    return socket.create_server(("0.0.0.0", port), backlog=128)


def serve(ports, later):
    def work(ready):
        listeners = [listen(port) for port in ports]
        with open(PIDS, "w") as file:
            file.write(str(os.getpid()))
        ready()
        if later:
            time.sleep(2)
            listeners += [listen(port) for port in later]
        kept = []
        while True:
            time.sleep(0.01)
            for listener in listeners:
                listener.setblocking(False)
                try:
                    kept.append(listener.accept()[0])
                    if len(kept) > 99:
                        kept.pop(0).close()
                except BlockingIOError:
                    pass

    daemon(work)


def stop():
    with open(PIDS) as file:
        pid = int(file.read())
    os.kill(pid, 15)
    while os.path.exists(f"/proc/{pid}/fd/0"):
        time.sleep(0.002)


def service(action, how=""):
    if how == "refused":
        sys.exit(1)
    if how == "slow":
        time.sleep(1.5)
    if how == "asks-itself":
        try:
            socket.create_connection(("127.0.0.1", 80), timeout=1.5)
        except TimeoutError:
            sys.exit("service: timed out")
    if action in ("stop", "restart"):
        stop()
    if how == "broken":
        sys.exit(1)
    if action in ("start", "restart"):
        later = [443] if how == "late" else []
        serve([80] if later or how == "without-443" else [80, 443], later)


def client():
    def work(ready):
        with socket.create_connection(("127.0.0.1", 80)) as connection:
            connection.sendall(b"GET / HT")
            ready()
            time.sleep(60)

    daemon(work)


if sys.argv[0].endswith("client"):
    client()
else:
    service(*sys.argv[2:])
