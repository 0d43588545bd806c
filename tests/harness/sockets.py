"""A service whose listeners are what a test wants: sockets.py PIDS SPEC.

SPEC is JSON: a list of listeners, each with address, port (80), v6only, device, share (SO_REUSEPORT), no_reuse
(no SO_REUSEADDR), uid (the user whose socket it is, of a process that is root's), many (so many of them), backlog
(64), again (the backlog that it sets as it accepts the first client), md5 (keys), filter, options (all that a
connection inherits), program (one of classic BPF chooses in the SO_REUSEPORT group: the first listener), ebpf (one of
eBPF chooses as the kernel does). There are as many processes as WORKERS says. They are in the background, and listen,
when this one ends; PIDS has their pids.
Each answers a request with the options of its connection.
"""
import ctypes
import json
import os
import selectors
import socket
import struct
import sys
import time

S, I4, T, I6 = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_TCP, socket.IPPROTO_IPV6
SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF, TCP_MD5SIG = 26, 51, 52, 14


def i(number):
    return struct.pack("i", number)


def time_of(seconds):
    return struct.pack("qq", seconds, 0)


# Those that a connection inherits, by the numbers of linux/*.h, with values that nobody has by default.
# fmt: off
OPTIONS = [
    (S, 5, i(1)), (S, 7, i(50000)), (S, 8, i(60000)), (S, 9, i(1)), (S, 10, i(1)), (S, 12, i(5)),
    (S, 13, struct.pack("ii", 1, 7)), (S, 18, i(2)), (S, 20, time_of(3)), (S, 21, time_of(4)), (S, 35, i(1)),
    (S, 36, i(7)), (S, 37, i(16)), (S, 42, i(3)), (S, 45, i(1)), (S, 46, i(33)), (S, 47, i(10000000)),
    (S, 60, i(1)), (S, 61, struct.pack("iI", 1, 0)), (S, 69, i(1)), (S, 74, i(0)), (S, 75, i(1)), (S, 82, i(1)),
    (T, 1, i(1)), (T, 2, i(1000)), (T, 3, i(1)), (T, 4, i(11)), (T, 5, i(12)), (T, 6, i(3)), (T, 7, i(4)),
    (T, 8, i(17)), (T, 9, i(5)), (T, 10, i(30000)), (T, 13, b"reno"), (T, 16, i(1)), (T, 18, i(9000)),
    (T, 23, i(5)), (T, 25, i(8000)), (T, 27, i(1)), (T, 33, bytes(range(16))), (T, 34, i(1)), (T, 36, i(1)),
    (T, 37, i(100)), (T, 44, i(5000)), (T, 45, i(100000)), (T, 46, i(20000)),
    (I4, 1, i(16)), (I4, 2, i(44)), (I4, 6, i(1)), (I4, 7, i(1)), (I4, 8, i(1)), (I4, 10, i(3)), (I4, 11, i(1)),
    (I4, 12, i(1)), (I4, 13, i(1)), (I4, 15, i(1)), (I4, 18, i(1)), (I4, 19, i(1)), (I4, 20, i(1)),
    (I4, 21, i(1)), (I4, 23, i(1)), (I4, 26, i(1)), (I4, 50, struct.pack("!i", 1)),
]
OPTIONS6 = [
    (I6, 11, i(1)), (I6, 16, i(45)), (I6, 23, i(3)), (I6, 25, i(1)), (I6, 31, i(1)), (I6, 33, i(1)),
    (I6, 49, i(1)), (I6, 51, i(1)), (I6, 53, i(1)), (I6, 56, i(1)), (I6, 58, i(1)), (I6, 60, i(1)), (I6, 62, i(1)),
    (I6, 66, i(1)), (I6, 67, i(32)), (I6, 70, i(0)), (I6, 72, i(2)), (I6, 73, i(1)), (I6, 74, i(1)),
    (I6, 76, struct.pack("!i", 1)), (I6, 77, i(1)), (I6, 78, i(1)),
]
# What differs from one connection to the next: errors, CPUs, cookies, counters, addresses, timestamps.
# SO_REUSEPORT, which the connections of a room have in any case.
OWN = {(S, 4), (S, 15), (S, 28), (S, 31), (S, 49), (S, 55), (S, 56), (S, 57), (S, 59), (T, 11), (T, 12), (T, 19),
       (T, 20), (T, 21), (T, 22), (T, 24), (T, 26), (T, 28), (T, 29), (T, 35), (T, 40), (I4, 9), (I6, 6)}
# fmt: on


def options(connection):
    """All that can be read, by level and number."""
    levels = (S, T, I4) + ((I6,) if connection.family == socket.AF_INET6 else ())
    told = {}
    for level in levels:
        # At 64 of the level IP iptables answers, and makes its tables for that.
        for name in range(1, 64 if level == I4 else 84):
            if (level, name) in OWN or level == I6 and 64 <= name <= 65:
                continue
            try:
                told[f"{level}:{name}"] = connection.getsockopt(level, name, 64).hex()
            except OSError:
                pass
    return told


def listener(wanted):
    address, port = wanted["address"], wanted.get("port", 80)
    v6 = ":" in address
    os.seteuid(wanted.get("uid", os.geteuid()))
    made = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    os.seteuid(os.getuid())
    made.setsockopt(S, socket.SO_REUSEADDR, int("no_reuse" not in wanted))
    made.setsockopt(S, socket.SO_REUSEPORT, int("share" in wanted))
    if v6:
        made.setsockopt(I6, socket.IPV6_V6ONLY, int(wanted.get("v6only", True)))
    if "device" in wanted:
        made.setsockopt(S, socket.SO_BINDTODEVICE, wanted["device"].encode())
    if "md5" in wanted:
        peer = struct.pack("=H2x4s", socket.AF_INET, socket.inet_aton("192.0.2.1")).ljust(128, b"\0")
        made.setsockopt(T, TCP_MD5SIG, peer + struct.pack("=BBHi", 0, 0, 3, 0) + b"key".ljust(80, b"\0"))
    if "filter" in wanted:
        attach(made, SO_ATTACH_FILTER, 0xFFFFFFFF)
    if "options" in wanted:
        for level, name, value in OPTIONS + (OPTIONS6 if v6 else []):
            try:
                made.setsockopt(level, name, value)
            except OSError:
                pass  # older kernels lack some
    bind(made, (address, port))
    made.listen(wanted.get("backlog", 64))
    if "program" in wanted:
        attach(made, SO_ATTACH_REUSEPORT_CBPF, 0)
    if "ebpf" in wanted:
        made.setsockopt(S, SO_ATTACH_REUSEPORT_EBPF, loaded())
    made.setblocking(False)
    return made


def attach(made, option, result):
    """A program of classic BPF with that result."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, result))
    made.setsockopt(S, option, struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)))


def loaded():
    """A program of eBPF for a SO_REUSEPORT group that leaves the choice to the kernel."""
    select, load = 21, 5  # BPF_PROG_TYPE_SK_REUSEPORT, BPF_PROG_LOAD
    # r0 = SK_PASS; exit
    code = ctypes.create_string_buffer(struct.pack("BBhi", 0xB7, 0, 0, 1) + struct.pack("BBhi", 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("IIQQ", select, 2, ctypes.addressof(code), ctypes.addressof(licence)).ljust(72, b"\0")
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
    made = libc.syscall(number, load, ctypes.create_string_buffer(attributes), len(attributes))
    if made < 0:
        raise OSError(ctypes.get_errno(), "bpf(2)")
    return made


def bind(made, address):
    """As services do that try again."""
    until = time.time() + 5
    while True:
        try:
            return made.bind(address)
        except OSError:
            if time.time() > until:
                raise
            time.sleep(0.01)


def serve(listeners):
    selector = selectors.DefaultSelector()
    for one, backlog in listeners:
        selector.register(one, selectors.EVENT_READ, backlog)
    while True:
        for key, _ in selector.select():
            try:
                connection, _ = key.fileobj.accept()
            except BlockingIOError:
                continue
            if key.data:
                key.fileobj.listen(key.data)
            body = json.dumps(options(connection), sort_keys=True).encode()
            connection.setblocking(True)
            connection.recv(1000)
            head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            connection.close()


def main(file, spec):
    wanted = json.loads(spec)
    ready, up = os.pipe()
    pids = []
    for _ in range(int(os.environ.get("WORKERS", "1"))):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            made = [(listener(one), one.get("again")) for one in wanted for _ in range(one.get("many", 1))]
            os.write(up, b".")
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2, up):
                os.dup2(null, fd)
            serve(made)
        pids.append(pid)
    os.close(up)
    for _ in pids:
        if not os.read(ready, 1):
            sys.exit("a process has no listener")
    with open(file, "w", encoding="ascii") as out:
        print(*pids, file=out)


main(*sys.argv[1:])
