#!/usr/bin/env python3
"""Writes down what an SFTP client says: stands between the client and OpenSSH's sftp-server and logs every request.

    recorder.py log FILE [SERVER ARG...]      as the server's program on stdio: `sftp -D "recorder.py log FILE"`, lftp's
                                              sftp:connect-program, or sshd's Subsystem
    recorder.py sshd DIR PORT KEY.pub         sshd on a loopback port with the recorder as its subsystem; the log is DIR/log

One line for each request, a run of WRITEs as one line with the lengths of its blocks and of the last one. Settings are
environment variables: RECORDER_DELAY, seconds that each WRITE waits, so that a Ctrl-C falls into the transfer;
RECORDER_FAIL_CLOSE=1 answers the CLOSE of a written file with a failure; RECORDER_NO_LIMITS=1 hides limits@openssh.com.
How to repeat the table in COMPATIBILITY.md: start `recorder.py sshd`, run habits.py against it, and read the log.
"""

import os
import pathlib
import struct
import subprocess
import sys
import threading
import time

SERVER = "/usr/lib/openssh/sftp-server"
NAMES = {1: "INIT", 3: "OPEN", 4: "CLOSE", 5: "READ", 6: "WRITE", 7: "LSTAT", 8: "FSTAT", 9: "SETSTAT", 10: "FSETSTAT", 11: "OPENDIR",
         12: "READDIR", 13: "REMOVE", 14: "MKDIR", 15: "RMDIR", 16: "REALPATH", 17: "STAT", 18: "RENAME", 19: "READLINK", 20: "SYMLINK",
         200: "EXTENDED"}
FLAGS = ((1, "R"), (2, "W"), (4, "A"), (8, "C"), (16, "T"), (32, "X"))
STATUS, FAILURE = 101, 4


class Fields:
    """The fields of a packet in order."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def number(self, form=">I"):
        value, = struct.unpack_from(form, self.body, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self):
        length = self.number()
        self.at += length
        return self.body[self.at - length:self.at]

    def path(self):
        return self.text().decode(errors="replace")

    def attributes(self):
        flags, words = self.number(), []
        if flags & 1:
            words.append(f"size={self.number('>Q')}")
        if flags & 2:
            words.append(f"owner={self.number()}:{self.number()}")
        if flags & 4:
            words.append(f"mode={self.number():o}")
        if flags & 8:
            words.append(f"times={self.number()},{self.number()}")
        return " ".join(words)


class Recorder:
    """Copies packets both ways and logs those of the client."""

    def __init__(self, log, server):
        self.log = open(log, "a", buffering=1, encoding="utf-8")
        self.began = time.monotonic()
        self.server = subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lengths, self.end = [], 0
        self.written, self.closing = False, set()
        self.delay = float(os.environ.get("RECORDER_DELAY", "0"))

    def say(self, line):
        self.log.write(f"{time.monotonic() - self.began:8.3f} {line}\n")

    def flush(self):
        if self.lengths:
            kinds = sorted(set(self.lengths[:-1]) or set(self.lengths))
            self.say(f"WRITE x{len(self.lengths)} blocks={kinds[:4]} last={self.lengths[-1]} end={self.end}")
            self.lengths = []

    def request(self, body):
        kind, fields = body[0], Fields(body[1:])
        if kind == 1:
            self.say(f"INIT version={fields.number()}")
            return
        request, name = fields.number(), NAMES.get(kind, f"type {kind}")
        if kind == 6:
            fields.text()
            offset = fields.number(">Q")
            self.lengths.append(fields.number())
            self.end, self.written = offset + self.lengths[-1], True
            time.sleep(self.delay)
            return
        self.flush()
        if kind == 5:
            return
        if kind == 4 and self.written:
            self.closing.add(request)
            self.written = False
        self.say(f"{name} {self.details(kind, fields)}".rstrip())

    @staticmethod
    def details(kind, fields):
        if kind == 3:
            path, flags = fields.path(), fields.number()
            return f"{path} {''.join(letter for bit, letter in FLAGS if flags & bit)} {fields.attributes()}"
        if kind == 9:
            return f"{fields.path()} {fields.attributes()}"
        if kind == 10:
            fields.text()
            return fields.attributes()
        if kind == 18:
            return f"{fields.path()} -> {fields.path()}"
        if kind == 200:
            name = fields.path()
            return f"{name} {fields.path()} -> {fields.path()}" if name.startswith("posix-rename") else name
        return fields.path() if kind in (7, 11, 13, 14, 15, 16, 17, 19) else ""

    def from_client(self):
        while (packet := read_packet(0)) is not None:
            self.request(packet)
            try:
                self.server.stdin.write(struct.pack(">I", len(packet)) + packet)
                self.server.stdin.flush()
            except BrokenPipeError:
                break
        self.flush()
        self.say("end of input")
        self.server.stdin.close()

    def to_client(self):
        while (packet := read_packet(self.server.stdout.fileno())) is not None:
            if packet[0] == 2 and os.environ.get("RECORDER_NO_LIMITS"):
                packet = packet.replace(b"limits@openssh.com", b"hidden@openssh.com")
            if packet[0] == STATUS and struct.unpack_from(">I", packet, 1)[0] in self.closing and os.environ.get("RECORDER_FAIL_CLOSE"):
                packet = packet[:5] + struct.pack(">II", FAILURE, 9) + b"disk full" + struct.pack(">I", 0)
                self.say("(that CLOSE is answered with a failure)")
            try:
                os.write(1, struct.pack(">I", len(packet)) + packet)
            except OSError:
                return


def read_packet(pipe):
    """A packet without its length; None at the end, also in the middle of one."""
    head = read_exactly(pipe, 4)
    return head and read_exactly(pipe, struct.unpack(">I", head)[0])


def read_exactly(pipe, length):
    parts = []
    while length > 0:
        part = os.read(pipe, min(length, 1 << 16))
        if not part:
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def sshd(place, port, key):
    """An sshd of its own whose subsystem is this program."""
    place = pathlib.Path(place).resolve()
    place.mkdir(parents=True, exist_ok=True)
    host_key = place / "host.key"
    if not host_key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True)
    settings = " ".join(f"{name}={value}" for name, value in os.environ.items() if name.startswith("RECORDER_"))
    program = place / "subsystem"
    program.write_text(f"#!/bin/sh\nexec env {settings} {sys.executable} {pathlib.Path(__file__).resolve()} log {place}/log\n")
    program.chmod(0o755)
    config = place / "sshd_config"
    config.write_text(f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\nAuthorizedKeysFile {pathlib.Path(key).resolve()}\n"
                      f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nSubsystem sftp {program}\n")
    if os.geteuid() == 0:
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)
    os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)])


def main():
    match sys.argv[1:]:
        case ["log", log, *server]:
            recorder = Recorder(log, server or [SERVER])
            threading.Thread(target=recorder.to_client, daemon=True).start()
            recorder.from_client()
            recorder.server.wait()
        case ["sshd", place, port, key]:
            sshd(place, port, key)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
