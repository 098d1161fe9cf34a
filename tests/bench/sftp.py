"""The SFTP door against OpenSSH's sshd with internal-sftp and with sftp-server: one machine, one run, one client.

Every way is measured by turns with OpenSSH's `sftp`, the same key exchange, cipher and file system. What an upload to us
costs includes its SHA-256, the journal and, at CLOSE, the sync to the disk; sshd does none of these. The release delay is a
day, so that no AS2 work begins while we measure. Large files lie on a tmpfs where there is one with room: the servers are
compared, not the disk. Small files lie on the disk, and once more on the tmpfs, which tells what share the syncs have.
"""

import concurrent.futures
import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time

from measure import MIB, by_turns, fail, median, noise, output, row

MANY_FILES = True
KEX = "curve25519-sha256"
# Options of the client. With aes256-ctr it takes the first MAC of its own list that the server has: umac-64-etm from sshd,
# umac-128-etm from us, who have no tags as short as 64 bits. Twice more with a MAC that both have.
CIPHERS = {
    "aes128-gcm": ["Ciphers=aes128-gcm@openssh.com"],
    "chacha20-poly1305": ["Ciphers=chacha20-poly1305@openssh.com"],
    "aes256-ctr": ["Ciphers=aes256-ctr"],
    "aes256-ctr, umac-128": ["Ciphers=aes256-ctr", "MACs=umac-128-etm@openssh.com"],
    "aes256-ctr, hmac-sha2-256": ["Ciphers=aes256-ctr", "MACs=hmac-sha2-256-etm@openssh.com"],
}
WITHOUT_GOAL = ("aes256-ctr, umac-128", "aes256-ctr, hmac-sha2-256")
PAIR = "AS2/send/ALICE/BOB"
TMPFS = pathlib.Path("/dev/shm")
SMALL = 10 * 1024
LISTED = 100_000
BUSY = 20
RIVALS = ("internal-sftp", "sftp-server")


def options(parser):
    parser.add_argument("--quick", action="store_true", help="sftp: small sizes and three runs, to see that it works")
    parser.add_argument("--sftp-size", type=int, default=1024, help="sftp: payload of the large runs in MiB (1024)")
    parser.add_argument("--sftp-only", action="append", choices=sorted(STEPS), help="sftp: only this step; may be given again")


def measure(bench):
    bench.runs = 3 if bench.args.quick else max(bench.args.runs, 5)
    rows = []
    with fast_place(bench) as fast:
        for name, step in STEPS.items():
            if not bench.args.sftp_only or name in bench.args.sftp_only:
                print(f"  {name} …", flush=True)
                rows += step(bench, fast)
    return rows


@contextlib.contextmanager
def fast_place(bench):
    """A scratch directory on the tmpfs if that has room for four large files, else on the disk."""
    room = TMPFS.is_dir() and shutil.disk_usage(TMPFS).free > 4 * bench.args.sftp_size * MIB + (1 << 30)
    with tempfile.TemporaryDirectory(prefix="as2gate-bench-", dir=TMPFS if room else bench.place) as place:
        yield pathlib.Path(place)


# The servers ------------------------------------------------------------------------------------------------------------


class Server:
    """A running server: `with` starts and ends it. `root` is where the client puts files, `user` who logs in."""

    def __init__(self, bench, place):
        self.bench, self.place = bench, place
        place.mkdir(parents=True)
        self.key = place / "client.key"
        output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def tree(self):
        """The server's processes."""
        found, left = [], [self.process.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                left += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def settle(self):
        """Waits until the processes of the last session are gone: then their CPU time is counted."""
        until = time.monotonic() + 10
        while len(self.tree()) > 1 and time.monotonic() < until:
            time.sleep(0.01)

    def cpu(self):
        """CPU seconds of the server and of the children that it has waited for."""
        self.settle()
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """Proportional set size of all processes in MiB."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(text.split("\nPss:")[1].split()[0])
        return total / 1024

    def command(self, cipher="aes128-gcm", *more):
        words = ["BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
                 "UpdateHostKeys=no", "LogLevel=ERROR", f"KexAlgorithms={KEX}", *CIPHERS[cipher]]
        return ["sftp", "-F", "/dev/null", "-q", "-b", "-", "-P", str(self.port), "-i", str(self.key), *more,
                *[word for option in words for word in ("-o", option)], f"{self.user}@127.0.0.1"]

    def open(self, script, cipher="aes128-gcm"):
        """Starts a client with a script."""
        child = subprocess.Popen(self.command(cipher), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        child.stdin.write(script)
        child.stdin.close()
        return child

    def run(self, *scripts, cipher="aes128-gcm"):
        """Runs scripts at the same time, each in a session; wall seconds, and CPU seconds of the server."""
        before, began = self.cpu(), time.monotonic()
        for child in [self.open(script, cipher) for script in scripts]:
            complaint = child.stderr.read()
            if child.wait() != 0:
                fail(f"sftp with {self.name}", complaint)
        wall = time.monotonic() - began
        return wall, self.cpu() - before


class Ours(Server):
    """The gateway."""

    name = "as2gate"
    root = PAIR
    user = "bench"

    def __init__(self, bench, place):
        super().__init__(bench, place)
        self.config = place / "as2gate.toml"
        self.config.write_text('data_dir = "data"\n[uploads]\nrelease_after = "1d"\n[sftp.ban]\nfailures = 0\n[telemetry]\nlisten = ""\nlog = "warn"\n')
        self.gw("init", "--account", "acme")
        for station in ("ALICE", "BOB"):
            self.gw("station", "add", station)
        for station in ("ALICE", "BOB"):
            self.gw("partner", "add", "--from-station", station)
        self.gw("user", "add", self.user, "--public-key", f"{self.key}.pub")

    def gw(self, *words):
        return output(self.bench.gateway, "-c", self.config, *words)

    def start(self):
        with open(self.place / "log", "ab") as log:
            self.process = subprocess.Popen([str(self.bench.gateway), "-c", str(self.config), "serve", "--sftp", "127.0.0.1:0", "--as2", "127.0.0.1:0"],
                                            stdout=subprocess.PIPE, stderr=log, text=True)
        ready = self.process.stdout.readline()
        if " sftp=" not in ready:
            fail("the gateway did not start", (self.place / "log").read_text())
        self.port = int(ready.split(" sftp=")[1].split()[0].rsplit(":", 1)[1])

    def seed(self, count):
        """Receipts of so many messages, by SQL; the directory to list. The gateway must not run."""
        with contextlib.closing(sqlite3.connect(self.place / "data/db/as2gate.db")) as db, db:
            db.executemany("INSERT INTO entry (account, parent, name, area, message, is_dir, size, created) "
                           "VALUES ('acme', 'AS2/raw-mdn/incoming', ?, 'raw-mdn', ?, 0, 1000, 1760000000000)",
                           ((f"{n:026}.mdn", f"{n:026}") for n in range(count)))
        return "AS2/raw-mdn/incoming"


class Sshd(Server):
    """OpenSSH's server of this machine, an instance of its own."""

    def __init__(self, bench, place, subsystem):
        super().__init__(bench, place)
        self.name = subsystem
        self.user = getpass.getuser()
        self.root = place / "files"
        self.root.mkdir()
        output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / "host.key")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        program = subsystem if subsystem == "internal-sftp" else "/usr/lib/openssh/sftp-server"
        (place / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {place}/host.key\nPidFile {place}/pid\n"
            f"AuthorizedKeysFile {self.key}.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 200\nLogLevel ERROR\n"
            # sshd starts a program through the login shell, whose start files are not what we measure.
            f"SetEnv HOME={place}\nSubsystem sftp {program}\n")

    def start(self):
        if os.geteuid() == 0:
            pathlib.Path("/run/sshd").mkdir(exist_ok=True)
        with open(self.place / "log", "ab") as log:
            self.process = subprocess.Popen([shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or fail("sshd", "it is not installed"), "-D", "-e", "-f",
                                             str(self.place / "sshd_config")], stderr=log)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        fail("sshd did not start", (self.place / "log").read_text())

    def seed(self, count):
        target = self.place / "listed"
        target.mkdir()
        for n in range(count):
            os.close(os.open(target / f"{n:026}.mdn", os.O_CREAT | os.O_WRONLY))
        return target


@contextlib.contextmanager
def servers(bench, place, prepare=lambda server: None):
    """All three, running; by name."""
    place = pathlib.Path(tempfile.mkdtemp(dir=place))
    with contextlib.ExitStack() as stack:
        made = [Ours(bench, place / "ours"), *[Sshd(bench, place / rival, rival) for rival in RIVALS]]
        for server in made:
            server.prepared = prepare(server)
        yield {server.name: stack.enter_context(server) for server in made}
    shutil.rmtree(place)


def compared(name, unit, results, goal, runs, of=lambda one: one, more_is_better=False):
    """A row against each rival."""
    ours = median(results["as2gate"], of)
    return [row(name, unit, ours, rival=rival, rival_value=median(results[rival], of), goal=goal, runs=runs, more_is_better=more_is_better)
            for rival in RIVALS]


# The steps --------------------------------------------------------------------------------------------------------------


def large(bench, fast):
    """Put and get of a large file, each cipher. The goal is on the throughput, or, where that is limited by the client, on CPU."""
    size = 128 if bench.args.quick else bench.args.sftp_size
    source, back, rows = fast / "source", fast / "back", []
    noise(source, size * MIB)
    with servers(bench, fast) as doors:
        for cipher in CIPHERS:
            puts, gets = {name: [] for name in doors}, {name: [] for name in doors}

            def turn(server):
                name = f"{server.root}/{cipher.replace(' ', '')}-{len(puts[server.name])}.bin"
                puts[server.name].append(server.run(f"put {source} {name}\n", cipher=cipher))
                gets[server.name].append(server.run(f"get {name} {back}\n", cipher=cipher))
                if subprocess.run(["cmp", "-s", source, back], check=False).returncode != 0:
                    fail(f"get with {server.name}", "the bytes differ from what was put")
                server.run(f"rm {name}\n")

            by_turns(bench.runs, **{name: (lambda server=server: turn(server)) for name, server in doors.items()})
            for what, results in (("put", puts), ("get", gets)):
                rows += either(f"{what} {size} MiB {cipher}", size, results, bench.runs, cipher not in WITHOUT_GOAL)
    source.unlink()
    back.unlink()
    return rows


def either(name, size, results, runs, goals):
    """Throughput and CPU against each rival; the goal is on the CPU where the throughput does not reach 1.5."""
    rate = compared(f"{name}, throughput", "MB/s", results, 1.5 if goals else None, runs, lambda one: size * MIB / 1e6 / one[0], True)
    work = compared(f"{name}, server CPU", "s", results, 1 / 0.6 if goals else None, runs, lambda one: one[1])
    for fast, frugal in zip(rate, work):
        spare = frugal if fast["met"] else fast
        spare["goal"] = spare["met"] = None
    return rate + work


def small(bench, fast):
    """Many small files: one batch, and twenty sessions; on the disk, and on the tmpfs to tell the share of the syncs. On the disk
    also with a client that makes sshd sync, which compares like with like."""
    count, sessions, each = (200, 10, 20) if bench.args.quick else (1000, 20, 100)
    rows, walls = [], {}
    for disk, place in (("disk", bench.place), ("tmpfs", fast)):
        source = place / "small"
        for n in range(count + sessions * each):
            folder = source / ("batch" if n < count else f"s{(n - count) // each}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"f{n}.edi").write_bytes(os.urandom(SMALL))

        def batches(server, names, put):
            """Puts these folders, each in a session; a rate. Cleans up behind itself."""
            wall, _ = server.run(*[f"{put} {source}/{name}/* {server.root}/\n" for name in names])
            server.run(*[f"rm {server.root}/*\n"])
            return sum(len(os.listdir(source / name)) for name in names) / wall

        many = [f"s{n}" for n in range(sessions)]
        ways = [(f"{count} files of 10 KiB in one batch", ["batch"], "put", 1.0),
                (f"{sessions} sessions x {each} files of 10 KiB", many, "put", 1.0)]
        if disk == "disk":
            # With -f the client asks for a sync before each CLOSE: then sshd's files are durable too.
            ways += [(f"{what}, sshd syncs too", names, "put -f", None) for what, names, _, _ in ways]
        with servers(bench, place) as doors:
            for what, names, put, goal in ways:
                results = by_turns(bench.runs, **{name: (lambda server=server: batches(server, names, put)) for name, server in doors.items()})
                rows += compared(f"{what}, {disk}", "files/s", results, goal if disk == "disk" else None, bench.runs, more_is_better=True)
                walls[what, disk] = 1 / median(results["as2gate"])
        shutil.rmtree(source)
    for what in (what for what, disk in walls if disk == "tmpfs"):
        share = 1 - walls[what, "tmpfs"] / walls[what, "disk"]
        rows.append(row(f"{what}, share of syncs and disk in our time", "%", 100 * share, runs=bench.runs))
    return rows


def connections(bench, _fast):
    """Connection, login and one put of a small file, eight at a time."""
    count = 40 if bench.args.quick else 160
    source = bench.place / "one.edi"
    source.write_bytes(os.urandom(SMALL))
    with servers(bench, bench.place) as doors, concurrent.futures.ThreadPoolExecutor(8) as pool:
        turn = iter(range(1 << 30))

        def one(server, name):
            child = server.open(f"put {source} {server.root}/{name}.edi\n")
            complaint = child.stderr.read()
            if child.wait() != 0:
                fail(f"sftp with {server.name}", complaint)

        def burst(server):
            run, before, began = next(turn), server.cpu(), time.monotonic()
            for done in [pool.submit(one, server, f"c{run}-{n}") for n in range(count)]:
                done.result()
            return count / (time.monotonic() - began), (server.cpu() - before) / count * 1000

        results = by_turns(bench.runs, **{name: (lambda server=server: burst(server)) for name, server in doors.items()})
    return (compared("connection, login and one put, 8 in parallel", "1/s", results, 1.5, bench.runs, lambda one: one[0], True)
            + compared("connection, login and one put, server CPU", "ms", results, None, bench.runs, lambda one: one[1]))


def memory(bench, fast):
    """The most memory with twenty sessions that all upload."""
    size = 16 if bench.args.quick else 64
    source = fast / "busy"
    noise(source, size * MIB)

    def busy(server):
        server.settle()
        children = [server.open(f"put {source} {server.root}/busy-{n}.bin\nrm {server.root}/busy-{n}.bin\n") for n in range(BUSY)]
        peak = 0
        while any(child.poll() is None for child in children):
            peak = max(peak, server.memory())
            time.sleep(0.1)
        if any(child.wait() != 0 for child in children):
            fail(f"sftp with {server.name}", children[0].stderr.read())
        return peak

    with servers(bench, fast) as doors:
        results = by_turns(min(bench.runs, 5), **{name: (lambda server=server: busy(server)) for name, server in doors.items()})
    source.unlink()
    return compared(f"memory with {BUSY} sessions uploading (PSS)", "MiB", results, 1.0, bench.runs)


def listing(bench, fast):
    """A directory of 100,000 entries. Ours comes from the journal: receipts, seeded by SQL before the start."""
    count = LISTED // 10 if bench.args.quick else LISTED
    with servers(bench, fast, lambda server: server.seed(count)) as doors:
        results = by_turns(bench.runs, **{name: (lambda server=server: server.run(f"ls -1f {server.prepared}\n")) for name, server in doors.items()})
    return (compared(f"listing of {count:,} entries", "entries/s", results, 1.0, bench.runs, lambda one: count / one[0], True)
            + compared(f"listing of {count:,} entries, server CPU", "s", results, None, bench.runs, lambda one: one[1]))


STEPS = {"large": large, "small": small, "connections": connections, "memory": memory, "listing": listing}
