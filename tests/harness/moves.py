# Whether this kernel moves a connection that waits to another listener of a SO_REUSEPORT group as its own
# listener closes, and wakes who sleeps there. By the setting, without a program of eBPF.
import os, select, socket

SETTING = '/proc/sys/net/ipv4/tcp_migrate_req'
if os.path.exists(SETTING):
    with open(SETTING, 'w') as setting:
        setting.write('1')


def listener(port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(('127.0.0.1', port))
    made.listen()
    made.setblocking(False)
    return made


old = listener(0)
port = old.getsockname()[1]
client = socket.create_connection(('127.0.0.1', port))
new = listener(port)
sleeper = select.epoll()
sleeper.register(new, select.EPOLLIN | select.EPOLLET)
old.close()
# What the kernel does, it has done when close(2) returns.
woken = sleeper.poll(0)
try:
    new.accept()
    print('moves it' if woken else 'wakes nobody')
except BlockingIOError:
    print('does not move it')
