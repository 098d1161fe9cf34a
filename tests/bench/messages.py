"""Small messages between two gateways on this machine: 10 KiB, signed and encrypted, each with a signed sync MDN, 32 in flight.

Both from folder to folder: the files are in the sender's folder before the clock runs, which goes from the first verified receipt
to the last. Ours are put by OpenSSH's sftp into ALICE, whose release delay has them wait until the last is there; all that follows
is durable. OpenAS2's are renamed into its outbox. Its poller works on the files of one outbox, as a partner has, one after the other;
once more at its best, with the files spread over 32 outboxes. It polls every second, its least; it runs without its tracking database,
keeps nothing but files, and syncs none. Ours once more with the puts in it: without a release delay, from the first accept to the last
delivery, while the clients take their share of the cores. Both have RSA-2048 keys, and both are warm. They are measured by turns.

The RSA ceiling is what all cores could do if they did nothing but the three private-key operations of a message: sign it, decrypt
it, sign its MDN. Syncs (fsync, fdatasync, syncfs) are counted by `perf stat`, in a run of its own; without it these rows are left out.
"""

import contextlib
import datetime
import os
import pathlib
import shutil
import subprocess
import sys
import time

from measure import ROOT, by_turns, cpu_seconds, fail, median, memory, output, reset_peak, rest, row
from pair import Pair
from rate import RIVAL, make_keys, rsa_seconds

MANY_FILES = True
SIZE = 10 * 1024
IN_FLIGHT = 32
# More sessions than one user may open at once would be refused.
SESSIONS = 8
WARM_UP = 640
SYNCS = ("fsync", "fdatasync", "syncfs")
# Seconds in which all files of a run are put.
DELAY = 4
NAME = f"10 KiB messages, folder to signed MDN, two gateways, {IN_FLIGHT} in flight"
WITH_PUTS = f"10 KiB messages, put to signed MDN, two gateways, {IN_FLIGHT} in flight"


def options(parser):
    parser.add_argument("--messages", type=int, default=1600, help="small messages of each run (1600)")


def measure(bench):
    with Ours(bench, DELAY) as ours, Ours(bench, 0) as putting, Theirs(bench) as theirs:
        for side in (ours, putting, theirs):
            side.load(WARM_UP)
        count, runs = bench.args.messages, bench.args.runs
        got = by_turns(runs, rsa=rsa_seconds, ours=lambda: ours.load(count), putting=lambda: putting.load(count), theirs=lambda: theirs.load(count),
                       shipped=lambda: theirs.load(count // 4, outboxes=1))
        syncs = ours.syncs(count)
    ceiling = os.cpu_count() / (3 * median(got["rsa"]))
    of = lambda figure, whose="theirs", rival=RIVAL, who="ours": {
        "ours": median(got[who], lambda load: load[figure]), "rival": rival,
        "rival_value": median(got[whose], lambda load: load[figure]), "runs": runs}
    rows = [
        row(NAME, "messages/s", **of("rate", "shipped", f"{RIVAL}, one outbox"), goal=10.0, more_is_better=True),
        row(NAME, "messages/s", **of("rate", rival=f"{RIVAL}, {IN_FLIGHT} outboxes"), more_is_better=True),
        row(WITH_PUTS, "messages/s", **of("rate", "shipped", f"{RIVAL}, one outbox, without puts", "putting"), more_is_better=True),
        row(f"{NAME}, CPU of both", "ms/message", **of("cpu_ms")),
        row(f"{NAME}, peak memory of both", "MiB", **of("peak")),
        row(f"{NAME}, share of the RSA ceiling", "%", 100 * of("rate")["ours"] / ceiling, goal=50.0, runs=runs, more_is_better=True),
    ]
    rows += [row(f"{NAME}, CPU of the {who}", "ms/message", median(got["ours"], lambda load: load["each"][side]), runs=runs)
             for side, who in (("alice", "sender"), ("bob", "receiver"))]
    rows += [row(f"{NAME}, syncs of the {who}", "syncs/message", syncs[side])
             for side, who in (("alice", "sender"), ("bob", "receiver")) if side in syncs]
    return rows


class Side:
    """Two running gateways; `pids` has the processes by name."""

    def load(self, count, **how):
        """Sends so many messages, and tells what they cost once everything rests."""
        for pid in self.pids.values():
            reset_peak(pid)
        before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        rate = self.send(count, **how)
        rest(*self.pids.values())
        each = {name: 1000 * (cpu_seconds(pid) - before[name]) / count for name, pid in self.pids.items()}
        return {"rate": rate, "each": each, "cpu_ms": sum(each.values()), "peak": sum(map(memory, self.pids.values()))}


class Ours(Side):
    """`delay`: seconds for which a file waits in its folder."""

    def __init__(self, bench, delay):
        place = bench.place / f"delay-{delay}"
        self.delay, self.source, self.sent, self.turn = delay, place / "source", 0, 0
        self.pair = Pair(bench, place / "pair", "rsa-2048", UPLOADS__RELEASE_AFTER=f"{delay}s", AS2__SEND_WORKERS=str(IN_FLIGHT))

    def __enter__(self):
        self.pair.__enter__()
        self.pair.gw("alice", "partner", "set", "BOB", "--max-parallel", IN_FLIGHT)
        self.pids = self.pair.pids
        return self

    def __exit__(self, *_):
        self.pair.__exit__()

    def send(self, count):
        self.turn += 1
        places = [self.source / f"{self.turn}-{session}" for session in range(SESSIONS)]
        for place in places:
            place.mkdir(parents=True)
        for n in range(count):
            (places[n % SESSIONS] / f"order-{self.turn}-{n:05}.edi").write_bytes(os.urandom(SIZE))
        self.pair.put("alice", *[f"put {place}/* AS2/send/ALICE/BOB/\n" for place in places])
        # Nothing rests before the first of them goes out.
        time.sleep(self.delay)
        self.sent += count
        batch = [m for m in self.pair.delivered(self.sent) if m["file"].startswith(f"order-{self.turn}-")]
        if len(batch) != count:
            fail("messages are missing", f"{len(batch)} of {count} are listed")
        created, finished = ([seconds(m[moment]) for m in batch] for moment in ("created", "finished"))
        if not self.delay:
            return count / (max(finished) - min(created))
        if max(created) > min(finished):
            fail(f"{count} puts took longer than the {self.delay} s of the release delay", "a quieter machine, or fewer --messages")
        return (count - 1) / (max(finished) - min(finished))

    def syncs(self, count):
        """Syncs for each message, by name; nothing where `perf` may not count them."""
        events = [word for call in SYNCS for word in ("-e", f"syscalls:sys_enter_{call}")]
        if not shutil.which("perf"):
            return {}
        counters = {name: subprocess.Popen(["perf", "stat", "-x", ",", *events, "-p", str(pid)], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE, text=True) for name, pid in self.pids.items()}
        time.sleep(1)
        if any(counter.poll() is not None for counter in counters.values()):
            return {}
        self.load(count)
        for counter in counters.values():
            counter.send_signal(2)
        texts = {name: counter.communicate()[1] for name, counter in counters.items()}
        lines = {name: [line.split(",")[0] for line in text.splitlines() if "sys_enter_" in line] for name, text in texts.items()}
        return {name: sum(map(int, found)) / count for name, found in lines.items()}


class Theirs(Side):
    def __init__(self, bench):
        self.bench, self.place, self.turn = bench, bench.place / "rival", 0

    def __enter__(self):
        sys.path.insert(0, str(ROOT / "tests/interop"))
        import cases
        import products
        tools = self.bench.args.target / "interop/tools"
        output(ROOT / "tests/interop/setup.sh", tools)

        class OpenAs2(products.OpenAs2):
            """With the keys of both sides: one server sends as OA…, the other receives as GATE."""

            def stores(self):
                super().stores()
                self.store_key("certs.p12", "gate", "GATE.peer")

        # `size`: the MIME headers of its pollers' files as they are sent.
        self.cases = [cases.Case(id=f"bench{n}", size=SIZE) for n in range(IN_FLIGHT)]
        keys = self.place / "keys"
        make_keys(keys)
        self.servers = {}
        url = "http://127.0.0.1:9/"
        with contextlib.ExitStack() as stack:
            for name in ("receiver", "sender"):
                home = self.place / name
                home.mkdir()
                for stem, key in (("GATE.own", "sender"), ("tls", "sender"), ("GATE.peer", "receiver")):
                    for end in ("key", "crt"):
                        shutil.copy(keys / f"{key}.{end}", home / f"{stem}.{end}")
                for file, key in (("GATE.pem", "receiver"), ("gateway-tls.pem", "receiver")):
                    shutil.copy(keys / f"{key}.crt", home / file)
                product = OpenAs2(str(home), str(tools))
                stack.callback(product.stop)
                product.start(self.cases, {case: url for case in self.cases})
                self.servers[name] = product.servers[0]
                url = product.url(self.cases[0])
            self.pids = {name: server.process.pid for name, server in self.servers.items()}
            self.stop = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stop.close()

    def send(self, count, outboxes=IN_FLIGHT):
        self.turn += 1
        home = pathlib.Path(self.servers["sender"].home)
        staged = home / "staged"
        staged.mkdir(exist_ok=True)
        for n in range(count):
            (staged / f"order-{self.turn}-{n:05}.edi").write_bytes(os.urandom(SIZE))
        for n in range(count):
            name = f"order-{self.turn}-{n:05}.edi"
            (staged / name).rename(home / "outbox" / self.cases[n % outboxes].id / name)
        until = time.monotonic() + 600
        while True:
            # A file is in `sent` once its receipt is verified; the rename into it changes st_ctime.
            ends = sorted(file.stat().st_ctime for file in (home / "sent").glob(f"*/order-{self.turn}-*"))
            if len(ends) == count:
                return (count - 1) / (ends[-1] - ends[0])
            if time.monotonic() > until:
                fail(f"OpenAS2 sent {len(ends)} of {count} messages in 600 s", (home / "peer.log").read_text(errors="replace")[-2000:])
            time.sleep(0.5)


def seconds(stamp):
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
