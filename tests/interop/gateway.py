"""The gateway under test, with a station for each kind of key; and a proxy that loses the first answer."""
import base64
import glob
import json
import os
import re
import socket
import subprocess
import threading
import time

from cases import KEYS, ROLLS, STATIONS
from products import free_port, spawn

PATIENCE = 240  # seconds until every message of one product and direction has to be final


def self_signed(stem, kind, subject, *more):
    """A key and a certificate for it as STEM.key, STEM.crt and, both in one, STEM.pem."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-sha256", "-days", "10", "-subj", f"/CN={subject}", *more,
         "-keyout", f"{stem}.key", "-out", f"{stem}.crt"], check=True, capture_output=True)
    with open(f"{stem}.pem", "wb") as both:
        for end in ("key", "crt"):
            with open(f"{stem}.{end}", "rb") as file:
                both.write(file.read())


class Gateway:
    """One as2gate."""

    def __init__(self, binary, home):
        self.binary, self.home, self.process = binary, home, None
        os.makedirs(home)
        self.port, self.tls_port, self.sftp_port = free_port(), free_port(), free_port()
        self.run("init", "--account", "acme")
        self_signed(os.path.join(home, "tls"), ["rsa:2048"], "gate.test", "-addext", "subjectAltName=IP:127.0.0.1")
        self.configure("none")
        for name in STATIONS:
            self.run("station", "add", name, "--key", name[5:] if name[5:] in KEYS else "rsa-2048")
        # What this gateway shows to verify with, and what a partner encrypts to.
        self.certificates = {name: (self.certificate(name),) * 2 for name in STATIONS}
        for name in ROLLS.values():
            self.roll(name)

    def configure(self, client_auth):
        with open(os.path.join(self.home, "as2gate.toml"), "w", encoding="utf-8") as file:
            file.write(
                f'data_dir = "data"\npublic_url = "http://127.0.0.1:{self.port}"\nas2.listen = ["127.0.0.1:{self.port}"]\n'
                f'as2.tls = {{ listen = ["127.0.0.1:{self.tls_port}"], cert = "file:tls.crt", key = "file:tls.key", client_auth = "{client_auth}" }}\n'
                f'sftp.listen = ["127.0.0.1:{self.sftp_port}"]\ntelemetry.listen = ""\n'
                'retry.initial = "1s"\nretry.max_wait = "2s"\nretry.max_tries = 3\nretry.mdn_wait = "180s"\n'
            )

    def roll(self, name):
        """A new certificate beside the old: partners verify with the one that signs, and already or still encrypt to the other."""
        old, old_pem = self.json("station", "show", name)["certificate"], self.certificate(name)
        when = ["--now"] if name == "GATE-after" else ["--at", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86400))]
        self.run("cert", "renew", old, "--name", f"{name}-new", "--key", "rsa-2048", *when)
        new_pem = self.run("cert", "export", f"{name}-new")
        self.certificates[name] = (new_pem, old_pem) if name == "GATE-after" else (old_pem, new_pem)

    def run(self, *args):
        ran = subprocess.run([self.binary, "-q", *args], cwd=self.home, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(f"error: as2gate {' '.join(args)}: {ran.stderr.strip()}")
        return ran.stdout

    def json(self, *args):
        return json.loads(self.run(*args, "-o", "json"))

    def certificate(self, name):
        return self.run("cert", "export", self.json("station", "show", name)["certificate"])

    def start(self):
        self.process = spawn([self.binary, "serve"], self.home, stdin=subprocess.DEVNULL)
        for _ in range(150):
            with socket.socket() as one, socket.socket() as other:
                if one.connect_ex(("127.0.0.1", self.port)) == 0 and other.connect_ex(("127.0.0.1", self.tls_port)) == 0:
                    return
            time.sleep(0.1)
        raise SystemExit(f"error: the gateway did not start; see {self.home}/peer.log")

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
            self.process = None

    def messages(self, direction):
        """The messages by partner, which is by case; the number of messages of each too."""
        found = {}
        for message in self.json("message", "list", "--direction", direction, "--limit", "100000"):
            found.setdefault(message["partner"], []).append(message)
        return found

    def settled(self, direction, partners, state):
        """Waits until the messages of every partner are final; the messages by partner."""
        end = time.monotonic() + PATIENCE
        while True:
            found = self.messages(direction)
            final = all(
                partner in found and all(message["state"] in (state, "failed", "rejected") for message in found[partner])
                for partner in partners)
            if final or time.monotonic() > end:
                return found
            time.sleep(0.2)

    def show(self, message):
        return self.json("message", "show", message["id"])

    def sent_headers(self, message):
        """The header block of a message that was delivered."""
        place = os.path.join(self.home, "data/tree/mftg-acme/AS2/headers/*/*/outbox", message["id"], "headers.txt")
        return self.read(place).decode("latin-1")

    def key_transport(self, message):
        """How the content key of an encrypted message went, as `openssl cms` reads its raw bytes."""
        raw = self.read(os.path.join(self.home, "data/tree/mftg-acme/AS2/raw-message/*/*/*", message["id"], "message.as2"))
        raw = raw if raw.startswith(b"0") else base64.b64decode(raw)
        printed = subprocess.run(["openssl", "cms", "-cmsout", "-print", "-noout", "-inform", "DER"], input=raw, capture_output=True, check=True)
        words = re.search(rb"keyEncryptionAlgorithm:(.*?)(encryptedKey|recipientEncryptedKeys):", printed.stdout, re.S)[1].decode("latin-1")
        (digest,) = re.findall(r"sha\d+", words)[:1] or ["sha1"]
        return "pkcs1" if "rsaEncryption" in words else f"{'oaep' if 'rsaesOaep' in words else 'ecdh'}-{digest}"

    def filed(self, message, name):
        """The bytes of a received file."""
        return self.read(os.path.join(self.home, "data/tree/mftg-acme/AS2/files/*/*/inbox", message["id"], glob.escape(name)))

    @staticmethod
    def read(place):
        """The bytes of the one file there; a message's state may be told a moment before its last rename."""
        for _ in range(20):
            if found := glob.glob(place):
                with open(found[0], "rb") as file:
                    return file.read()
            time.sleep(0.1)
        return b""


class Lossy:
    """Passes each connection on to a port, and loses the answer on the first one that has any."""

    def __init__(self, port):
        self.target, self.lost, self.answers = port, False, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            client, _ = self.socket.accept()
            threading.Thread(target=self.carry, args=(client,), daemon=True).start()

    def carry(self, client):
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            threading.Thread(target=self.pump, args=(client, server), daemon=True).start()
            answer = self.whole(server)
            self.answers.append(answer.partition(b"\r\n\r\n")[2])
            if self.lost:
                client.sendall(answer)
            self.lost = True
            # The other thread still reads from it.
            client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def whole(server):
        """An answer to its end, by its Content-Length or the end of the connection."""
        answer = b""
        while piece := server.recv(1 << 16):
            answer += piece
            head, blank, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if blank and (b" 204 " in head[:16] or length and len(body) >= int(length[1])):
                break
        return answer

    @staticmethod
    def pump(source, sink):
        try:
            while piece := source.recv(1 << 16):
                sink.sendall(piece)
        except OSError:
            pass
