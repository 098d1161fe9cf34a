#!/usr/bin/env python3
"""Measures the gateway against `openssl cms` in the same run, and two gateways against the clock.

run.py [--target DIR] [--size MIB] [--runs N] [--messages N]

Prints a table and writes DIR/bench.json: an array of objects with name, unit, ours, rival, rival_value, ratio, goal, runs.
`ratio` is written so that more is better; `goal` is the ratio (or, without a rival, our own figure) to be reached.
Every figure is the median of the runs. Payloads are read warm. CPU seconds are user and system time of the processes;
peak memory is the kernel's own high-water mark (VmHWM).
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20


class Measured:
    """What a command cost: wall seconds, CPU seconds, peak memory in MiB."""

    def __init__(self, wall, cpu, peak):
        self.wall, self.cpu, self.peak = wall, cpu, peak

    def then(self, other):
        return Measured(self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak))


def run(*command, cwd=None):
    """Runs a command to its end and measures it."""
    began = time.monotonic()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=cwd)
    peak = [0]
    watcher = threading.Thread(target=watch, args=(child.pid, peak))
    watcher.start()
    complaint = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    if child.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))}\nwhy:   {complaint.decode(errors='replace').strip()}")
    return Measured(wall, usage.ru_utime + usage.ru_stime, peak[0] / 1024)


def watch(pid, peak):
    """Follows a process's VmHWM. wait4's own figure would count the memory of the Python that it was forked from."""
    try:
        while True:
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
                text = status.read()
            # Until the child has become the command, it shows our own memory.
            if "VmHWM:" in text and not text.startswith("Name:\tpython"):
                peak[0] = max(peak[0], int(text.split("VmHWM:")[1].split()[0]))
            elif "State:\tZ" in text:
                return
            time.sleep(0.003)
    except (FileNotFoundError, ProcessLookupError):
        return


def median(runs, of):
    return statistics.median(of(run) for run in runs)


def make_keys(keys):
    """RSA 3072, as `station add` makes them; PEM for openssl, DER for the example program."""
    keys.mkdir(parents=True)
    for name in ("alice", "bob"):
        pem, der = keys / f"{name}.pem", keys / name
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-sha256", "-days", "30", "-subj", f"/CN={name}",
             "-keyout", f"{pem}.key", "-out", pem], check=True, capture_output=True)
        subprocess.run(["openssl", "x509", "-in", pem, "-outform", "DER", "-out", f"{der}.cer"], check=True)
        subprocess.run(["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", f"{pem}.key", "-outform", "DER", "-out", f"{der}.key"],
                       check=True)


def bulk(args, place):
    """Sign and encrypt, decrypt and verify one large file: ours and openssl cms by turns."""
    keys, payload = place / "keys", place / "payload"
    make_keys(keys)
    with open(payload, "wb") as file:
        for _ in range(args.size):
            file.write(os.urandom(MIB))
    example, gateway = args.target / "release/examples/bulk", args.target / "release/as2gate"
    body, signed, theirs = place / "body", place / "signed", place / "theirs"
    costs = {"pack": [], "pack-rival": [], "open": [], "open-rival": []}
    for _ in range(args.runs):
        costs["pack"].append(run(example, "compose", keys, payload, body))
        sign = run("openssl", "cms", "-sign", "-stream", "-binary", "-md", "sha256", "-in", payload, "-signer", keys / "alice.pem",
                   "-inkey", keys / "alice.pem.key", "-out", signed)
        encrypt = run("openssl", "cms", "-encrypt", "-stream", "-binary", "-aes256", "-in", signed, "-outform", "DER",
                      "-out", theirs, keys / "bob.pem")
        costs["pack-rival"].append(sign.then(encrypt))
        opened = place / "opened"
        shutil.rmtree(opened, ignore_errors=True)
        costs["open"].append(run(
            gateway, "inspect", body, "--headers", f"{body}.headers", "--key", keys / "bob.pem.key", "--cert", keys / "bob.pem",
            "--partner-cert", keys / "alice.pem", "--extract", opened))
        extracted = [file for file in opened.rglob("*") if file.is_file()]
        if not any(same(file, payload) for file in extracted):
            sys.exit(f"error: inspect extracted {[file.name for file in extracted]}, none equal to the payload")
        shutil.rmtree(opened)
        signed.unlink()
        decrypt = run("openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", theirs, "-recip", keys / "bob.pem",
                      "-inkey", keys / "bob.pem.key", "-out", signed)
        verify = run("openssl", "cms", "-verify", "-binary", "-noverify", "-certfile", keys / "alice.pem", "-in", signed,
                     "-out", place / "verified")
        costs["open-rival"].append(decrypt.then(verify))
        for file in (body, signed, theirs, place / "verified"):
            file.unlink()
    rows = []
    size = f"{args.size} MiB"
    for what, words, goal in (("pack", f"sign and encrypt {size}", 1.5), ("open", f"decrypt and verify {size}", 5.0)):
        ours, theirs = costs[what], costs[f"{what}-rival"]
        rows.append(row(f"{words}, throughput", "MB/s", median(ours, lambda c: args.size * MIB / 1e6 / c.wall),
                        median(theirs, lambda c: args.size * MIB / 1e6 / c.wall), goal, args.runs, more_is_better=True))
        rows.append(row(f"{words}, CPU", "s", median(ours, lambda c: c.cpu), median(theirs, lambda c: c.cpu), goal, args.runs))
        # Packaging by openssl with -stream is as frugal as it gets; near it is good enough.
        rows.append(row(f"{words}, peak memory", "MiB", median(ours, lambda c: c.peak), median(theirs, lambda c: c.peak),
                        0.2 if what == "pack" else 20.0, args.runs))
    return rows


def kernels(args, place):
    """Sign and encrypt from memory to memory, with digest and cipher apart and fused, against the two primitives in series."""
    done = subprocess.run([args.target / "release/examples/bulk", "speed", place / "keys", "512", str(max(args.runs, 5))],
                          check=True, capture_output=True, text=True)
    rates = json.loads(done.stdout)
    ways = [("separate", "digest and cipher apart", 0.9)]
    if rates["supported"]:
        ways.append(("fused", "digest and cipher fused", 1.4))
    return [row(f"sign and encrypt in memory, {words}", "MB/cpu-s", rates[way], rates["series"], goal, max(args.runs, 5),
                more_is_better=True, rival="SHA-256, then AES-256-CBC") for way, words, goal in ways]


def same(one, other):
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode == 0


def row(name, unit, ours, rival_value, goal, runs, more_is_better=False, rival="openssl cms"):
    ratio = None
    if rival_value is not None:
        ratio = ours / rival_value if more_is_better else rival_value / ours
    return {"name": name, "unit": unit, "ours": round(ours, 3), "rival": rival, "rival_value": rival_value and round(rival_value, 3),
            "ratio": ratio and round(ratio, 3), "goal": goal, "runs": runs}


def messages(args, place):
    """Small messages between two gateways, each put by OpenSSH's sftp, each with a signed MDN; first accept to last delivery."""
    rates = []
    for turn in range(args.runs):
        rates.append(one_batch(args, place / f"pair-{turn}", turn))
    return [row("10 KiB messages, put to signed MDN, two gateways", "messages/s", statistics.median(rates), None, 50.0, args.runs,
                rival=None)]


SESSIONS = 4


def one_batch(args, place, turn):
    source = place / "source"
    for session in range(SESSIONS):
        (source / str(session)).mkdir(parents=True)
    for n in range(args.messages):
        (source / str(n % SESSIONS) / f"order-{turn}-{n:05}.edi").write_bytes(os.urandom(10 * 1024))
    script = f"""
        set -euo pipefail
        source '{ROOT}/examples/two-stations/pair.sh'
        trap pair_stop EXIT
        pair_set_up '{place}'
        pair_start
        began=$SECONDS
        putters=()
        for session in {' '.join(map(str, range(SESSIONS)))}; do
            echo "put {source}/$session/* AS2/send/ALICE/BOB/" | ftp alice >/dev/null &
            putters+=($!)
        done
        for putter in "${{putters[@]}}"; do wait "$putter"; done
        until [ "$(gw alice message list --limit 100000 -o json |
                   json 'sum(m["state"] in ("delivered", "failed") for m in it)')" = {args.messages} ]; do
            [ $((SECONDS - began)) -lt 600 ]
            sleep 1
        done
        gw alice message list --limit 100000 -o json >'{place}/list.json'
    """
    # The release delay is a wait by design, not work: here it is 0.
    environment = dict(os.environ, AS2GATE_BIN=str(args.target / "release/as2gate"), AS2GATE_UPLOADS__RELEASE_AFTER="0s")
    done = subprocess.run(["bash", "-c", script], env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: two gateways with {args.messages} messages did not come to an end\nwhy:   {done.stderr.strip()[-2000:]}")
    listed = json.loads((place / "list.json").read_text())
    failed = [m for m in listed if m["state"] != "delivered"]
    if failed or len(listed) != args.messages:
        sys.exit(f"error: {len(failed)} of {len(listed)} messages were not delivered; the first: {failed[:1]}")
    first = min(seconds(m["created"]) for m in listed)
    last = max(seconds(m["finished"]) for m in listed)
    return len(listed) / (last - first)


def seconds(stamp):
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def table(rows):
    def cell(value):
        return "–" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)

    head = ("name", "unit", "ours", "rival", "rival_value", "ratio", "goal", "runs")
    lines = [head] + [tuple(cell(r[column]) for column in head) for r in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        texts = [text.ljust(w) if i in (0, 1, 3) else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths))]
        print("  ".join(texts).rstrip())


def main():
    parser = argparse.ArgumentParser(description="Measures the gateway; see the head of this file.")
    parser.add_argument("--target", type=pathlib.Path, default=ROOT / "target")
    parser.add_argument("--size", type=int, default=1024, help="payload of the bulk runs in MiB (1024)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, of which the median counts (3)")
    parser.add_argument("--messages", type=int, default=400, help="small messages of each run (400)")
    args = parser.parse_args()
    args.target = args.target.resolve()
    place = args.target / "bench"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    rows = bulk(args, place) + kernels(args, place) + messages(args, place)
    (args.target / "bench.json").write_text(json.dumps(rows, indent=2) + "\n")
    shutil.rmtree(place)
    table(rows)
    print(f"\nwritten: {args.target / 'bench.json'}")


if __name__ == "__main__":
    main()
