#!/usr/bin/env python3
"""Every SFTP operation over paths that must lead nowhere: out of the tree, into closed places, into another account.

    trespass.py PORT USER KEYFILE traversal            over 300 spellings of a way out
    trespass.py PORT USER KEYFILE foreign PATH...      paths of others, which have to look like names that never existed

Prints the number of paths and of refusals; the first finding prints `FAULT: what` and ends with 1.
"""
import itertools
import sys

import paramiko
from paramiko import sftp

PORT, USER, KEY, WHAT, *PATHS = sys.argv[1:]


def connect():
    peer = paramiko.Transport(("127.0.0.1", int(PORT)))
    peer.connect(username=USER, pkey=paramiko.Ed25519Key.from_private_key_file(KEY))
    return paramiko.SFTPClient.from_transport(peer)


client = connect()
ATTRS = paramiko.SFTPAttributes()
OWN = "/mftg-acme/AS2/send/ALICE/BOB/own.tmp"


def ask(kind, *fields):
    """The server's answer: `ok`, or code and text of the refusal."""
    try:
        kind_of_answer, answer = client._request(kind, *fields)  # noqa: SLF001: paths as bytes, nothing tidied up
    except OSError as error:
        return (error.errno, error.strerror or str(error))
    if kind_of_answer == sftp.CMD_HANDLE:
        client._request(sftp.CMD_CLOSE, answer.get_binary())  # noqa: SLF001
    return "ok"


OPERATIONS = {
    "stat": lambda path: ask(sftp.CMD_STAT, path),
    "lstat": lambda path: ask(sftp.CMD_LSTAT, path),
    "read": lambda path: ask(sftp.CMD_OPEN, path, 1, ATTRS),
    "write": lambda path: ask(sftp.CMD_OPEN, path, 2 | 8 | 16, ATTRS),
    "append": lambda path: ask(sftp.CMD_OPEN, path, 2 | 4 | 8, ATTRS),
    "list": lambda path: ask(sftp.CMD_OPENDIR, path),
    "setstat": lambda path: ask(sftp.CMD_SETSTAT, path, ATTRS),
    "remove": lambda path: ask(sftp.CMD_REMOVE, path),
    "mkdir": lambda path: ask(sftp.CMD_MKDIR, path, ATTRS),
    "rmdir": lambda path: ask(sftp.CMD_RMDIR, path),
    "readlink": lambda path: ask(sftp.CMD_READLINK, path),
    "symlink to": lambda path: ask(sftp.CMD_SYMLINK, path, OWN.encode()),
    "symlink at": lambda path: ask(sftp.CMD_SYMLINK, OWN.encode(), path),
    "rename from": lambda path: ask(sftp.CMD_RENAME, path, OWN.encode()),
    "rename to": lambda path: ask(sftp.CMD_RENAME, OWN.encode(), path),
    "posix-rename from": lambda path: ask(sftp.CMD_EXTENDED, b"posix-rename@openssh.com", path, OWN.encode()),
    "posix-rename to": lambda path: ask(sftp.CMD_EXTENDED, b"posix-rename@openssh.com", OWN.encode(), path),
    "hardlink from": lambda path: ask(sftp.CMD_EXTENDED, b"hardlink@openssh.com", path, OWN.encode()),
    "hardlink to": lambda path: ask(sftp.CMD_EXTENDED, b"hardlink@openssh.com", OWN.encode(), path),
    "statvfs": lambda path: ask(sftp.CMD_EXTENDED, b"statvfs@openssh.com", path),
    "lsetstat": lambda path: ask(sftp.CMD_EXTENDED, b"lsetstat@openssh.com", path, ATTRS),
    "expand-path": lambda path: ask(sftp.CMD_EXTENDED, b"expand-path@openssh.com", path),
}
# These look at nothing: one works on the text alone, the other has the same made-up figures for every path.
BLIND = {"expand-path", "statvfs"}


def fault(what):
    print(f"FAULT: {what}")
    sys.exit(1)


def ways_out():
    """Targets that exist on every machine, behind every way up that has fooled a server, as bytes."""
    dots = ["..", "../", "..//", "./..", ".../..", "..\\", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%252f", "..%c0%af", "..\u2215", "..\uff0f",
            "\u2025/", "..;/", "..\0/", "..\n/", " ../", "../ ", "..\u202e/", "\u00b7\u00b7/", "..%00/"]
    targets = ["etc/passwd", "proc/self/environ", "root/.ssh/id_rsa", "data/master.key", "data/db/as2gate.db", "as2gate.toml"]
    starts = ["", "/", "/mftg-acme/", "/mftg-acme/AS2/send/ALICE/BOB/"]
    for start, dot, target in itertools.product(starts, dots, targets):
        for times in (1, 8):
            yield (start + (dot if dot.endswith("/") else dot + "/") * times + target).encode()
    for target in targets:
        yield from (f"/{target}".encode(), f"//{target}".encode(), f"\\{target}".encode(), f"C:\\{target}".encode(), f"~/{target}".encode(),
                    f"~root/{target}".encode(), f"file:///{target}".encode(), f"/mftg-acme/AS2/keystore/../../../../{target}".encode())
    for raw in (b"\xff\xfe/..", b"\xc0\xae\xc0\xae/etc/passwd", b"/proc/self/cwd/data/master.key", b"/dev/stdin", b"/" + b"a" * 5000,
                b"/".join([b"a"] * 2500), b"..\x00", b"\x00", b"/mftg-acme\x00/../..", b"/mftg-acme/AS2/send/ALICE/BOB/" + b"x" * 256):
        yield raw


def traversal():
    paths = list(dict.fromkeys(ways_out()))
    refusals = 0
    for path in paths:
        for name, operation in OPERATIONS.items():
            answer = operation(path)
            if answer == "ok" and name not in BLIND and not inside(path):
                fault(f"{name} {path!r} is allowed")
            refusals += answer != "ok"
        where = real(path)
        if where is not None and where != "/" and not where.startswith("/"):
            fault(f"realpath {path!r} is {where!r}")
        if where is not None and ".." in where.split("/"):
            fault(f"realpath {path!r} keeps its dots: {where!r}")
    if len(paths) < 300:
        fault(f"only {len(paths)} paths")
    print(f"{len(paths)} paths, {refusals} refusals")


def real(path):
    try:
        _, answer = client._request(sftp.CMD_REALPATH, path)  # noqa: SLF001
    except OSError:
        return None
    answer.get_int()
    return answer.get_binary().decode(errors="surrogateescape")


def inside(path):
    """A name with odd characters may well be one of an upload of our own."""
    where = real(path)
    return where is not None and (where in ("/", "/mftg-acme") or where.startswith("/mftg-acme/AS2/send/ALICE/BOB/"))


def foreign():
    """Each path against a twin beside it that does not exist: the same code and the same words."""
    refusals = 0
    for path in PATHS:
        twin = path.rstrip("/") + "-no-such-name"
        for name, operation in OPERATIONS.items():
            there, nowhere = operation(path.encode()), operation(twin.encode())
            if there == "ok" and name not in BLIND:
                fault(f"{name} {path} is allowed")
            if same(there, path) != same(nowhere, twin):
                fault(f"{name} tells {path} ({there}) from {twin} ({nowhere})")
            refusals += 1
    print(f"{len(PATHS)} paths, {refusals} refusals")


def same(answer, path):
    return tuple(str(part).replace(path, "PATH") for part in answer)


foreign() if WHAT == "foreign" else traversal()
