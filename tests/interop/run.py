#!/usr/bin/env python3
"""as2gate against the products of others, over the positive matrix, in both directions; see `make interop`.

    run.py --bin AS2GATE --dir DIR [--product NAME]… [--case ID]… [-v]

One gateway runs; every case is a partner of its own, with its own settings. A case passes when the payload arrived byte
for byte with the packaging that was meant, and the sender has verified the receipt that it asked for (with the MIC, where
the product computes one: pyas2lib for signed messages, libas2 never).
Exit status 0 only if every case passed that the product itself can do.
"""
import argparse
import glob
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

from cases import CASES
from products import PRODUCTS, free_port

PATIENCE = 20  # seconds until every message of one product and direction has to be final
WHOLE_RUN = 900  # seconds until the run ends itself
KEYS = ("rsa", "ec-p256", "ec-p384")


def station(key):
    return "GATE" if key == "rsa" else f"GATE-{key}"


class Gateway:
    """One as2gate with a station for each kind of key."""

    def __init__(self, binary, home):
        self.binary, self.home, self.process = binary, home, None
        os.makedirs(home)
        self.port = free_port()
        self.run("init", "--account", "acme")
        with open(os.path.join(home, "as2gate.toml"), "w", encoding="utf-8") as file:
            file.write(
                f'data_dir = "data"\npublic_url = "http://127.0.0.1:{self.port}"\nas2.listen = ["127.0.0.1:{self.port}"]\n'
                f'sftp.listen = ["127.0.0.1:{free_port()}"]\ntelemetry.listen = ""\n'
                'retry.initial = "1s"\nretry.max_wait = "2s"\nretry.max_tries = 3\nretry.mdn_wait = "40s"\n'
            )
        for key in KEYS:
            self.run("station", "add", station(key), "--key", "rsa-2048" if key == "rsa" else key)

    def run(self, *args):
        ran = subprocess.run([self.binary, "-q", *args], cwd=self.home, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(f"error: as2gate {' '.join(args)}: {ran.stderr.strip()}")
        return ran.stdout

    def json(self, *args):
        return json.loads(self.run(*args, "-o", "json"))

    def certificate(self, key):
        return self.run("cert", "export", self.json("station", "show", station(key))["certificate"])

    def start(self):
        log = open(os.path.join(self.home, "serve.log"), "wb")
        self.process = subprocess.Popen([self.binary, "serve"], cwd=self.home, stdout=log, stderr=log)
        for _ in range(150):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise SystemExit(f"error: the gateway did not start; see {log.name}")

    def messages(self, direction):
        """The messages by partner, which is by case."""
        found = self.json("message", "list", "--direction", direction, "--limit", "100000")
        return {message["partner"]: message for message in found}

    def settled(self, direction, partners, state):
        """Waits until the message of every partner is final; the messages by partner."""
        end = time.monotonic() + PATIENCE
        while True:
            found = self.messages(direction)
            final = all(found.get(partner, {}).get("state") in (state, "failed", "rejected") for partner in partners)
            if final or time.monotonic() > end:
                return found
            time.sleep(0.2)

    def show(self, message):
        return self.json("message", "show", message["id"])

    def filed(self, message):
        """The bytes of a received file; its state may be told a moment before its last rename."""
        place = os.path.join(self.home, "data/tree/mftg-acme/AS2/files/*/*/inbox", message["id"], glob.escape(message["file"]))
        for _ in range(20):
            if found := glob.glob(place):
                with open(found[0], "rb") as file:
                    return file.read()
            time.sleep(0.1)
        return None


def partner_toml(product, case):
    """A partner with the settings of a case, and its certificate, as `as2gate apply` reads them."""
    name = f"{product.short}-{case.id}".lower()
    fields = {
        "as2_id": product.id(case),
        "url": product.url(case),
        "private": True,
        "require_signed": False,
        "require_encrypted": False,
        "sign": case.sign or "none",
        "signature_scheme": case.scheme,
        "encrypt": (case.encrypt if case.encrypt != "3des" else "aes128-cbc") or "none",
        "compress": case.compress or "none",
        "key_transport": case.transport,
        "mdn": case.receipt,
        "legacy": case.sign == "sha1" or case.sign == "sha224",
        "accept_3des": case.encrypt == "3des",
        "sign_certificate": [name],
        "encrypt_certificate": name,
        **product.partner(case),
    }
    with open(os.path.join(product.home, f"{station(case.key)}.own.crt"), encoding="utf-8") as file:
        pem = file.read()
    certificate = {"name": name, "purpose": "partner", "owner": product.id(case), "pem": pem}
    text = ""
    for kind, table in (("certificate", certificate), ("partner", fields)):
        text += f"[[{kind}]]\naccount = \"acme\"\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    return text


def identities(home, gateway_certificates):
    """The product's own keys, and the gateway's certificates, one for each of the gateway's stations."""
    os.makedirs(home)
    for key in KEYS:
        stem = os.path.join(home, f"{station(key)}.own")
        kind = ["rsa:2048"] if key == "rsa" else ["ec", "-pkeyopt", f"ec_paramgen_curve:P-{key[4:]}"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-sha256", "-days", "10", "-subj", f"/CN=peer {key}",
             "-keyout", f"{stem}.key", "-out", f"{stem}.crt"], check=True, capture_output=True)
        with open(f"{stem}.pem", "wb") as file:
            file.write(open(f"{stem}.key", "rb").read() + open(f"{stem}.crt", "rb").read())
        with open(os.path.join(home, f"{station(key)}.pem"), "w", encoding="utf-8") as file:
            file.write(gateway_certificates[key])


def payload(case, seed):
    rnd = random.Random(seed)
    if case.size:
        return rnd.randbytes(case.size)
    lines = [f"PO1*{n:06}*{rnd.randint(1, 999)}*EA*{rnd.randint(0, 99)}**VP*PART-{rnd.randint(0, 10**8):08}~" for n in range(40)]
    return "\r\n".join(["ISA*00*          *00*          *ZZ*GATE           *ZZ*PEER           ~", *lines, ""]).encode()


class Runner:
    def __init__(self, args):
        self.args, self.rows = args, []
        self.gateway, self.products = None, []

    def note(self, product, case, direction, trouble):
        self.rows.append((product, case, direction, "pass" if not trouble else "FAIL", trouble))
        if trouble and self.args.verbose:
            print(f"FAIL {product.title} {case.id} {direction}: {trouble}", file=sys.stderr, flush=True)

    def cases(self, product, direction):
        """What the product can do; the rest is noted as its limit."""
        for case in CASES:
            if self.args.case and case.id not in self.args.case:
                continue
            limit = product.limit(case, direction)
            if case.encrypt == "3des" and direction == "we send":
                limit = "3DES is accepted here from old partners, never sent"
            if not limit:
                yield case
            else:
                self.rows.append((product, case, direction, "limit", limit))

    def file(self, product, case, direction):
        """A name of its own, and the file."""
        word = "to" if direction == "we send" else "from"
        stem, ext = os.path.splitext(case.file or f"{case.id}.{'bin' if case.size else 'edi'}")
        name = f"{stem} {word}-{product.short}{ext}" if case.file else f"{stem}-{word}-{product.short}{ext}"
        path = os.path.join(product.home, "files", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(payload(case, name))
        return name, path

    def we_send(self, product):
        cases = {}
        for case in self.cases(product, "we send"):
            name, path = self.file(product, case, "we send")
            self.gateway.run("send", "--from", station(case.key), "--to", product.id(case), path)
            cases[name] = case
        found = self.gateway.settled("out", [product.id(case) for case in cases.values()], "delivered")
        for name, case in cases.items():
            expected = open(os.path.join(product.home, "files", name), "rb").read()
            self.note(product, case, "we send", self.sent(product, case, name, found.get(product.id(case)), expected))

    def sent(self, product, case, name, message, expected):
        """What is wrong with a message of ours; empty if nothing is."""
        got, facts = product.received(case, name)
        if message is None:
            return "never became a message"
        if message["state"] != "delivered":
            whole = self.gateway.show(message)
            why = {key: whole[key] for key in ("reason", "error", "response", "mdn_disposition", "http_status", "detail") if whole.get(key)}
            return f"{message['state']}: {json.dumps(why)}; the peer: {json.dumps(facts)[:600]}"
        if got is None:
            return f"the peer has no payload: {json.dumps(facts)[:600]}"
        if got != expected:
            return f"the peer got other bytes ({len(got)} instead of {len(expected)})"
        whole = self.gateway.show(message)
        if case.mdn and not str(whole.get("mdn_disposition")).endswith("processed"):
            return f"disposition {whole.get('mdn_disposition')}"
        wanted = {"sign": case.sign, "encrypt": case.encrypt, "compress": bool(case.compress)}
        for key, value in wanted.items():
            if facts.get(key) is not None and plain(facts[key]) != plain(value):
                return f"{key}: the peer saw {facts[key]}, meant was {value}"
        return ""

    def they_send(self, product):
        cases, told = {}, {}
        for case in self.cases(product, "they send"):
            name, path = self.file(product, case, "they send")
            told[name] = product.send(case, {
                "me": product.id(case), "to": station(case.key), "url": f"http://127.0.0.1:{self.gateway.port}/as2",
                "file": path, "name": name, "type": "application/octet-stream" if case.size else "application/edi-x12",
                "sign": case.sign, "encrypt": case.encrypt, "compress": case.compress, "mdn": case.mdn,
                "mdn_signed": case.mdn_signed, "scheme": case.scheme, "transport": case.transport,
            })
            cases[name] = case
        product.finish(PATIENCE)
        found = self.gateway.settled("in", [product.id(case) for case in cases.values()], "filed")
        for name, case in cases.items():
            self.note(product, case, "they send", self.came(product, case, name, told[name], found.get(product.id(case))))

    def came(self, product, case, name, told, message):
        """What is wrong with a message of theirs; empty if nothing is."""
        told = {**told, **product.outcome(case, name)}
        expected = open(os.path.join(product.home, "files", name), "rb").read()
        if message is None or message["state"] != "filed":
            return f"not filed: {json.dumps(message)[:600]}; the peer: {json.dumps(told)[:1500]}"
        if self.gateway.filed(message) != expected:
            return "other bytes were filed"
        if case.mdn and told.get("status") != "processed":
            return f"the peer reads the MDN as {json.dumps(told)[:1500]}"
        if case.mdn and told.get("mdn_signed", case.mdn_signed) != case.mdn_signed:
            return f"MDN signed: {told['mdn_signed']}, asked for was {case.mdn_signed}"
        if case.mdn and told.get("mic") is False:
            return f"the peer has another MIC: {told.get('trouble')}"
        return ""

    def run(self):
        work = os.path.join(self.args.dir, "run")
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        tools = os.path.join(self.args.dir, "tools")
        self.gateway = Gateway(self.args.bin, os.path.join(work, "gateway"))
        certificates = {key: self.gateway.certificate(key) for key in KEYS}
        chosen = [kind for kind in PRODUCTS if not self.args.product or kind.short.lower() in self.args.product]
        objects = ""
        for kind in chosen:
            home = os.path.join(work, kind.short.lower())
            identities(home, certificates)
            product = kind(home, tools, self.gateway.port)
            self.products.append(product)
            product.start([case for case in CASES if not self.args.case or case.id in self.args.case])
            objects += "".join(partner_toml(product, case) for case in CASES if not self.args.case or case.id in self.args.case)
        with open(os.path.join(work, "partners.toml"), "w", encoding="utf-8") as file:
            file.write(objects)
        self.gateway.run("apply", "-f", file.name)
        self.gateway.start()
        for product in self.products:
            began = time.monotonic()
            self.we_send(product)
            self.they_send(product)
            print(f"{product.title}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def stop(self):
        for product in self.products:
            product.stop()
        if self.gateway and self.gateway.process:
            self.gateway.process.terminate()
            try:
                self.gateway.process.wait(20)
            except subprocess.TimeoutExpired:
                self.gateway.process.kill()

    def table(self):
        """product × case × direction; the limits and failures with their reasons below."""
        marks, reasons = {}, {}
        for product, case, direction, outcome, reason in self.rows:
            mark = outcome
            if outcome == "limit":
                letters = reasons.setdefault((product.title, reason), chr(ord("a") + len(reasons)) if len(reasons) < 26 else f"a{len(reasons)}")
                mark = f"({letters})"
            marks[product.title, direction, case.id] = mark
        titles = [product.title for product in self.products]
        print(f"\n{'case':5} {'what':58} " + " ".join(f"{title:^17}" for title in titles))
        print(f"{'':5} {'':58} " + " ".join(f"{'we send':8} {'they send':8}" for _ in titles))
        for case in CASES:
            cells = [marks.get((title, direction, case.id), "") for title in titles for direction in ("we send", "they send")]
            if any(cells):
                print(f"{case.id:5} {case.title:58} " + " ".join(f"{cell:8}" for cell in cells))
        print()
        for (title, reason), letter in reasons.items():
            print(f"({letter}) {title}: {reason}")
        failed = [row for row in self.rows if row[3] == "FAIL"]
        for product, case, direction, _, reason in failed:
            print(f"FAIL {product.title} {case.id} {direction}: {reason}")
        passed = sum(row[3] == "pass" for row in self.rows)
        limits = sum(row[3] == "limit" for row in self.rows)
        print(f"interop: {passed} passed, {len(failed)} failed, {limits} beyond the other product")
        return passed > 0 and not failed


def plain(name):
    """One spelling of an algorithm's name."""
    return str(name or "").lower().replace("-", "").replace("_", "").replace("tripledes192cbc", "3des").replace("desede3cbc", "3des").replace("idaes128gcm", "aes128gcm").replace("idaes256gcm", "aes256gcm")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--product", action="append", default=[])
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("-v", "--verbose", action="store_true")
    args = parser.parse_args()
    args.bin, args.dir = os.path.abspath(args.bin), os.path.abspath(args.dir)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("error: the run took too long"))
    signal.alarm(WHOLE_RUN)
    runner, began = Runner(args), time.monotonic()
    try:
        runner.run()
    finally:
        runner.stop()
    good = runner.table()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(0 if good else 1)


main()
