#!/usr/bin/env python3
"""Plays the packets of clients that cannot run here, as their source code sends them (the transport is paramiko's).

    replay.py HABIT --port P --user U --key KEY --dir REMOTE --name NAME --local FILE 

Prints one line for each answer that is not OK, and at the end `size N` if the name can be asked for. Habits:
    winscp-small            OPEN with the size, CLOSE and behind it, without waiting, SETSTAT(times)     (under 100 KiB)
    winscp-small-cancel     the same broken off: CLOSE, REMOVE
    winscp-large            NAME.filepart, REMOVE of the old file, RENAME, SETSTAT
    winscp-large-cancel     the first half of it, and the connection is gone
    winscp-large-resume     goes on with NAME.filepart at its size
    winscp-text             text mode: fewer bytes than announced, CLOSE, SETSTAT
    filezilla               READDIR, OPEN, everything in flight, CLOSE
    filezilla-cancel        half of it, and the connection is gone
    filezilla-resume        OPEN for writing, FSTAT, the rest at its offset
    cyberduck               STAT, OPEN, CLOSE
    cyberduck-temporary     NAME-<uuid>, CLOSE, SETSTAT, RENAME
    sshj                    STAT, OPEN, CLOSE, SETSTAT(mode, times)
    jsch                    STAT, OPEN, blocks of 32,000, CLOSE
    jsch-resume             LSTAT, OPEN for writing without truncation, the rest at its offset
    spring                  NAME.writing, CLOSE, REMOVE of the target, which may only fail with "no such file", RENAME
    zero-first              an empty file, CLOSE, OPEN again without T, the bytes
    halves                  the two halves of a file on two handles of one name, as writers in parallel do
"""

import argparse
import pathlib
import struct
import sys
import time
import uuid

import paramiko

READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
INIT, OPEN, CLOSE, WRITE_DATA, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR, REMOVE, REALPATH, STAT, RENAME = (
    1, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18)
STATUS, HANDLE, ATTRS = 101, 102, 105


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(value)) + value


def attributes(size=None, mode=None, times=None):
    flags, fields = 0, b""
    for bit, value, form in ((1, size, ">Q"), (4, mode, ">I"), (8, times, ">II")):
        if value is not None:
            flags |= bit
            fields += struct.pack(form, *value) if bit == 8 else struct.pack(form, value)
    return struct.pack(">I", flags) + fields


class Wire:
    """Requests without waiting for answers, as clients send them; `wait` fetches the answers."""

    def __init__(self, args):
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        self.client.connect("127.0.0.1", int(args.port), args.user, key_filename=args.key, allow_agent=False, look_for_keys=False, timeout=30)
        self.channel = self.client.get_transport().open_session()
        self.channel.invoke_subsystem("sftp")
        self.waiting, self.last = {}, 0
        self.packet(struct.pack(">BI", INIT, 3))
        self.read()

    def packet(self, body):
        self.channel.sendall(struct.pack(">I", len(body)) + body)

    def exactly(self, length):
        data = b""
        while len(data) < length:
            more = self.channel.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def read(self):
        return self.exactly(struct.unpack(">I", self.exactly(4))[0])

    def send(self, kind, body, what=""):
        self.last += 1
        self.waiting[self.last] = what
        self.packet(struct.pack(">BI", kind, self.last) + body)
        return self.last

    def wait(self):
        """The answer to the last request; complains of those that are not OK."""
        answer = None
        while self.waiting:
            body = self.read()
            kind, number = struct.unpack_from(">BI", body)
            what = self.waiting.pop(number)
            if kind == STATUS and (code := struct.unpack_from(">I", body, 5)[0]) > 1:
                length, = struct.unpack_from(">I", body, 9)
                if what:
                    print(f"{what}: {code} {body[13:13 + length].decode(errors='replace')}", flush=True)
            answer = body if number == self.last else answer
        return answer

    # Requests.

    def open(self, path, flags, attrs=None):
        self.send(OPEN, text(path) + struct.pack(">I", flags) + (attrs or attributes()), f"open {path}")
        body = self.wait()
        if body[0] != HANDLE:
            sys.exit(1)
        length, = struct.unpack_from(">I", body, 5)
        return body[9:9 + length]

    def write(self, handle, data, offset=0, block=32768, in_flight=64):
        for at in range(0, len(data), block):
            piece = data[at:at + block]
            self.send(WRITE_DATA, text(handle) + struct.pack(">Q", offset + at) + text(piece), "write")
            if len(self.waiting) >= in_flight:
                self.wait()

    def close(self, handle):
        self.send(CLOSE, text(handle), "close")

    def size(self, kind, what):
        self.send(kind, text(what))
        body = self.wait()
        return struct.unpack_from(">Q", body, 9)[0] if body[0] == ATTRS else None

    def set(self, path, **attrs):
        self.send(SETSTAT, text(path) + attributes(**attrs), "setstat")

    def rename(self, old, new):
        self.send(RENAME, text(old) + text(new), "rename")
        self.wait()

    def remove(self, path, what="remove"):
        self.send(REMOVE, text(path), what)
        self.wait()

    def lose(self):
        """The connection is gone, with what was sent on the way."""
        self.wait()
        self.client.get_transport().sock.close()
        sys.exit(0)


class Play:
    """One method for each habit."""

    def __init__(self, args):
        self.wire = Wire(args)
        self.path = f"{args.dir}/{args.name}"
        self.part = f"{self.path}.filepart"
        self.dir = args.dir
        self.data = pathlib.Path(args.local).read_bytes()
        self.half = self.data[:len(self.data) // 2 // 32768 * 32768]
        now = int(time.time()) - 1000
        self.times = (now, now)

    def fresh(self, path, data, flags=WRITE | CREATE | TRUNCATE, attrs=None, **how):
        handle = self.wire.open(path, flags, attrs)
        self.wire.write(handle, data, **how)
        return handle

    def winscp_small(self):
        handle = self.fresh(self.path, self.data, attrs=attributes(size=len(self.data)))
        self.wire.wait()
        self.wire.close(handle)
        self.wire.set(self.path, times=self.times)
        self.wire.wait()

    def winscp_small_cancel(self):
        handle = self.fresh(self.path, self.half, attrs=attributes(size=len(self.data)))
        self.wire.wait()
        self.wire.close(handle)
        self.wire.wait()
        self.wire.remove(self.path)

    def winscp_finish(self, handle):
        self.wire.wait()
        self.wire.close(handle)
        self.wire.wait()
        if self.wire.size(LSTAT, self.path) is not None:
            self.wire.remove(self.path)
        self.wire.rename(self.part, self.path)
        self.wire.set(self.path, times=self.times)
        self.wire.wait()

    def winscp_large(self):
        self.wire.size(LSTAT, self.path)
        self.wire.size(LSTAT, self.part)
        self.winscp_finish(self.fresh(self.part, self.data, attrs=attributes(size=len(self.data))))

    def winscp_large_cancel(self):
        self.fresh(self.part, self.half, attrs=attributes(size=len(self.data)))
        self.wire.lose()

    def winscp_large_resume(self):
        size = self.wire.size(LSTAT, self.part)
        handle = self.wire.open(self.part, WRITE | CREATE)
        self.wire.write(handle, self.data[size:], size)
        self.winscp_finish(handle)

    def winscp_text(self):
        """The announced size is that of the local file with its CRs."""
        handle = self.fresh(self.path, self.data, attrs=attributes(size=len(self.data) + 500))
        self.wire.wait()
        self.wire.close(handle)
        self.wire.set(self.path, times=self.times)
        self.wire.wait()

    def filezilla(self):
        self.wire.send(OPENDIR, text(self.dir))
        body = self.wire.wait()
        handle = body[9:]
        while True:
            self.wire.send(READDIR, text(handle))
            if self.wire.wait()[0] == STATUS:
                break
        self.wire.close(handle)
        handle = self.fresh(self.path, self.data, attrs=attributes(mode=0o100644), in_flight=128)
        self.wire.close(handle)
        self.wire.wait()

    def filezilla_cancel(self):
        self.fresh(self.path, self.half, attrs=attributes(mode=0o100644), in_flight=128)
        self.wire.lose()

    def filezilla_resume(self):
        handle = self.wire.open(self.path, WRITE)
        size = self.wire.size(FSTAT, handle)
        self.wire.write(handle, self.data[size:], size)
        self.wire.close(handle)
        self.wire.wait()

    def cyberduck(self):
        self.wire.size(STAT, self.path)
        handle = self.fresh(self.path, self.data, in_flight=16)
        self.wire.wait()
        self.wire.close(handle)
        self.wire.wait()

    def cyberduck_temporary(self):
        name = f"{self.path}-{uuid.uuid4()}"
        handle = self.fresh(name, self.data, in_flight=16)
        self.wire.wait()
        self.wire.close(handle)
        self.wire.wait()
        self.wire.rename(name, self.path)
        self.wire.set(self.path, mode=0o644, times=self.times)
        self.wire.wait()

    def sshj(self):
        self.cyberduck()
        self.wire.set(self.path, mode=0o644, times=self.times)
        self.wire.wait()

    def jsch(self):
        self.wire.size(STAT, self.path)
        handle = self.fresh(self.path, self.data, block=32_000, in_flight=16)
        self.wire.close(handle)
        self.wire.wait()

    def jsch_resume(self):
        size = self.wire.size(LSTAT, self.path)
        handle = self.wire.open(self.path, WRITE | CREATE)
        self.wire.write(handle, self.data[size:], size, block=32_000)
        self.wire.close(handle)
        self.wire.wait()

    def spring(self):
        handle = self.fresh(f"{self.path}.writing", self.data, in_flight=16)
        self.wire.wait()
        self.wire.close(handle)
        self.wire.wait()
        self.wire.send(REMOVE, text(self.path))
        code, = struct.unpack_from(">I", self.wire.wait(), 5)
        if code not in (0, 2):
            sys.exit(f"remove: {code}")
        self.wire.rename(f"{self.path}.writing", self.path)

    def zero_first(self):
        self.wire.close(self.wire.open(self.path, WRITE | CREATE | TRUNCATE))
        self.wire.wait()
        handle = self.wire.open(self.path, WRITE)
        self.wire.write(handle, self.data)
        self.wire.close(handle)
        self.wire.wait()

    def halves(self):
        one = self.wire.open(self.path, WRITE | CREATE | TRUNCATE)
        other = self.wire.open(self.path, WRITE | CREATE)
        self.wire.write(other, self.data[len(self.half):], len(self.half))
        self.wire.write(one, self.half)
        self.wire.wait()
        self.wire.close(other)
        self.wire.close(one)
        self.wire.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("habit")
    for name in ("port", "user", "key", "dir", "name", "local"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    play = Play(args)
    getattr(play, args.habit.replace("-", "_"))()
    print(f"size {play.wire.size(STAT, play.path)}")
    play.wire.client.close()


if __name__ == "__main__":
    main()
