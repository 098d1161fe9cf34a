"""What the gateway takes: time to start, memory at rest, and the peak of memory by size and by number of messages.

Two gateways on this disk, ALICE and BOB; files are put by OpenSSH's sftp, signed, encrypted, posted, verified and receipted. The
peak is the kernel's high-water mark, begun anew for each row.
"""

import http.client
import json
import os
import shutil
import signal
import time

from measure import MIB, fail, median, memory, noise, output, reset_peak, row
from pair import Pair

# A file of any size may cost so much more than one of 1 MiB.
SLACK = 32
CROWD, CROWD_SIZE, SESSIONS = 100, 100, 20
# As put, packaged, received, filed, and fetched.
COPIES = 5


def options(parser):
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 100, 1024, 10240],
                        help="footprint: payloads in MiB, one after the other (1 100 1024 10240)")


def measure(bench):
    need = max([COPIES * size for size in bench.args.sizes] + [COPIES * CROWD * CROWD_SIZE]) * MIB
    if shutil.disk_usage(bench.place).free < need:
        fail(f"{bench.place} has less than {need / 1e9:,.0f} GB free", "a message lies in so many places; --sizes takes smaller ones")
    rows = []
    with Pair(bench, bench.place / "pair", UPLOADS__RELEASE_AFTER="0s") as pair:
        time.sleep(3)
        idle = {side: memory(pair.pids[side], "VmRSS") for side in pair.pids}
        rows.append(row("memory at rest", "MiB", max(idle.values()), goal=30.0))
        peaks = {side: [] for side in pair.pids}
        for n, size in enumerate(bench.args.sizes):
            for side, peak in one(bench, pair, n, size).items():
                peaks[side].append(peak)
                goal = None if n == 0 else peaks[side][0] + SLACK
                what = {"alice": "sender", "bob": "receiver"}[side]
                rows.append(row(f"one message of {size:,} MiB, peak memory of the {what}", "MiB", peak, goal=goal))
    shutil.rmtree(bench.place / "pair")
    with Pair(bench, bench.place / "crowd", UPLOADS__RELEASE_AFTER="0s", AS2__SEND_WORKERS=str(CROWD), AS2__RESPONSE_TIMEOUT="30m",
              AS2__MAX_CONNECTIONS_PER_IP=str(2 * CROWD)) as pair:
        rows += crowd(bench, pair)
    shutil.rmtree(bench.place / "crowd")
    return starts(bench) + rows


def starts(bench):
    """From the start of the process to the first answer on the AS2 port."""
    took = []
    with Pair(bench, bench.place / "start") as pair:
        side, port = "bob", pair.as2["bob"]
        pair.stop(side)
        for _ in range(max(bench.args.runs, 5)):
            began = time.monotonic()
            child = pair.spawn(side, AS2__LISTEN=json.dumps([f"127.0.0.1:{port}"]))
            while not answers(port):
                if child.poll() is not None or time.monotonic() - began > 10:
                    fail("the gateway did not start", (pair.place / side / "serve.log").read_text())
            took.append(1000 * (time.monotonic() - began))
            child.terminate()
            child.wait()
    return [row("start to first answer", "ms", median(took), goal=100.0, runs=len(took))]


def answers(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("HEAD", "/as2")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()


def one(bench, pair, n, size):
    """A file from ALICE to BOB; the peaks of both."""
    payload = bench.place / f"file-{n}-{size}.bin"
    digest = noise(payload, size * MIB)
    for pid in pair.pids.values():
        reset_peak(pid)
    pair.put("alice", f"put {payload} AS2/send/ALICE/BOB/\n")
    payload.unlink()
    pair.delivered(n + 1)
    peaks = {side: memory(pid) for side, pid in pair.pids.items()}
    fetched = bench.place / "fetched.bin"
    pair.put("bob", f"get AS2/files/BOB/ALICE/inbox/*/{payload.name} {fetched}\n")
    if digest != output("sha256sum", fetched).split()[0]:
        fail(f"{size} MiB", "what BOB fetched is not what ALICE put")
    fetched.unlink()
    return peaks


def crowd(bench, pair):
    """A hundred files on their way at once: BOB stands still until ALICE has begun to post every one of them."""
    payload = bench.place / "one.bin"
    noise(payload, CROWD_SIZE * MIB)
    pair.gw("alice", "partner", "set", "BOB", "--max-parallel", str(CROWD))
    for pid in pair.pids.values():
        reset_peak(pid)
    os.kill(pair.pids["bob"], signal.SIGSTOP)
    try:
        pair.put("alice", *["".join(f"put {payload} AS2/send/ALICE/BOB/{session}-{n}.bin\n" for n in range(CROWD // SESSIONS))
                            for session in range(SESSIONS)])
        while sum(m["state"] == "sending" for m in pair.messages("alice")) < CROWD:
            time.sleep(0.5)
    finally:
        os.kill(pair.pids["bob"], signal.SIGCONT)
    began = time.monotonic()
    pair.delivered(CROWD, patience=1800)
    wall = time.monotonic() - began
    peak = {side: memory(pid) for side, pid in pair.pids.items()}
    name = f"{CROWD} messages of {CROWD_SIZE} MiB at once"
    return [row(f"{name}, peak memory of the sender", "MiB", peak["alice"]), row(f"{name}, peak memory of the receiver", "MiB", peak["bob"]),
            row(f"{name}, peak memory of both", "MiB", sum(peak.values()), goal=512.0),
            row(f"{name}, first byte to last receipt", "MB/s", CROWD * CROWD_SIZE * MIB / 1e6 / wall, more_is_better=True)]
