"""Two gateways on this machine, ALICE and BOB, as examples/two-stations sets them up."""

import json
import os
import shlex
import subprocess
import time

from measure import ROOT, fail, output, rest

SCRIPTS = ROOT / "examples/two-stations"


class Pair:
    """`with Pair(bench, place, key, **settings)`: set up, started, and ended afterwards.

    `key` is the type of the stations' keys.
    Settings are environment variables of both gateways without AS2GATE_, such as UPLOADS__RELEASE_AFTER="0s".
    `pids`, `sftp` and `as2` hold the process and the ports of "alice" and "bob".
    """

    def __init__(self, bench, place, key="rsa-3072", **settings):
        self.bench, self.place, self.key = bench, place, key
        self.environment = dict(os.environ, AS2GATE_BIN=str(bench.gateway), **{f"AS2GATE_{k}": v for k, v in settings.items()})
        self.running, self.pids, self.sftp, self.as2 = [], {}, {}, {}

    def __enter__(self):
        place = shlex.quote(str(self.place))
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", f"source {SCRIPTS}/pair.sh; pair_set_up {place} {self.key}"],
                              env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            fail("two gateways could not be set up", done.stderr)
        try:
            # BOB first: ALICE has to know his port before she sends.
            self.serve("bob")
            self.gw("alice", "partner", "set", "BOB", "--url", f"http://127.0.0.1:{self.as2['bob']}/as2")
            self.serve("alice")
            self.gw("bob", "partner", "set", "ALICE", "--url", f"http://127.0.0.1:{self.as2['alice']}/as2")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in self.running:
            child.terminate()
        for child in self.running:
            child.wait()

    def config(self, side):
        return self.place / side / "as2gate.toml"

    def gw(self, side, *words):
        """The command line of one side."""
        return output(self.bench.gateway, "-c", self.config(side), *words)

    def spawn(self, side, **settings):
        """The process of one side; whoever calls this ends it."""
        with open(self.place / side / "serve.log", "ab") as log:
            return subprocess.Popen([self.bench.gateway, "-c", self.config(side), "serve"], stdout=log, stderr=log,
                                    env=self.environment | {f"AS2GATE_{k}": v for k, v in settings.items()})

    def stop(self, side):
        child = next(child for child in self.running if child.pid == self.pids[side])
        self.running.remove(child)
        child.terminate()
        child.wait()

    def serve(self, side):
        child = self.spawn(side)
        self.running.append(child)
        for _ in range(300):
            done = subprocess.run([self.bench.gateway, "-c", self.config(side), "status", "-o", "json"], capture_output=True,
                                  text=True, check=False)
            listening = (json.loads(done.stdout)["listening"] if done.returncode == 0 else None) or {}
            if listening.get("as2") and listening.get("sftp"):
                break
            if child.poll() is not None:
                fail(f"the gateway of {side} did not start", (self.place / side / "serve.log").read_text())
            time.sleep(0.05)
        port = lambda door: int(listening[door][0].rsplit(":", 1)[1])
        self.pids[side], self.sftp[side], self.as2[side] = child.pid, port("sftp"), port("as2")

    def sftp_command(self, side):
        """OpenSSH's sftp as that side's user; commands on stdin."""
        home = self.place / side
        options = ["IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=accept-new",
                   f"UserKnownHostsFile={self.place / 'known_hosts'}"]
        return ["sftp", "-q", "-b", "-", "-P", str(self.sftp[side]), "-i", str(home / f"{side}-erp.key"),
                *[word for option in options for word in ("-o", option)], f"{side}-erp@127.0.0.1"]

    def put(self, side, *scripts):
        """Runs the scripts of sftp commands at the same time, each in a session of its own."""
        sessions = [subprocess.Popen(self.sftp_command(side), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE, text=True) for _ in scripts]
        for session, script in zip(sessions, scripts):
            session.stdin.write(script)
            session.stdin.close()
        for session in sessions:
            complaint = session.stderr.read()
            if session.wait() != 0:
                fail("sftp", complaint)

    def messages(self, side):
        return json.loads(self.gw(side, "message", "list", "--limit", "100000", "-o", "json"))

    def delivered(self, count, patience=600):
        """Waits until ALICE's messages are final, and gives them; all have to be delivered."""
        until = time.monotonic() + patience
        while True:
            # Listing thousands of messages costs CPU and a read of the journal: not while they are under way.
            rest(*self.pids.values())
            listed = self.messages("alice")
            if sum(m["state"] in ("delivered", "failed") for m in listed) == count:
                break
            if time.monotonic() > until:
                fail(f"{count} messages did not come to an end in {patience} s", str([m for m in listed if m["state"] != "delivered"][:1]))
        failed = [m for m in listed if m["state"] != "delivered"]
        if failed or len(listed) != count:
            fail(f"{len(failed)} of {len(listed)} messages were not delivered", f"the first: {failed[:1]}")
        return listed
