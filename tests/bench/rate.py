"""Inbound small messages: 10 KiB, signed and encrypted, each answered with a signed sync MDN; ours and OpenAS2's receiver by turns.

Both have RSA-2048 keys, take the same message from the same client (replay.py) and write to the same disk. OpenAS2 runs twice: with
its tracking database, as its distribution is set up, and without, which is faster; it syncs nothing, ours answers only what is
durable. `on tmpfs` is ours once more with its data directory in memory, where a sync costs nothing: the price of durability is the
difference. CPU is counted until the process rests, so that what it does after the answers counts too. Syncs are counted with strace
where it is installed, in a load of their own, which it slows down.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from measure import ROOT, by_turns, cpu_seconds, fail, median, memory, output, reset_peak, rest, row
from replay import Client, Message, replay

MANY_FILES = True
SIZE = 10 * 1024
CONNECTIONS = (8, 32)
RIVAL = "OpenAS2 2.10.1"
SYNCS = "fsync,fdatasync,syncfs,sync_file_range,msync"


def options(parser):
    parser.add_argument("--inbound", type=int, default=2000, help="messages of each inbound run (2000)")


def measure(bench):
    keys = bench.place / "keys"
    make_keys(keys)
    payload = os.urandom(SIZE)
    rows = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as in_memory:
        receivers = {}
        try:
            receivers["ours"] = Gate(bench, bench.place / "disk", keys, payload)
            receivers["tmpfs"] = Gate(bench, pathlib.Path(in_memory) / "gate", keys, payload)
            receivers["rival"] = Rival(bench, bench.place / "rival", keys, payload, tracking=True)
            receivers["untracked"] = Rival(bench, bench.place / "untracked", keys, payload, tracking=False)
            for receiver in receivers.values():
                receiver.load(500, 8)
            for connections in CONNECTIONS:
                ways = {name: lambda r=receiver: r.load(bench.args.inbound, connections) for name, receiver in receivers.items()}
                rows += of_connections(connections, by_turns(bench.args.runs, rsa=rsa_seconds, **ways), bench.args.runs)
                rows += of_syncs(connections, receivers["ours"])
        finally:
            for receiver in receivers.values():
                receiver.stop()
    return rows


def make_keys(keys):
    """RSA-2048 and a certificate for the sender and for the receiver."""
    keys.mkdir(parents=True)
    for name in ("sender", "receiver"):
        output("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "10", "-subj", f"/CN={name}",
               "-keyout", keys / f"{name}.key", "-out", keys / f"{name}.crt")


def of_connections(connections, got, runs):
    """Two private-key operations of RSA-2048 belong to a message: decrypt it, sign its MDN.

    What such an operation takes is measured by turns too: a host shared with others is now fast, now slow.
    """
    name = f"10 KiB inbound, {connections} connections"
    rate, cpu = (lambda load: load["rate"]), (lambda load: load["cpu_ms"])
    ours, rsa = got["ours"], median(got["rsa"])
    rivals = ((f"{RIVAL} with its tracking", got["rival"], 5.0), (f"{RIVAL} without tracking", got["untracked"], None))
    ceiling = os.cpu_count() / (2 * rsa)
    return [
        *[row(name, "messages/s", median(ours, rate), rival=title, rival_value=median(rival, rate), goal=goal, runs=runs,
              more_is_better=True) for title, rival, goal in rivals],
        row(f"{name}, CPU", "ms/message", median(ours, cpu), goal=1.0, runs=runs),
        # The goal of 1 ms was set where an operation takes 0.265 ms.
        row(f"{name}, CPU in private-key operations", "1/message", median(ours, cpu) / (1000 * rsa), goal=1.0 / 0.265, runs=runs),
        *[row(f"{name}, CPU against the rival's", "ms/message", median(ours, cpu), rival=title, rival_value=median(rival, cpu), runs=runs)
          for title, rival, _ in rivals],
        row(f"{name}, without durability (tmpfs)", "messages/s", median(got["tmpfs"], rate), runs=runs, more_is_better=True),
        row(f"{name}, without durability (tmpfs), CPU", "ms/message", median(got["tmpfs"], cpu), runs=runs),
        row(f"{name}, share of the RSA ceiling", "%", 100 * median(ours, rate) / ceiling, runs=runs, more_is_better=True),
        *[row(f"{name}, peak memory", "MiB", median(ours, lambda load: load["peak"]), rival=title,
              rival_value=median(rival, lambda load: load["peak"]), runs=runs) for title, rival, _ in rivals],
    ]


def of_syncs(connections, ours, count=500):
    """How many syncs a message costs, once everything has come to rest."""
    if not shutil.which("strace"):
        return []
    command = ["strace", "-f", "-c", "-e", f"trace={SYNCS}", "-p", str(ours.pid)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as trace:
        # It says so once it is attached.
        attached = trace.stderr.readline()
        ours.load(count, connections)
        trace.send_signal(signal.SIGINT)
        text = attached + trace.stderr.read()
    # Columns: % time, seconds, usecs/call, calls, errors if there are any, syscall.
    calls = [int(words[3]) for words in map(str.split, text.splitlines()) if len(words) >= 5 and words[-1] in SYNCS.split(",")]
    if not calls:
        fail("strace counted no syncs", text)
    return [row(f"10 KiB inbound, {connections} connections, syncs (traced)", "1/message", sum(calls) / count)]


def rsa_seconds():
    """Seconds of one private-key operation of RSA-2048 on one core, as `openssl speed` has it."""
    line = next(line for line in output("openssl", "speed", "-mr", "-seconds", "1", "rsa2048").splitlines() if line.startswith("+F2:"))
    figure = float(line.split(":")[3])
    # Older versions give seconds, newer ones operations a second.
    return figure if figure < 1 else 1 / figure


class Receiver:
    """A running receiver: `pid`, `port`, `path`, `message`."""

    def load(self, count, connections):
        reset_peak(self.pid)
        before = cpu_seconds(self.pid)
        wall = replay(("127.0.0.1", self.port), self.path, self.message, count, connections)
        rest(self.pid)
        return {"rate": count / wall, "cpu_ms": 1000 * (cpu_seconds(self.pid) - before) / count, "peak": memory(self.pid)}


class Gate(Receiver):
    path = "/as2"

    def __init__(self, bench, place, keys, payload):
        place.mkdir(parents=True)
        self.port = free_port()
        call = lambda *words: subprocess.run([bench.gateway, "-q", *map(str, words)], cwd=place, check=True, capture_output=True, text=True).stdout
        call("init", "--account", "acme")
        (place / "as2gate.toml").write_text(
            f'data_dir = "data"\nas2.listen = ["127.0.0.1:{self.port}"]\nsftp.listen = ["127.0.0.1:0"]\ntelemetry.listen = ""\n')
        call("station", "add", "GATE", "--key", "rsa-2048")
        (place / "gate.crt").write_text(call("cert", "export", json.loads(call("station", "show", "GATE", "-o", "json"))["certificate"]))
        pem = json.dumps((keys / "sender.crt").read_text())
        (place / "objects.toml").write_text(
            f'[[certificate]]\naccount = "acme"\nname = "peer"\npurpose = "partner"\nowner = "PEER"\npem = {pem}\n'
            '[[partner]]\naccount = "acme"\nas2_id = "PEER"\nurl = "http://127.0.0.1:9/"\nprivate = true\n'
            'sign_certificate = ["peer"]\nencrypt_certificate = "peer"\n')
        call("apply", "-f", "objects.toml")
        self.message = Message("PEER", "GATE", payload, keys / "sender.key", keys / "sender.crt", place / "gate.crt")
        self.process = subprocess.Popen([bench.gateway, "serve"], cwd=place, stdout=open(place / "serve.log", "wb"), stderr=subprocess.STDOUT)
        self.pid = self.process.pid
        wait_for(self.port, place / "serve.log")

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Rival(Receiver):
    path = "/"

    def __init__(self, bench, place, keys, payload, tracking):
        sys.path.insert(0, str(ROOT / "tests/interop"))
        import cases
        import products
        tools = bench.args.target / "interop/tools"
        output(ROOT / "tests/interop/setup.sh", tools)
        place.mkdir(parents=True)
        for end in ("key", "crt"):
            for name in ("GATE.own", "tls"):
                shutil.copy(keys / f"receiver.{end}", place / f"{name}.{end}")
        for name in ("GATE.pem", "gateway-tls.pem"):
            shutil.copy(keys / "sender.crt", place / name)
        case = cases.Case(id="bench")
        self.product = products.OpenAs2(str(place), str(tools), tracking)
        self.product.start([case], {case: "http://127.0.0.1:9/"})
        self.pid, self.port = self.product.servers[0].process.pid, self.product.port(case)
        self.message = Message("GATE", self.product.id(case), payload, keys / "sender.key", keys / "sender.crt", keys / "receiver.crt")
        wait_for(self.port, place / "peer.log")

    def stop(self):
        self.product.stop()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(port, log):
    for _ in range(200):
        try:
            return Client(("127.0.0.1", port)).sock.close()
        except OSError:
            time.sleep(0.1)
    fail(f"nothing answers on port {port}", log.read_text(errors="replace"))
