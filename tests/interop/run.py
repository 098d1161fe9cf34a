#!/usr/bin/env python3
"""as2gate against the products of others, over the positive matrix, in both directions; see `make interop`.

    run.py --bin AS2GATE --dir DIR [--product NAME]… [--case ID]… [--limits] [-v]

One gateway runs; every case is a partner of its own, with its own settings. A case passes when the payload arrived byte
for byte, under its name, with the packaging that was meant, over the transport that was meant, and the sender has verified
the receipt that it asked for (with the MIC, where the product computes one: pyas2lib for signed messages, libas2 never).
With --limits only the cases run that are said to be beyond a product. One that passes may be no limit any more, if the
product did what the case means: the scheme of a signature of theirs, and AS2 Restart, are not looked at here.
Exit status 0 only if every case passed that the product itself can do.
"""
import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import time
import zipfile

from cases import CASES, KEYS, ROLLS, STATIONS
from gateway import PATIENCE, Gateway, Lossy, self_signed
from products import PRODUCTS

WHOLE_RUN = 1500  # seconds until the run ends itself
FOLLOWS = 2  # seconds until a running server has seen a change of its objects
TLS_OF = {"tls1.2": "TLSv1.2", "tls1.3": "TLSv1.3"}


def partner_toml(product, case, url):
    """A partner with the settings of a case, and its certificates, as `as2gate apply` reads them."""
    name = f"{product.short}-{case.id}".lower()
    fields = {
        "as2_id": product.id(case),
        "url": url,
        "private": True,
        "require_signed": False,
        "require_encrypted": False,
        "sign": case.sign or "none",
        "signature_scheme": case.scheme,
        "encrypt": (case.encrypt if case.encrypt != "3des" else "aes128-cbc") or "none",
        "compress": case.compress or "none",
        "key_transport": case.transport if "we send" in case.directions else "pkcs1",
        "mdn": case.receipt,
        # The very address, since not every message proves by a signature who named it.
        "mdn_urls": [product.url(case).rsplit("/", 1)[0] + "/mdn"],
        "legacy": case.sign == "sha1" or case.sign == "sha224",
        "accept_3des": case.encrypt == "3des",
        "sign_certificate": [name],
        "encrypt_certificate": name,
        "https_certificate": [f"{product.short}-tls".lower()],
        **product.partner(case),
    }
    if case.files:
        fields["zip"] = "unpack"
    if case.web == "client-certificate":
        fields["client_certificate"] = "GATE-tls"
    if case.web == "basic":
        fields["http_auth"] = fields["inbound_auth"] = {"user": "gate", "password": "secret"}
    if case.restart:
        fields["restart"] = True
    if case.early:
        fields["url"] += "?early"
    text = certificate_toml(name, "partner", product, f"{product.own(case)}.own.crt", product.id(case))
    if case.roll == "theirs":
        text += certificate_toml(f"{name}-old", "partner", product, "old.crt", product.id(case))
        fields["sign_certificate"] = [f"{name}-old", name]
    return text + "[[partner]]\naccount = \"acme\"\n" + "".join(f"{key} = {toml(value)}\n" for key, value in fields.items())


def certificate_toml(name, purpose, product, file, owner=""):
    with open(os.path.join(product.home, file), encoding="utf-8") as pem:
        fields = {"name": name, "purpose": purpose, "owner": owner, "pem": pem.read()}
    return "[[certificate]]\naccount = \"acme\"\n" + "".join(f"{key} = {toml(value)}\n" for key, value in fields.items())


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def identities(home, gateway):
    """The product's own keys, one for each of the gateway's stations, and the gateway's certificates."""
    os.makedirs(home)
    for key in KEYS:
        stem = os.path.join(home, "GATE.own" if key == "rsa" else f"GATE-{key}.own")
        self_signed(stem, ["rsa:2048"] if key == "rsa" else ["ec", "-pkeyopt", f"ec_paramgen_curve:P-{key[4:]}"], f"peer {key}")
    for name in ROLLS.values():
        for end in ("key", "crt", "pem"):
            shutil.copy(os.path.join(home, f"GATE.own.{end}"), os.path.join(home, f"{name}.own.{end}"))
    self_signed(os.path.join(home, "old"), ["rsa:2048"], "peer of old")
    self_signed(os.path.join(home, "tls"), ["rsa:2048"], "peer.test", "-addext", "subjectAltName=IP:127.0.0.1")
    shutil.copy(os.path.join(gateway.home, "tls.crt"), os.path.join(home, "gateway-tls.pem"))
    for name in STATIONS:
        verify, encrypt = gateway.certificates[name]
        for end, pem in ((".pem", verify), (".encrypt.pem", encrypt)):
            with open(os.path.join(home, name + end), "w", encoding="utf-8") as file:
                file.write(pem)


def payload(case, seed):
    rnd = random.Random(seed)
    if case.size:
        return rnd.randbytes(case.size)
    lines = [f"PO1*{n:06}*{rnd.randint(1, 999)}*EA*{rnd.randint(0, 99)}**VP*PART-{rnd.randint(0, 10**8):08}~" for n in range(40)]
    return "\r\n".join(["ISA*00*          *00*          *ZZ*GATE           *ZZ*PEER           ~", *lines, ""]).encode()


class Runner:
    def __init__(self, args):
        self.args, self.rows = args, []
        self.gateway, self.products, self.lossy = None, [], {}
        self.all = [case for case in CASES if not args.case or case.id in args.case]

    def note(self, product, case, direction, trouble):
        self.rows.append((product, case, direction, "pass" if not trouble else "FAIL", trouble))
        if trouble and self.args.verbose:
            print(f"FAIL {product.title} {case.id} {direction}: {trouble}", file=sys.stderr, flush=True)

    def cases(self, product, direction, chosen):
        """What the product can do; the rest is noted as its limit."""
        for case in filter(chosen, self.all):
            if direction not in case.directions:
                continue
            limit = "no AS2 Restart" if case.restart else product.limit(case, direction)
            if limit and not self.args.limits:
                self.rows.append((product, case, direction, "limit", limit))
            elif bool(limit) == self.args.limits:
                yield case

    def files(self, product, case, direction):
        """The files of a case: name, content type, path."""
        word = "to" if direction == "we send" else "from"
        kind = "application/octet-stream" if case.size else "application/edi-x12"
        name = "" if case.unnamed else case.file or f"{case.id}.{'bin' if case.size else 'edi'}"
        names = case.files or ((name, kind),)
        found = []
        for number, (name, kind) in enumerate(names):
            path = os.path.join(product.home, "files", f"{case.id}-{word}-{number}")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(payload(case, path))
            found.append({"name": name, "type": kind, "file": path})
        return found

    @staticmethod
    def contents(files):
        return [open(one["file"], "rb").read() for one in files]

    # We send.

    def we_send(self, product, chosen):
        cases = {}
        for case in self.cases(product, "we send", chosen):
            cases[case] = self.files(product, case, "we send")
            name, path = self.upload(product, case, cases[case])
            self.gateway.run("send", "--from", case.station, "--to", product.id(case), "--name", name, path)
        found = self.gateway.settled("out", [product.id(case) for case in cases], "delivered")
        for case, files in cases.items():
            self.note(product, case, "we send", self.sent(product, case, files, found.get(product.id(case))))

    def upload(self, product, case, files):
        """What is given to the gateway: the file, or a zip of the attachments that it unpacks."""
        if not case.files:
            return files[0]["name"], files[0]["file"]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for one in files:
                archive.write(one["file"], one["name"])
        path = os.path.join(product.home, "files", f"{case.id}.zip")
        with open(path, "wb") as file:
            file.write(packed.getvalue())
        return f"{case.id}.zip", path

    def sent(self, product, case, files, messages):
        """What is wrong with a message of ours; empty if nothing is."""
        got, facts = product.received(case, files[0]["name"])
        if not messages:
            return "never became a message"
        (message,) = messages
        whole, expected = self.gateway.show(message), b"".join(self.contents(files))
        if message["state"] != "delivered":
            why = {key: whole[key] for key in ("reason", "error", "response", "mdn_disposition", "http_status", "detail") if whole.get(key)}
            return f"{message['state']}: {json.dumps(why)}; the peer: {json.dumps(facts)[:1500]}"
        if got != expected:
            return f"the peer got other bytes ({got and len(got)} instead of {len(expected)}): {json.dumps(facts)[:600]}"
        if case.mdn and not str(whole.get("mdn_disposition")).endswith("processed") and not case.repeat:
            return f"disposition {whole.get('mdn_disposition')}"
        wanted = {"sign": case.sign, "encrypt": case.encrypt, "compress": bool(case.compress), "scheme": case.scheme}
        for key, value in wanted.items():
            if facts.get(key) is not None and plain(facts[key]) != plain(value):
                return f"{key}: the peer saw {facts[key]}, meant was {value}"
        if case.encrypt and (seen := self.gateway.key_transport(whole)) != case.transport:
            return f"the content key went by {seen}, meant was {case.transport}"
        names = [one["name"] for one in files]
        if (case.file or case.files) and facts.get("files", names) != names:
            return f"the peer saw the file names {facts['files']}"
        if case.repeat and whole["attempts"] != 2:
            return f"{whole['attempts']} posts instead of 2"
        scheme = "http" if case.web == "http" else "https"
        if case.mdn == "async" and f"\nReceipt-Delivery-Option: {scheme}://" not in self.gateway.sent_headers(whole):
            return f"the receipt was not asked for over {scheme}"
        return self.carried(case, facts.get("via"))

    @staticmethod
    def carried(case, via):
        """Whether the peer saw the transport that was meant, where it can tell."""
        if via is None or case.web == "http":
            return ""
        if via["web"] != case.web or via["tls"] != TLS_OF.get(case.web, via["tls"]):
            return f"it came over {via}"
        if case.web == "client-certificate" and not via["client"]:
            return "there was no client certificate"
        return ""

    # They send.

    def they_send(self, product, chosen):
        cases, told = {}, {}
        for case in self.cases(product, "they send", chosen):
            cases[case] = self.files(product, case, "they send")
            told[case] = self.order(product, case, cases[case])
        product.finish(PATIENCE)
        found = self.gateway.settled("in", [product.id(case) for case in cases], "filed")
        for case, files in cases.items():
            told[case] |= product.outcome(case, files[0]["name"])
            self.note(product, case, "they send", self.came(product, case, files, told[case], found.get(product.id(case))))

    def order(self, product, case, files):
        """Has the product send; what came of it at once."""
        try:
            return product.send(case, {
                "me": product.id(case), "to": case.station, "url": self.gateway_url(product, case), "files": files,
                "sign": case.sign, "encrypt": case.encrypt, "compress": case.compress, "mdn": case.mdn,
                "mdn_signed": case.mdn_signed, "scheme": case.scheme, "transport": case.transport, "web": case.web,
                "repeat": case.repeat,
            })
        except (OSError, ValueError, LookupError) as trouble:
            return {"trouble": repr(trouble)}

    def gateway_url(self, product, case):
        if case.repeat:
            return f"http://127.0.0.1:{self.proxy(product, case, 'they send', self.gateway.port).port}/as2"
        if case.web == "http":
            return f"http://127.0.0.1:{self.gateway.port}/as2"
        return f"https://127.0.0.1:{self.gateway.tls_port}/as2"

    def proxy(self, product, case, direction, port):
        key = (product.short, case.id, direction)
        if key not in self.lossy:
            self.lossy[key] = Lossy(port)
        return self.lossy[key]

    def came(self, product, case, files, told, messages):
        """What is wrong with a message of theirs; empty if nothing is."""
        if not messages or messages[0]["state"] != "filed":
            return f"not filed: {json.dumps(messages)[:600]}; the peer: {json.dumps(told)[:1500]}"
        if len(messages) != 1:
            return f"{len(messages)} messages were filed"
        whole = self.gateway.show(messages[0])
        names = [case.filed or product.filed(case, one["name"]) for one in files]
        if [file["name"] for file in whole["files"]] != names:
            return f"filed as {[file['name'] for file in whole['files']]}, expected {names}"
        if [self.gateway.filed(whole, name) for name in names] != self.contents(files):
            return "other bytes were filed"
        wanted = {"signed": case.sign, "encrypted": case.encrypt.replace("3des", "3des-cbc"), "compressed": "yes" if case.compress else "none"}
        for key, value in wanted.items():
            if plain(whole[key]) != plain(value):
                return f"{key}: it came with {whole[key]}, meant was {value}"
        meant = product.key_transport(case)
        if case.encrypt and (seen := self.gateway.key_transport(whole)) != meant:
            return f"the content key came by {seen}, meant was {meant}"
        if case.mdn and told.get("status") != "processed":
            return f"the peer reads the MDN as {json.dumps(told)[:1500]}"
        if case.mdn and told.get("mdn_signed", case.mdn_signed) != case.mdn_signed:
            return f"MDN signed: {told['mdn_signed']}, asked for was {case.mdn_signed}"
        if case.mdn and told.get("mic") is False:
            return f"the peer has another MIC: {told.get('trouble')}"
        answers = self.lossy[product.short, case.id, "they send"].answers if case.repeat else []
        if case.repeat and (len(answers) != 2 or answers[0] != answers[1]):
            return f"{len(answers)} answers, not two that are one"
        return ""

    # The run.

    def run(self):
        work = os.path.join(self.args.dir, "run")
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        self.gateway = Gateway(self.args.bin, os.path.join(work, "gateway"))
        objects = self.start_products(work)
        with open(os.path.join(work, "partners.toml"), "w", encoding="utf-8") as file:
            file.write(objects)
        self.gateway.run("apply", "-f", file.name)
        self.gateway.start()
        needs_certificate = lambda case: case.web == "client-certificate"
        self.both_ways(lambda case: case.web == "http")
        # Over TLS every way: asynchronous MDNs come to the address that the station tells now.
        self.gateway.run("station", "set", "GATE", "--url", f"https://127.0.0.1:{self.gateway.tls_port}/as2")
        time.sleep(FOLLOWS)
        self.both_ways(lambda case: case.web != "http" and not needs_certificate(case))
        # Now nobody connects by TLS without a pinned certificate.
        self.gateway.stop()
        self.gateway.configure("required")
        self.gateway.start()
        self.both_ways(needs_certificate)

    def both_ways(self, chosen):
        for product in self.products:
            began = time.monotonic()
            self.we_send(product, chosen)
            self.they_send(product, chosen)
            print(f"{product.title}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def start_products(self, work):
        """Starts them, and writes down their partners."""
        # The gateway's TLS client certificate.
        pair = os.path.join(self.gateway.home, "client")
        self_signed(pair, ["rsa:2048"], "gate client")
        self.gateway.run("cert", "add", "GATE-tls", "--purpose", "https", "--file", f"{pair}.pem")
        objects = ""
        for kind in PRODUCTS:
            if self.args.product and kind.short.lower() not in self.args.product:
                continue
            home = os.path.join(work, kind.short.lower())
            identities(home, self.gateway)
            shutil.copy(f"{pair}.crt", os.path.join(home, "gateway-client.pem"))
            product = kind(home, os.path.join(self.args.dir, "tools"))
            product.all = self.args.limits
            self.products.append(product)
            product.start(self.all, {case: self.gateway_url(product, case) for case in self.all})
            objects += certificate_toml(f"{kind.short}-tls".lower(), "https", product, "tls.crt")
            for case in self.all:
                url = product.url(case)
                if case.repeat:
                    url = url.replace(f":{product.port(case)}/", f":{self.proxy(product, case, 'we send', product.port(case)).port}/")
                objects += partner_toml(product, case, url)
        return objects

    def stop(self):
        for product in self.products:
            product.stop()
        if self.gateway:
            self.gateway.stop()

    def table(self):
        """product × case × direction; the limits and failures with their reasons below."""
        marks, reasons = {}, {}
        for product, case, direction, outcome, reason in self.rows:
            mark, told = outcome, reason if outcome == "limit" else product.help(case)
            if told and outcome != "FAIL":
                number = reasons.setdefault((product.title, told), len(reasons) + 1)
                mark = f"({number})" if outcome == "limit" else f"pass({number})"
            marks[product.title, direction, case.id] = mark
        titles = [product.title for product in self.products]
        width = max(len(case.title) for case in self.all)
        print(f"\n{'case':5} {'what':{width}} " + " ".join(f"{title:^17}" for title in titles))
        print(f"{'':5} {'':{width}} " + " ".join(f"{'we send':8} {'they send':8}" for _ in titles))
        for case in self.all:
            cells = [marks.get((title, direction, case.id), "–") for title in titles for direction in ("we send", "they send")]
            print(f"{case.id:5} {case.title:{width}} " + " ".join(f"{cell:8}" for cell in cells))
        print()
        for (title, reason), number in reasons.items():
            print(f"({number}) {title}: {reason}")
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
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    args = parser.parse_args()
    args.bin, args.dir = os.path.abspath(args.bin), os.path.abspath(args.dir)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("error: the run took too long"))
    signal.alarm(WHOLE_RUN * (3 if args.limits else 1))
    runner, began = Runner(args), time.monotonic()
    try:
        runner.run()
    finally:
        runner.stop()
    good = runner.table()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(0 if good else 1)


main()
