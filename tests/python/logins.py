#!/usr/bin/env python3
"""Logins by paramiko, step by step, as no ordinary client makes them.

    logins.py PORT steps USER STEP...       each STEP is none, key:FILE, password:TEXT, code:TEXT, user:NAME (another name,
                                            same connection), run:COMMAND or end; prints for each proof `in`, `next METHODS` or
                                            `refused METHODS`, and for end `ended`, or `open` if the connection is not ended within 20 s
    logins.py PORT timing KNOWN UNKNOWN KEYFILE N
                                            N refusals each of a known and an unknown user, by key and by password; prints
                                            the p-values of a two-sided Mann-Whitney test
"""
import concurrent.futures
import math
import random
import subprocess
import sys
import threading
import time

import paramiko


def connect(port, tries=3):
    transport = paramiko.Transport(("127.0.0.1", port))
    transport.banner_timeout = transport.auth_timeout = 30
    try:
        transport.start_client(timeout=30)
    except paramiko.SSHException:
        # Refused at the door for a limit: how long a refusal takes is not about that.
        if tries == 1:
            raise
        time.sleep(1)
        return connect(port, tries - 1)
    return transport


def key(file):
    return paramiko.PKey.from_path(file)


def step(transport, user, what):
    kind, _, value = what.partition(":")
    try:
        if kind == "none":
            left = transport.auth_none(user)
        elif kind == "key":
            left = transport.auth_publickey(user, key(value))
        elif kind == "password":
            left = transport.auth_password(user, value, fallback=False)
        elif kind == "code":
            left = transport.auth_interactive(user, lambda title, text, prompts: [value] * len(prompts))
        else:
            raise SystemExit(f"unknown step {what}")
        return "in" if transport.is_authenticated() else "next " + ",".join(left)
    except paramiko.BadAuthenticationType as error:
        return "refused " + ",".join(error.allowed_types)
    except paramiko.AuthenticationException:
        return "refused"


def steps(port, user, todo):
    transport = connect(port)
    for what in todo:
        if what.startswith("user:"):
            user = what[5:]
            continue
        if what.startswith("run:"):
            subprocess.run(what[4:], shell=True, check=True, stdout=subprocess.DEVNULL)
            continue
        if what == "end":
            transport.join(20)
            print("open" if transport.is_active() else "ended", flush=True)
            continue
        print(step(transport, user, what), flush=True)
    transport.close()


def mann_whitney(a, b):
    """Two-sided p-value by the normal approximation; ties are as good as none among times in nanoseconds."""
    ranks = {}
    for rank, (_, source) in enumerate(sorted([(x, 0) for x in a] + [(x, 1) for x in b]), 1):
        ranks[source] = ranks.get(source, 0) + rank
    n, m = len(a), len(b)
    u = ranks[0] - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(z) / math.sqrt(2))


def timing(port, known, unknown, file, count):
    tries, local = 4, threading.local()
    wrong = key(file)

    def sample(job):
        kind, user = job
        if getattr(local, "left", 0) == 0:
            local.transport, local.left = connect(port), tries
        local.left -= 1
        began = time.perf_counter_ns()
        try:
            if kind == "key":
                local.transport.auth_publickey(user, wrong)
            else:
                local.transport.auth_password(user, "not the password", fallback=False)
            raise SystemExit("a wrong proof was taken")
        except paramiko.AuthenticationException:
            return kind, user, time.perf_counter_ns() - began
        finally:
            if local.left == 0:
                local.transport.close()

    jobs = [(kind, user) for kind in ("key", "password") for user in (known, unknown) for _ in range(count)]
    random.shuffle(jobs)
    times = {}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for kind, user, nanoseconds in pool.map(sample, jobs):
            times.setdefault((kind, user), []).append(nanoseconds)
    for kind in ("key", "password"):
        a, b = times[kind, known], times[kind, unknown]
        middle = [sorted(x)[len(x) // 2] / 1e6 for x in (a, b)]
        print(f"{kind} {mann_whitney(a, b):.6f} median {middle[0]:.3f} ms, {middle[1]:.3f} ms")


def main():
    port, what, *rest = sys.argv[1:]
    if what == "steps":
        steps(int(port), rest[0], rest[1:])
    else:
        known, unknown, file, count = rest
        timing(int(port), known, unknown, file, int(count))


main()
