#!/usr/bin/env python3
"""Presses Ctrl-C in the middle of an interactive transfer, as a person does: interrupt.py COMMAND TRANSFER [AFTER…].

Runs COMMAND (a shell line that starts OpenSSH's sftp) on a terminal of its own, types TRANSFER, waits until its progress
meter shows some percent, presses Ctrl-C, waits for the prompt, types the lines AFTER, and leaves. Prints what it saw.
"""
import os
import pty
import re
import select
import sys
import time

DEADLINE = 60


def main():
    command, transfer, after = sys.argv[1], sys.argv[2], sys.argv[3:]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", "exec " + command])
    end = time.monotonic() + DEADLINE
    seen = ""

    def until(pattern, start=0):
        nonlocal seen
        while not re.search(pattern, seen[start:]):
            left = end - time.monotonic()
            if left <= 0 or not select.select([terminal], [], [], left)[0]:
                print(seen)
                sys.exit(f"never saw {pattern}")
            try:
                seen += os.read(terminal, 65536).decode("utf-8", "replace")
            except OSError:
                print(seen)
                sys.exit(f"ended before {pattern}")

    def type_in(line):
        os.write(terminal, (line + "\n").encode())

    until(r"sftp> ")
    type_in(transfer)
    until(r"[^\d]([5-9]|[1-9]\d)%")
    mark = len(seen)
    os.write(terminal, b"\x03")
    until(r"sftp> ", mark)
    for line in after:
        mark = len(seen)
        type_in(line)
        until(r"sftp> ", mark + len(line))
    type_in("bye")
    try:
        while time.monotonic() < end:
            more = os.read(terminal, 65536)
            if not more:
                break
            seen += more.decode("utf-8", "replace")
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    print(seen)
    sys.exit(0 if os.waitstatus_to_exitcode(status) in (0, 1) else 1)


main()
