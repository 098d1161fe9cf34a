"""One large file: sign and encrypt, decrypt and verify, ours and `openssl cms` by turns; and the kernels in memory."""

import json
import os
import shutil
import subprocess

from measure import MIB, by_turns, cost_rows, fail, median, output, row, run


def options(parser):
    parser.add_argument("--size", type=int, default=1024, help="payload of the bulk runs in MiB (1024)")


def measure(bench):
    make_keys(bench.place / "keys")
    return files(bench) + kernels(bench)


def make_keys(keys):
    """RSA 3072, as `station add` makes them; PEM for openssl, DER for the example program."""
    keys.mkdir(parents=True)
    for name in ("alice", "bob"):
        pem, der = keys / f"{name}.pem", keys / name
        output("openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-sha256", "-days", "30", "-subj", f"/CN={name}",
               "-keyout", f"{pem}.key", "-out", pem)
        output("openssl", "x509", "-in", pem, "-outform", "DER", "-out", f"{der}.cer")
        output("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", f"{pem}.key", "-outform", "DER", "-out", f"{der}.key")


def files(bench):
    place, size, runs = bench.place, bench.args.size, bench.args.runs
    keys, payload, body, signed, theirs = (place / name for name in ("keys", "payload", "body", "signed", "theirs"))
    with open(payload, "wb") as file:
        for _ in range(size):
            file.write(os.urandom(MIB))

    def pack():
        return run(bench.example, "compose", keys, payload, body)

    def pack_rival():
        sign = run("openssl", "cms", "-sign", "-stream", "-binary", "-md", "sha256", "-in", payload, "-signer", keys / "alice.pem",
                   "-inkey", keys / "alice.pem.key", "-out", signed)
        return sign.then(run("openssl", "cms", "-encrypt", "-stream", "-binary", "-aes256", "-in", signed, "-outform", "DER",
                             "-out", theirs, keys / "bob.pem"))

    def unpack():
        opened = place / "opened"
        shutil.rmtree(opened, ignore_errors=True)
        cost = run(bench.gateway, "inspect", body, "--headers", f"{body}.headers", "--key", keys / "bob.pem.key",
                   "--cert", keys / "bob.pem", "--partner-cert", keys / "alice.pem", "--extract", opened)
        extracted = [file for file in opened.rglob("*") if file.is_file()]
        if not any(same(file, payload) for file in extracted):
            fail("inspect", f"it extracted {[file.name for file in extracted]}, none equal to the payload")
        return cost

    def unpack_rival():
        decrypt = run("openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", theirs, "-recip", keys / "bob.pem",
                      "-inkey", keys / "bob.pem.key", "-out", signed)
        return decrypt.then(run("openssl", "cms", "-verify", "-binary", "-noverify", "-certfile", keys / "alice.pem", "-in", signed,
                                "-out", place / "verified"))

    costs = by_turns(runs, pack=pack, pack_rival=pack_rival, unpack=unpack, unpack_rival=unpack_rival)
    rows = []
    # Packaging by openssl with -stream is as frugal as it gets; near it is good enough.
    for what, words, goal, frugal in (("pack", "sign and encrypt", 1.5, 0.2), ("unpack", "decrypt and verify", 5.0, 20.0)):
        ours, others = costs[what], costs[f"{what}_rival"]
        name = f"{words} {size} MiB"
        rate = lambda cost: size * MIB / 1e6 / cost.wall
        rows.append(row(f"{name}, throughput", "MB/s", median(ours, rate), rival="openssl cms", rival_value=median(others, rate),
                        goal=goal, runs=runs, more_is_better=True))
        rows += cost_rows(name, ours, others, "openssl cms", runs, cpu_goal=goal, memory_goal=frugal)
    return rows


def kernels(bench):
    """From memory to memory, without any file: one core and two, against digest and cipher in series on one core.

    The ceiling is the higher of two figures: OpenSSL's two primitives over the same pieces in the same program, and what
    `openssl speed` of the system says for each, in series.
    """
    runs = max(bench.args.runs, 5)
    rates = json.loads(output(bench.example, "speed", bench.place / "keys", bench.args.size, runs))
    digest = openssl_speed("sha256")
    ways = [("sign and encrypt", "out", openssl_speed("aes-256-cbc"), "separate", "separate_helped"),
            ("decrypt and verify", "in", openssl_speed("aes-256-cbc", "-decrypt"), "open", "open_helped")]
    rows = []
    for words, direction, cipher, one, two in ways:
        loop, system = rates[f"series_{direction}"]["cpu"], 1 / (1 / digest + 1 / cipher)
        rows.append(row(f"{words}, ceiling: digest and cipher in series, ours", "MB/cpu-s", loop, rival="openssl speed",
                        rival_value=system, runs=runs, more_is_better=True))
        against = {"rival": "ceiling", "rival_value": max(loop, system), "runs": runs, "more_is_better": True}
        rows.append(row(f"{words} in memory, one core", "MB/cpu-s", rates[one]["cpu"], goal=0.85, **against))
        if direction == "out" and rates["supported"]:
            rows.append(row(f"{words} in memory, one core, fused", "MB/cpu-s", rates["fused"]["cpu"], goal=1.4, **against))
        rows.append(row(f"{words} in memory, two cores, the busier thread", "MB/cpu-s", rates[two]["cpu"], goal=1.0, **against))
        rows.append(row(f"{words} in memory, two cores, wall", "MB/s", rates[two]["wall"], goal=1.0, **against))
    return rows


def openssl_speed(*algorithm):
    """MB per CPU second of the system's OpenSSL, in blocks of 64 KiB."""
    text = output("openssl", "speed", "-evp", *algorithm, "-bytes", 65536, "-seconds", 1)
    return float(text.strip().splitlines()[-1].split()[-1].rstrip("k")) / 1000


def same(one, other):
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode == 0
