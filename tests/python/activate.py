"""Holds listening sockets as systemd does, and starts and stops a server that gets them (sd_listen_fds(3)).

activate.py NAME=PORT... -- COMMAND...; prints "bound", then reads lines from standard input: "start" prints "ready" once the server has told so
by sd_notify(3); "stop" sends SIGTERM and prints the exit code. At the end of the input the server is killed.
"""

import os
import signal
import socket
import subprocess
import sys

split = sys.argv.index("--")
doors = [door.split("=") for door in sys.argv[1:split]]
command = sys.argv[split + 1 :]
listeners = []
for _, port in doors:
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=64)
    listeners.append(listener)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind("\0as2gate-activate-%d" % os.getpid())
notify.settimeout(60)


def hand_over():
    # First out of the way of the numbers to come, then to these.
    high = [os.dup2(listener.fileno(), 100 + k) for k, listener in enumerate(listeners)]
    for k, number in enumerate(high):
        os.dup2(number, 3 + k, inheritable=True)
        os.close(number)
    os.environ["LISTEN_PID"] = str(os.getpid())


def start():
    os.environ["LISTEN_FDS"] = str(len(listeners))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in doors)
    os.environ["NOTIFY_SOCKET"] = "@as2gate-activate-%d" % os.getpid()
    pid = os.fork()
    if pid == 0:
        hand_over()
        os.execvp(command[0], command)
    return pid


print("bound", flush=True)
server = None
for line in sys.stdin:
    if line.strip() == "start":
        server = start()
        state = notify.recv(100).decode()
        print("ready" if state == "READY=1" else state, flush=True)
    elif line.strip() == "stop":
        os.kill(server, signal.SIGTERM)
        _, status = os.waitpid(server, 0)
        server = None
        print(notify.recv(100).decode(), os.waitstatus_to_exitcode(status), flush=True)
if server is not None:
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
