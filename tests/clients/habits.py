#!/usr/bin/env python3
"""Drives SFTP clients that others wrote through the habits that their users have.

    habits.py CLIENT HABIT --port P --user U --key KEY --dir REMOTE --name NAME --local FILE [--head FILE] [--hostkey SHA256:…]

The name arrives in the remote directory. Habits, where a client has them:
    put      a plain upload, with the client's defaults
    times    the same, with the modification time preserved
    rename   under a temporary name, then renamed; by the client's own option if it has one
    again    the same name twice in a row, first with other bytes (--head)
    chunks   several blocks at once, or a file in several connections
    touch    an empty file first, then the bytes
    held     an upload that the client breaks off on SIGUSR1, the way its user does: Ctrl-C, a cancelled task, an exception
    limit    an upload that ends by a time limit of the client's own (curl)
    resume   goes on with what is there: --head is what was sent
SIGUSR2 kills the client, which loses the connection. Ends with the client's exit code. The tests run it against the gateway;
`recorder.py sshd` gives it a server that writes down what the client says.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import pty
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PLAIN = ["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o",
         "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentityAgent=none"]


def run(command, text=None, env=None):
    """Runs a client to its end; its words go to ours."""
    child = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE if text else subprocess.DEVNULL, env=env,
                             start_new_session=True)
    signal.signal(signal.SIGUSR2, lambda *_: child.kill())
    child.communicate(text and text.encode())
    return child.returncode


def held(command, env=None):
    """Runs a client that SIGUSR1 interrupts."""
    child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, env=env, start_new_session=True)
    signal.signal(signal.SIGUSR1, lambda *_: os.killpg(child.pid, signal.SIGINT))
    signal.signal(signal.SIGUSR2, lambda *_: os.killpg(child.pid, signal.SIGKILL))
    child.wait()
    return 0


def typed(command, line, prompt, leave):
    """Types a line at a client's prompt; SIGUSR1 presses Ctrl-C, after which the client is told to leave."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], [str(word) for word in command])
    seen, pressed = b"", []

    def press(*_):
        os.write(terminal, b"\x03")
        pressed.append(len(seen))

    signal.signal(signal.SIGUSR1, press)
    signal.signal(signal.SIGUSR2, lambda *_: os.kill(pid, signal.SIGKILL))
    until, told = time.monotonic() + 60, 0
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            if select.select([terminal], [], [], 0.2)[0]:
                more = os.read(terminal, 65536)
                if not more:
                    break
                seen += more
            if told == 0 and prompt in seen:
                os.write(terminal, line.encode() + b"\n")
                told = 1
            elif told == 1 and pressed and prompt in seen[pressed[0]:]:
                os.write(terminal, leave.encode() + b"\n")
                told = 2
    os.waitpid(pid, 0)
    return 0


class Client:
    """How a client is called; one method for each habit that it has."""

    def __init__(self, args):
        self.args = args
        self.remote = f"{args.dir}/{args.name}"
        self.local, self.head = args.local, args.head
        self.where = ["-P", args.port, "-i", args.key]
        self.host = f"{args.user}@127.0.0.1"

    def empty(self):
        """An empty local file."""
        file = pathlib.Path(tempfile.mkdtemp()) / "empty"
        file.touch()
        return file


class OpenSSH(Client):
    """`sftp`."""

    def batch(self, *lines, more=()):
        return run(["sftp", "-b", "-", *more, *self.where, *PLAIN, self.host], "\n".join(lines) + "\n")

    def put(self):
        return self.batch(f"put {self.local} {self.remote}", f"ls -l {self.remote}")

    def times(self):
        return self.batch(f"put -p {self.local} {self.remote}")

    def rename(self):
        return self.batch(f"put {self.local} {self.remote}.part", f"rename {self.remote}.part {self.remote}")

    def again(self):
        return self.batch(f"put {self.head} {self.remote}", f"put {self.local} {self.remote}")

    def touch(self):
        return self.batch(f"put {self.empty()} {self.remote}", f"put {self.local} {self.remote}")

    def resume(self):
        return self.batch(f"reput {self.local} {self.remote}")

    def held(self):
        return typed(["sftp", *self.where, *PLAIN, self.host], f"put {self.local} {self.remote}", b"sftp> ", "bye")


class Dropbear(OpenSSH):
    """OpenSSH's `sftp` over dropbear's `dbclient`."""

    def batch(self, *lines, more=()):
        key, script = pathlib.Path(tempfile.mkdtemp()) / "key", pathlib.Path(tempfile.mkdtemp()) / "ssh"
        subprocess.run(["dropbearconvert", "openssh", "dropbear", self.args.key, str(key)], check=True, capture_output=True)
        # sftp passes OpenSSH's options, which dbclient does not know.
        script.write_text(f'#!/bin/sh\nexec dbclient -y -y -i {key} -p {self.args.port} -s {self.host} sftp 2>/dev/null\n')
        script.chmod(0o755)
        return run(["sftp", "-b", "-", "-S", script, self.host], "\n".join(lines) + "\n")


class Scp(Client):
    """`scp`, which speaks SFTP since 9.0."""

    def copy(self, *more):
        return ["scp", *more, *self.where, *PLAIN, self.local, f"{self.host}:{self.remote}"]

    def put(self):
        return run(self.copy())

    def times(self):
        return run(self.copy("-p"))

    def held(self):
        return held(self.copy())


class Lftp(Client):
    """`lftp`, over OpenSSH's `ssh`."""

    def command(self):
        ssh = shlex.join(["ssh", "-a", "-x", *PLAIN, "-i", self.args.key])
        self.script = f'set sftp:connect-program "{ssh}"; set net:max-retries 1; set net:timeout 30; '
        return ["lftp", "--norc", "-u", f"{self.args.user},"]

    def does(self, *lines):
        command = self.command()
        script = "set cmd:fail-exit yes; " + self.script + f"open sftp://127.0.0.1:{self.args.port}; " + "; ".join(lines)
        return run([*command[:2], "-c", script.replace("open sftp://", f"open -u {self.args.user},x sftp://")],
                   env=dict(os.environ, HOME=tempfile.mkdtemp()))

    def put(self):
        return self.does(f"put {self.local} -o {self.remote}", f"ls {self.args.dir}")

    def rename(self):
        return self.does("set xfer:use-temp-file yes", "set xfer:temp-file-name *.part", f"put {self.local} -o {self.remote}")

    def again(self):
        return self.does(f"put {self.head} -o {self.remote}", f"put {self.local} -o {self.remote}")

    def touch(self):
        return self.does(f"put {self.empty()} -o {self.remote}", f"put {self.local} -o {self.remote}")

    def chunks(self):
        return self.does(f"put {self.local} -o {self.remote} & put {self.local} -o {self.remote}.2", "wait all")

    def resume(self):
        return self.does(f"put -c {self.local} -o {self.remote}")

    def held(self):
        self.command()
        home = tempfile.mkdtemp()
        os.environ["HOME"] = home
        os.environ["TERM"] = "dumb"
        line = self.script + f"open -u {self.args.user},x sftp://127.0.0.1:{self.args.port}; put {self.local} -o {self.remote}"
        return typed(["lftp", "--norc"], line, b"> ", "exit")


class Psftp(Client):
    """PuTTY's `psftp`; --key is a PPK."""

    def command(self):
        keys = [word for key in self.args.hostkey for word in ("-hostkey", key)]
        return ["psftp", "-batch", *self.where, *keys, self.host]

    def does(self, *lines):
        return run([*self.command(), "-b", self.script(*lines)])

    def script(self, *lines):
        file = pathlib.Path(tempfile.mkdtemp()) / "script"
        file.write_text("\n".join(lines) + "\n")
        return file

    def put(self):
        return self.does(f"put {self.local} {self.remote}", f"ls {self.args.dir}")

    def rename(self):
        return self.does(f"put {self.local} {self.remote}.part", f"mv {self.remote}.part {self.remote}")

    def again(self):
        return self.does(f"put {self.head} {self.remote}", f"put {self.local} {self.remote}")

    def touch(self):
        return self.does(f"put {self.empty()} {self.remote}", f"put {self.local} {self.remote}")

    def resume(self):
        return self.does(f"reput {self.local} {self.remote}")

    def held(self):
        return held([*self.command(), "-b", self.script(f"put {self.local} {self.remote}")])


class Rclone(Client):
    """`rclone`: uploads as NAME.<hex>.partial and renames."""

    def does(self, *words, way=run):
        remote = f":sftp,host=127.0.0.1,port={self.args.port},user={self.args.user},key_file={self.args.key}:"
        return way([f"{os.path.dirname(sys.executable)}/rclone", "--config", "/dev/null", "--retries", "1", *[w.replace("@", remote, 1) for w in words]])

    def put(self):
        return self.does("copyto", self.local, f"@{self.remote}")

    times = put

    def rename(self):
        code = self.does("copyto", self.local, f"@{self.remote}.tmp")
        return code or self.does("moveto", f"@{self.remote}.tmp", f"@{self.remote}")

    def again(self):
        return self.does("copyto", "--inplace", self.head, f"@{self.remote}") or self.does("copyto", "--inplace", self.local, f"@{self.remote}")

    def touch(self):
        return self.does("touch", f"@{self.remote}") or self.put()

    def chunks(self):
        """Four files in four connections."""
        source = pathlib.Path(tempfile.mkdtemp())
        for n in ("", ".2", ".3", ".4"):
            (source / f"{self.args.name}{n}").symlink_to(self.local)
        return self.does("copy", "--copy-links", "--transfers", "4", str(source), f"@{self.args.dir}")

    def held(self):
        return self.does("copyto", self.local, f"@{self.remote}", way=held)


class Curl(Client):
    """`curl`."""

    def command(self, *more, name=""):
        url = f"sftp://127.0.0.1:{self.args.port}/{self.args.dir.lstrip('/')}/{name or self.args.name}"
        return ["curl", "-sS", "-k", "-u", f"{self.args.user}:", "--key", self.args.key, "--pubkey", f"{self.args.key}.pub", *more, url]

    def moves(self, name):
        return ["-Q", f"-rename {self.args.dir}/{name} {self.remote}"]

    def put(self):
        return run(self.command("-T", self.local))

    def rename(self):
        name = f"{self.args.name}.tmp"
        return run(self.command("-T", self.local, *self.moves(name), name=name))

    def unlisted(self):
        """A temporary name that no list knows."""
        name = f"up-{self.args.name}"
        return run(self.command("-T", self.local, *self.moves(name), name=name))

    def again(self):
        return run(self.command("-T", self.head)) or run(self.command("-T", self.local))

    def touch(self):
        return run(self.command("-T", self.empty())) or self.put()

    def resume(self):
        return run(self.command("-C", "-", "-T", self.local))

    def held(self):
        return held(self.command("-T", self.local))

    def limit(self):
        """The way that is advised: a time limit on a temporary name leaves it there."""
        name = f"{self.args.name}.tmp"
        return 0 if run(self.command("--max-time", "1", "-T", self.local, *self.moves(name), name=name)) == 28 else 1


class Sshfs(Client):
    """A mounted directory."""

    def put(self):
        return self.mounted(lambda place: run(["cp", self.local, place / self.args.name]))

    def times(self):
        return self.mounted(lambda place: run(["cp", "-p", self.local, place / self.args.name]))

    def tar(self):
        packed = subprocess.run(["tar", "-c", "-C", pathlib.Path(self.local).parent, self.args.name], check=True, stdout=subprocess.PIPE)
        return self.mounted(lambda place: subprocess.run(["tar", "-x", "-C", place], input=packed.stdout).returncode)

    def mounted(self, do):
        place = pathlib.Path(tempfile.mkdtemp())
        code = run(["sshfs", "-p", self.args.port, "-o", f"IdentityFile={self.args.key}", *PLAIN[2:], f"{self.host}:{self.args.dir}", place])
        if code:
            return code
        try:
            code = do(place)
            # Its CLOSE comes when the program has gone on already: an unmount right behind would cut it off.
            time.sleep(1)
            return code
        finally:
            run(["fusermount3", "-u", place]) and run(["fusermount", "-u", place])


class Broken(Exception):
    """What a program's own callback throws to stop a transfer."""


class Paramiko(Client):
    """paramiko's `SFTPClient`."""

    def session(self):
        import paramiko
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect("127.0.0.1", int(self.args.port), self.args.user, key_filename=self.args.key, allow_agent=False,
                       look_for_keys=False, timeout=30)
        return client, client.open_sftp()

    @contextlib.contextmanager
    def sftp(self):
        signal.signal(signal.SIGUSR2, lambda *_: os._exit(9))
        client, sftp = self.session()
        yield sftp
        client.close()

    def put(self):
        with self.sftp() as sftp:
            sftp.put(self.local, self.remote)

    def times(self):
        with self.sftp() as sftp:
            sftp.put(self.local, self.remote)
            sftp.utime(self.remote, (1_700_000_000, 1_700_000_000))

    def rename(self):
        with self.sftp() as sftp:
            sftp.put(self.local, f"{self.remote}.tmp")
            sftp.posix_rename(f"{self.remote}.tmp", self.remote)

    def again(self):
        with self.sftp() as sftp:
            sftp.put(self.head, self.remote)
            sftp.put(self.local, self.remote)

    def touch(self):
        with self.sftp() as sftp:
            sftp.open(self.remote, "w").close()
            sftp.put(self.local, self.remote)

    def chunks(self):
        """Blocks from both ends, pipelined: one handle, out of order."""
        data = pathlib.Path(self.local).read_bytes()
        with self.sftp() as sftp, sftp.open(self.remote, "w") as file:
            file.set_pipelined(True)
            block = 32_000
            starts = list(range(0, len(data), block))
            for start in starts[1::2] + starts[0::2]:
                file.seek(start)
                file.write(data[start:start + block])

    def resume(self):
        with self.sftp() as sftp, sftp.open(self.remote, "a") as file:
            file.write(pathlib.Path(self.local).read_bytes()[sftp.stat(self.remote).st_size:])

    def held(self):
        stop = []
        signal.signal(signal.SIGUSR1, lambda *_: stop.append(1))

        def look(*_):
            if stop:
                raise Broken

        with self.sftp() as sftp, contextlib.suppress(Broken):
            sftp.put(self.local, self.remote, callback=look)

    def breaks(self, sftp, blocks):
        """A put whose program fails when so many blocks are written."""
        def look(done, _):
            if done >= blocks * 32_768:
                raise Broken

        with contextlib.suppress(Broken):
            sftp.put(self.local, self.remote, callback=look)

    def first(self):
        with self.sftp() as sftp:
            self.breaks(sftp, 1)

    def cleaned(self):
        """It looks whether the name is taken, clears it, and tries again."""
        with self.sftp() as sftp:
            for blocks in 3, 1:
                self.breaks(sftp, blocks)
                sftp.stat(self.remote)
                sftp.remove(self.remote)
            sftp.put(self.local, self.remote)

    def looked(self):
        """It looks at what is there, and puts it again over that."""
        with self.sftp() as sftp:
            self.breaks(sftp, 3)
            sftp.stat(self.remote)
            sftp.put(self.local, self.remote)


class Asyncssh(Client):
    """asyncssh."""

    def does(self, work):
        signal.signal(signal.SIGUSR2, lambda *_: os._exit(9))

        async def all_of_it():
            import asyncssh
            async with asyncssh.connect("127.0.0.1", int(self.args.port), username=self.args.user, client_keys=[self.args.key],
                                        known_hosts=None, config=None, agent_path=None) as connection:
                async with connection.start_sftp_client() as sftp:
                    await work(sftp)
        asyncio.run(all_of_it())

    def put(self):
        self.does(lambda sftp: sftp.put(self.local, self.remote))

    chunks = put

    def times(self):
        self.does(lambda sftp: sftp.put(self.local, self.remote, preserve=True))

    def rename(self):
        async def work(sftp):
            await sftp.put(self.local, f"{self.remote}.tmp")
            await sftp.rename(f"{self.remote}.tmp", self.remote)
        self.does(work)

    def again(self):
        async def work(sftp):
            await sftp.put(self.head, self.remote)
            await sftp.put(self.local, self.remote)
        self.does(work)

    def resume(self):
        async def work(sftp):
            size = (await sftp.stat(self.remote)).size
            async with sftp.open(self.remote, "ab") as file:
                await file.write(pathlib.Path(self.local).read_bytes()[size:])
        self.does(work)

    def held(self):
        async def work(sftp):
            task = asyncio.ensure_future(sftp.put(self.local, self.remote))
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, task.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.does(work)


class Node(Client):
    """ssh2-sftp-client for Node."""

    def __getattr__(self, habit):
        if habit not in ("put", "chunks", "rename", "again", "touch", "resume", "held"):
            raise AttributeError(habit)
        way = held if habit == "held" else run
        words = [self.args.port, self.args.user, self.args.key, self.remote, self.local, self.head or ""]
        return lambda: way(["node", HERE / "node_client.js", habit, *words], env=dict(os.environ, NODE_PATH=str(pathlib.Path(sys.prefix) / "node_modules")))


CLIENTS = {"openssh": OpenSSH, "dropbear": Dropbear, "scp": Scp, "lftp": Lftp, "psftp": Psftp, "rclone": Rclone, "curl": Curl,
           "sshfs": Sshfs, "paramiko": Paramiko, "asyncssh": Asyncssh, "node": Node}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("habit")
    for name in ("port", "user", "key", "dir", "name", "local"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--head")
    parser.add_argument("--hostkey", action="append", default=[])
    args = parser.parse_args()
    # Whoever was started in the background by a shell, or by nohup, has them ignored, and so have its clients.
    for interruption in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(interruption, signal.SIG_DFL)
    sys.exit(getattr(CLIENTS[args.client](args), args.habit)() or 0)


if __name__ == "__main__":
    main()
