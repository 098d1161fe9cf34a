"""One large file: sign and encrypt, decrypt and verify, ours and `openssl cms` by turns, and a smaller one beside pyas2lib; and the
kernels in memory."""

import json
import shutil
import subprocess

from measure import MIB, ROOT, by_turns, cost_rows, fail, median, noise, output, row, run


PYAS2 = ROOT / "tests/python/pyas2_bulk.py"
# pyas2lib holds a message several times over, so its runs are smaller.
PYTHON_SIZE = 128


def options(parser):
    parser.add_argument("--size", type=int, default=1024, help="payload of the bulk runs in MiB (1024)")


def measure(bench):
    make_keys(bench.place / "keys")
    # Packaging by openssl with -stream is as frugal as it gets; near it is good enough.
    return (files(bench, bench.args.size, "openssl cms", Openssl(bench), {"pack": (1.5, 0.2), "unpack": (5.0, 20.0)})
            + files(bench, min(bench.args.size, PYTHON_SIZE), "pyas2lib", Pyas2(bench), {"pack": (1.0, 1.0), "unpack": (1.0, 1.0)})
            + kernels(bench))


def make_keys(keys):
    """RSA 3072, as `station add` makes them; PEM for openssl, DER for the example program."""
    keys.mkdir(parents=True)
    for name in ("alice", "bob"):
        pem, der = keys / f"{name}.pem", keys / name
        output("openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-sha256", "-days", "30", "-subj", f"/CN={name}",
               "-keyout", f"{pem}.key", "-out", pem)
        output("openssl", "x509", "-in", pem, "-outform", "DER", "-out", f"{der}.cer")
        output("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", f"{pem}.key", "-outform", "DER", "-out", f"{der}.key")


class Openssl:
    """`openssl cms`, in two steps each way, as it has to be used."""

    def __init__(self, bench):
        self.keys, self.signed, self.body, self.back = (bench.place / name for name in ("keys", "signed", "theirs", "verified"))

    def pack(self, payload):
        sign = run("openssl", "cms", "-sign", "-stream", "-binary", "-md", "sha256", "-in", payload, "-signer", self.keys / "alice.pem",
                   "-inkey", self.keys / "alice.pem.key", "-out", self.signed)
        return sign.then(run("openssl", "cms", "-encrypt", "-stream", "-binary", "-aes256", "-in", self.signed, "-outform", "DER",
                             "-out", self.body, self.keys / "bob.pem"))

    def unpack(self):
        decrypt = run("openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", self.body, "-recip", self.keys / "bob.pem",
                      "-inkey", self.keys / "bob.pem.key", "-out", self.signed)
        return decrypt.then(run("openssl", "cms", "-verify", "-binary", "-noverify", "-certfile", self.keys / "alice.pem",
                                "-in", self.signed, "-out", self.back))


class Pyas2:
    """pyas2lib, each way in a process of its own."""

    def __init__(self, bench):
        self.command = [bench.python(), PYAS2]
        self.keys, self.body, self.back = (bench.place / name for name in ("keys", "theirs", "verified"))

    def pack(self, payload):
        return run(*self.command, "compose", self.keys, payload, self.body)

    def unpack(self):
        return run(*self.command, "open", self.keys, self.body, self.back)


def files(bench, size, rival, other, goals):
    """From file to file, by turns with the rival `other`. Goals are of speed (throughput and CPU) and of memory."""
    place, runs = bench.place, bench.args.runs
    keys, payload, body = (place / name for name in ("keys", "payload", "body"))
    noise(payload, size * MIB)

    def pack():
        return run(bench.example, "compose", keys, payload, body)

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
        cost = other.unpack()
        # openssl's content is the MIME part, with the payload at its end.
        if other.back.stat().st_size < payload.stat().st_size:
            fail(rival, "what it verified is shorter than the payload")
        return cost

    costs = by_turns(runs, pack=pack, pack_rival=lambda: other.pack(payload), unpack=unpack, unpack_rival=unpack_rival)
    rows = []
    for what, words in (("pack", "sign and encrypt"), ("unpack", "decrypt and verify")):
        (goal, frugal), ours, others = goals[what], costs[what], costs[f"{what}_rival"]
        name = f"{words} {size} MiB"
        rate = lambda cost: size * MIB / 1e6 / cost.wall
        rows.append(row(f"{name}, throughput", "MB/s", median(ours, rate), rival=rival, rival_value=median(others, rate),
                        goal=goal, runs=runs, more_is_better=True))
        rows += cost_rows(name, ours, others, rival, runs, cpu_goal=goal, memory_goal=frugal)
    return rows


def kernels(bench):
    """From memory to memory, without any file: one core and two, against digest and cipher in series on one core.

    The ceiling is the higher of two figures: OpenSSL's two primitives over the same pieces in the same program, and what
    `openssl speed` of the system says for each, in series; by turns, since the machine is not equally fast all the time.
    """
    runs = max(bench.args.runs, 5)
    results = by_turns(runs, ours=lambda: json.loads(output(bench.example, "speed", bench.place / "keys", bench.args.size)),
                       digest=lambda: openssl_speed("sha256"), encrypt=lambda: openssl_speed("aes-256-cbc"),
                       decrypt=lambda: openssl_speed("aes-256-cbc", "-decrypt"))
    digest, encrypt, decrypt = (median(results[what]) for what in ("digest", "encrypt", "decrypt"))

    def rate(way, clock="cpu"):
        return median(results["ours"], lambda rates: rates[way][clock])

    # SHA-256 is a chain, and CBC decryption is none: fused, opening can gain no more than its share, a fifth or so.
    ways = [("sign and encrypt", "out", encrypt, "separate", "fused", 1.4, "separate_helped"),
            ("decrypt and verify", "in", decrypt, "open", "open_fused", 1.0, "open_helped")]
    rows = []
    for words, direction, cipher, one, fused, goal, two in ways:
        loop, system = rate(f"series_{direction}"), 1 / (1 / digest + 1 / cipher)
        rows.append(row(f"{words}, ceiling: digest and cipher in series, ours", "MB/cpu-s", loop, rival="openssl speed",
                        rival_value=system, runs=runs, more_is_better=True))
        against = {"rival": "ceiling", "rival_value": max(loop, system), "runs": runs, "more_is_better": True}
        rows.append(row(f"{words} in memory, one core", "MB/cpu-s", rate(one), goal=0.85, **against))
        if results["ours"][0]["supported"]:
            rows.append(row(f"{words} in memory, one core, fused", "MB/cpu-s", rate(fused), goal=goal, **against))
        rows.append(row(f"{words} in memory, two cores, the busier thread", "MB/cpu-s", rate(two), goal=1.0, **against))
        rows.append(row(f"{words} in memory, two cores, wall", "MB/s", rate(two, "wall"), goal=1.0, **against))
    return rows


def openssl_speed(*algorithm):
    """MB per CPU second of the system's OpenSSL, in blocks of 64 KiB."""
    text = output("openssl", "speed", "-evp", *algorithm, "-bytes", 65536, "-seconds", 1)
    return float(text.strip().splitlines()[-1].split()[-1].rstrip("k")) / 1000


def same(one, other):
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode == 0
