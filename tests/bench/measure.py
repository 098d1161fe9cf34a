"""What every part of the bench shares: what a command or a running process cost, rows, and the table of them.

A part is a module beside run.py with a function `measure(bench)` that gives rows; see `row`. Two things that are compared are
measured by turns (`by_turns`), so that a busy machine hits both.
"""

import dataclasses
import hashlib
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass
class Bench:
    """What a part is given: the options of run.py, and a scratch directory of its own that is removed afterwards."""

    args: object
    place: pathlib.Path

    @property
    def gateway(self):
        """The binary as2gate."""
        return self.args.target / "release/as2gate"

    @property
    def example(self):
        """The program as2-core/examples/bulk.rs."""
        return self.args.target / "release/examples/bulk"

    def python(self):
        """The interpreter with pyas2lib and paramiko."""
        return output(ROOT / "tests/python/setup.sh", self.args.target / "python-peer").strip().splitlines()[-1]


@dataclasses.dataclass
class Measured:
    """What something cost: wall seconds, CPU seconds (user and system), peak memory in MiB, and what it printed."""

    wall: float
    cpu: float
    peak: float
    text: str = ""

    def then(self, other):
        return Measured(self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak), self.text + other.text)


def run(*command, cwd=None, env=None, cores=None):
    """Runs a command to its end and measures it; on `cores` (such as {0}) only, if given."""
    began = time.monotonic()
    limit = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd,
                          env=env and dict(os.environ, **env), preexec_fn=limit) as child:
        peak, texts = [0], [b"", b""]
        threads = [threading.Thread(target=watch, args=(child.pid, peak))]
        threads += [threading.Thread(target=drain, args=(pipe, texts, i)) for i, pipe in enumerate((child.stdout, child.stderr))]
        for thread in threads:
            thread.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        for thread in threads:
            thread.join()
    if child.returncode != 0:
        fail(f"{' '.join(map(str, command))}", texts[1].decode(errors="replace"))
    return Measured(wall, usage.ru_utime + usage.ru_stime, peak[0] / 1024, texts[0].decode(errors="replace"))


def drain(pipe, texts, i):
    texts[i] = pipe.read()


def watch(pid, peak):
    """Follows a process's VmHWM. wait4's own figure would count the memory of the Python that it was forked from."""
    try:
        while True:
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
                text = status.read()
            # Until the child has become the command, it shows our own memory.
            if "VmHWM:" in text and not text.startswith("Name:\tpython3\n"):
                peak[0] = max(peak[0], int(text.split("VmHWM:")[1].split()[0]))
            elif "State:\tZ" in text:
                return
            time.sleep(0.003)
    except (FileNotFoundError, ProcessLookupError):
        return


def output(*command):
    """What a command prints; for preparations, which are not measured."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        fail(" ".join(map(str, command)), done.stderr)
    return done.stdout


def noise(path, size):
    """Fills a file with so many bytes, no two MiB of them alike; their SHA-256."""
    block, digest = os.urandom(MIB), hashlib.sha256()
    with open(path, "wb") as file:
        for n in range(0, size, MIB):
            piece = (n.to_bytes(8, "big") + block[8:])[:size - n]
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def fail(what, why):
    sys.exit(f"error: {what}\nwhy:   {why.strip()[-2000:]}")


def cpu_seconds(pid):
    """User and system seconds of a running process, without its children."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid, what="VmHWM"):
    """A figure of /proc/PID/status in MiB: VmHWM is the peak, VmRSS the present."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return int(file.read().split(f"{what}:")[1].split()[0]) / 1024


def reset_peak(pid):
    """Begins VmHWM anew."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def rest(*pids):
    """Waits until these processes together use less than a twentieth of a core, half a minute at most."""
    used = lambda: sum(map(cpu_seconds, pids))
    last = used()
    for _ in range(60):
        time.sleep(0.5)
        now = used()
        if now - last < 0.025:
            return
        last = now


def by_turns(runs, **ways):
    """Calls each way once a turn, `runs` turns; gives the results of each way in a list, under its name.

    What one has written goes to the disk before the next begins: the next one's syncs would pay for it.
    """
    results = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            os.sync()
            results[name].append(way())
    return results


def median(runs, of=lambda run: run):
    return statistics.median(of(run) for run in runs)


def row(name, unit, ours, *, rival=None, rival_value=None, goal=None, runs=1, more_is_better=False):
    """One line of the table.

    `ratio` is ours against the rival's, written so that more is better. `goal` is the least ratio; without a rival it is the
    least of our own figure, or, where less is better, the most. Without a goal the line is for information.
    """
    ratio = met = None
    if rival_value is not None:
        ratio = ours / rival_value if more_is_better else rival_value / ours
    if goal is not None:
        reached = ours if ratio is None else ratio
        met = reached <= goal if ratio is None and not more_is_better else reached >= goal
    return {"name": name, "unit": unit, "ours": digits(ours), "rival": rival, "rival_value": digits(rival_value),
            "ratio": digits(ratio), "goal": goal, "met": met, "runs": runs, "more_is_better": more_is_better}


def digits(value):
    return None if value is None else round(float(value), 3)


def cost_rows(name, ours, theirs, rival, runs, cpu_goal=None, memory_goal=None):
    """CPU seconds and peak memory of two lists of `Measured` as two rows."""
    of = {"CPU": ("s", lambda m: m.cpu, cpu_goal), "peak memory": ("MiB", lambda m: m.peak, memory_goal)}
    return [row(f"{name}, {what}", unit, median(ours, figure), rival=rival, rival_value=median(theirs, figure), goal=goal, runs=runs)
            for what, (unit, figure, goal) in of.items()]


def goal_text(line):
    if line["goal"] is None:
        return None
    sign = ">=" if line["ratio"] is not None or line["more_is_better"] else "<="
    return f"{sign} {line['goal']:g}{' x' if line['ratio'] is not None else ''}"


def table(rows):
    """Prints the rows, and which goals were missed."""

    def cell(value):
        return "–" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)

    head = ("name", "unit", "ours", "rival", "rival_value", "ratio", "goal", "runs")
    lines = [head] + [tuple(cell(goal_text(r) if column == "goal" else r[column]) for column in head) for r in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        texts = [text.ljust(w) if i in (0, 1, 3) else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths))]
        print("  ".join(texts).rstrip())
    goals = [r for r in rows if r["met"] is not None]
    missed = [r for r in goals if not r["met"]]
    print(f"\ngoals: {len(goals) - len(missed)} of {len(goals)} met" +
          "".join(f"\nmissed: {r['name']}: {cell(r['ours'] if r['ratio'] is None else r['ratio'])}, goal {goal_text(r)}" for r in missed))
