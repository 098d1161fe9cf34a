"""The products: how each is started, what it can do, and how its side of a case is read."""
import glob
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT = 60  # seconds for one order to a peer


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class HttpPeer:
    """A product behind the three paths of wire.py."""

    process = None

    def __init__(self, home, tools, gateway_port):
        self.home, self.tools, self.gateway_port = home, tools, gateway_port

    def command(self):
        raise NotImplementedError

    def start(self, _cases):
        log = open(os.path.join(self.home, "peer.log"), "wb")
        self.process = subprocess.Popen(self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        # Node warns on standard output first.
        line = next((line.split() for line in self.process.stdout if line.startswith(b"ready ")), None)
        if not line:
            raise SystemExit(f"error: {self.title} did not start; see {log.name}")
        self.port = int(line[1])

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def id(self, case):
        return case.peer.replace("Peer", self.short) or f"{self.short}-{case.id}"

    def url(self, _case):
        return f"http://127.0.0.1:{self.port}/as2"

    def partner(self, _case):
        return {}

    def received(self, case, _name):
        """Payload and facts of what the peer got from us."""
        stem = os.path.join(self.home, "in", quote(self.id(case), safe=""))
        if not os.path.exists(stem + ".json"):
            return None, {}
        with open(stem + ".json", encoding="utf-8") as file:
            facts = json.load(file)
        if not os.path.exists(stem + ".payload"):
            return None, facts
        with open(stem + ".payload", "rb") as file:
            return file.read(), facts

    def send(self, _case, order):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/send", json.dumps(order).encode())
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return json.load(answer)

    def finish(self, _patience):
        pass

    def outcome(self, _case, _name):
        return {}


class PyAs2(HttpPeer):
    title, short = "pyas2lib 1.4.4", "PY"

    def command(self):
        return [os.path.join(self.tools, "python/bin/python"), os.path.join(HERE, "pyas2_peer.py"), self.home]

    @staticmethod
    def limit(case, direction):
        if case.encrypt.endswith("-gcm"):
            return "no AES-GCM"
        if case.key != "rsa":
            return "RSA keys only"
        if case.transport not in ("pkcs1", "oaep-sha1"):
            return "OAEP with SHA-1 only"
        if case.scheme == "pss" and direction == "they send":
            return "writes no parameters with RSASSA-PSS, which then means SHA-1, and uses another digest"
        if case.compress == "after-sign" and direction == "they send":
            return "compresses before signing only"
        return ""


class OpenSsl(HttpPeer):
    title, short = "openssl cms", "SSL"
    zlib = None

    def command(self):
        return [sys.executable, os.path.join(HERE, "openssl_peer.py"), self.home]

    @classmethod
    def limit(cls, case, _direction):
        if case.compress:
            if cls.zlib is None:
                ran = subprocess.run(["openssl", "cms", "-compress", "-outform", "DER"], input=b"x", capture_output=True, check=False)
                cls.zlib = ran.returncode == 0
            return "" if cls.zlib else "this build of OpenSSL has no zlib"
        return ""


class LibAs2(HttpPeer):
    title, short = "libas2 0.8.2", "JS"

    def command(self):
        # Node 20 refuses RSA PKCS#1 v1.5 for decryption, on which libas2 stands.
        return ["node", "--security-revert=CVE-2023-46809", os.path.join(HERE, "libas2_peer.js"), self.home, os.path.join(self.tools, "node/node_modules")]

    @staticmethod
    def limit(case, direction):
        if case.compress:
            return "no compression"
        if case.key != "rsa":
            return "RSA keys only"
        if case.encrypt.endswith("-gcm"):
            return "no AuthEnvelopedData: puts AES-GCM into EnvelopedData, against RFC 5083 and 5084"
        if case.sign == "sha224":
            return "no SHA-224"
        if case.transport != "pkcs1" and direction == "they send":
            return "no choice of the key transport: OAEP always"
        if case.scheme == "pss":
            return "no RSASSA-PSS"
        if case.mdn and case.mdn_signed and direction == "we send":
            return "the signature of its MDNs does not fit the bytes that it sends"
        return ""


class OpenAs2:
    """The OpenAS2 server: sends what is dropped into its outbox, files what it receives in a directory of the sender."""

    title, short = "OpenAS2 2.10.1", "OA"
    process = None
    CIPHERS = {"3des": "3DES", "aes128-cbc": "AES128", "aes192-cbc": "AES192", "aes256-cbc": "AES256"}

    def __init__(self, home, tools, gateway_port):
        self.home, self.tools, self.gateway_port = home, tools, gateway_port
        self.port, self.mdn_port = free_port(), free_port()
        self.settled = set()

    @staticmethod
    def limit(case, direction):
        if case.encrypt.endswith("-gcm"):
            return "no AES-GCM"
        if case.key != "rsa":
            return "not tried: ECDSA"
        if case.scheme == "pss":
            return "no RSASSA-PSS"
        if case.mdn and not case.mdn_signed and direction == "we send":
            return "throws when it writes an unsigned MDN (no handler for multipart/report)"
        if case.peer and direction == "they send":
            return "does not take an MDN when its own AS2 name has blanks"
        if case.id == "C1" and direction == "they send":
            return "leaves the MIME headers out of the MIC of a message that is only compressed, against RFC 5402"
        if case.transport != "pkcs1":
            return "RSA PKCS#1 v1.5 only"
        return ""

    def id(self, case):
        # Without a comma, which ends a value in its configuration.
        return case.peer.replace("Peer", self.short).replace(",", "") or f"{self.short}{case.id}"

    def url(self, _case):
        return f"http://127.0.0.1:{self.port}/"

    def partner(self, _case):
        return {"mdn_urls": [f"http://127.0.0.1:{self.mdn_port}/"]}

    def outbox(self, case):
        return os.path.join(self.home, "outbox", case.id)

    def start(self, cases):
        store = os.path.join(self.home, "certs.p12")
        for alias, name, args in (("oa", "own", ["-inkey", "GATE.own.key", "-in", "GATE.own.crt"]), ("gate", "gate", ["-nokeys", "-in", "GATE.pem"])):
            subprocess.run(
                ["openssl", "pkcs12", "-export", "-legacy", *args, "-name", alias, "-caname", alias, "-out", f"{name}.p12", "-passout", "pass:interop"],
                cwd=self.home, check=True, capture_output=True)
        shutil.copy(os.path.join(self.home, "own.p12"), store)
        subprocess.run(
            ["keytool", "-importcert", "-noprompt", "-alias", "gate", "-file", "GATE.pem", "-keystore", store, "-storetype", "PKCS12",
             "-storepass", "interop"], cwd=self.home, check=True, capture_output=True)
        for name, text in (("partnerships.xml", self.partnerships(cases)), ("config.xml", self.config(cases)), ("commands.xml", "<commands/>")):
            with open(os.path.join(self.home, name), "w", encoding="utf-8") as file:
                file.write(text)
        log = open(os.path.join(self.home, "peer.log"), "wb")
        self.process = subprocess.Popen(
            ["java", "-Xmx512m", "-Dopenas2.log.level=INFO", "-Dorg.apache.commons.logging.Log=org.openas2.logging.Log",
             "-cp", os.path.join(self.tools, "openas2", "*"), "org.openas2.app.OpenAS2Server", os.path.join(self.home, "config.xml")],
            cwd=self.home, stdin=subprocess.PIPE, stdout=log, stderr=log)
        for _ in range(300):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.mdn_port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"error: OpenAS2 did not start; see {log.name}")

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def partnerships(self, cases):
        lines = ['<partner name="GATE" as2_id="GATE" x509_alias="gate" email="gate@gate.test"/>']
        for case in cases:
            name = escape(self.id(case), {'"': "&quot;"})
            lines.append(f'<partner name="{case.id}" as2_id="{name}" x509_alias="oa" email="oa@peer.test"/>')
            ours = {
                "protocol": "as2", "content_transfer_encoding": "binary", "subject": "from the peer", "no_chunked_max_size": "100000000",
                "as2_url": f"http://127.0.0.1:{self.gateway_port}/as2", "resend_max_retries": "0",
                "prevent_canonicalization_for_mic": "true" if case.size else "false",
            }
            if case.sign:
                ours["sign"] = case.sign.upper()
            if case.encrypt:
                ours["encrypt"] = self.CIPHERS.get(case.encrypt, "AES256")
            if case.compress:
                ours |= {"compression_type": "ZLIB", "compression_mode": "compress-" + ("before" if case.compress.startswith("before") else "after") + "-signing"}
            ours["as2_mdn_options"] = "none"
            if case.mdn:
                digest = (case.sign or "sha256").upper()
                ours["as2_mdn_to"] = "oa@peer.test"
                if case.mdn_signed:
                    ours["as2_mdn_options"] = f"signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=optional, {digest}"
            if case.mdn == "async":
                ours["as2_receipt_option"] = f"http://127.0.0.1:{self.mdn_port}/"
            for sender, receiver in ((case.id, "GATE"), ("GATE", case.id)):
                lines.append(f'<partnership name="{sender}-{receiver}"><sender name="{sender}"/><receiver name="{receiver}"/>')
                fields = ours if sender != "GATE" else {"protocol": "as2"}
                lines += [f"<attribute name={quoteattr(key)} value={quoteattr(value)}/>" for key, value in fields.items()]
                lines.append("</partnership>")
        return "<partnerships>\n" + "\n".join(lines) + "\n</partnerships>\n"

    def config(self, cases):
        pollers = "".join(
            f'''<module classname="org.openas2.processor.receiver.AS2DirectoryPollingModule" outboxdir="%home%/outbox/{case.id}"
 errordir="%home%/error/{case.id}" sentdir="%home%/sent/{case.id}" stored_sent_filename="$msg.attributes.filename$" interval="1"
 defaults={quoteattr(f"sender.as2_id={self.id(case)}, receiver.as2_id=GATE")} sendfilename="true"
 mimetype="{'application/octet-stream' if case.size else 'application/edi-x12'}"/>\n'''
            for case in cases if not self.limit(case, "they send"))
        return f'''<openas2>
<properties log_date_format="yyyy-MM-dd HH:mm:ss.SSS" as2_message_id_format="OPENAS2-$rand.UUID$@peer.test"/>
<certificates classname="org.openas2.cert.PKCS12CertificateFactory" filename="%home%/certs.p12" password="interop" interval="300"/>
<partnerships classname="org.openas2.partner.XMLPartnershipFactory" filename="%home%/partnerships.xml"/>
<loggers><logger classname="org.openas2.logging.ConsoleLogger"/></loggers>
<commands classname="org.openas2.cmd.XMLCommandRegistry" filename="%home%/commands.xml"/>
<processor classname="org.openas2.processor.DefaultProcessor" pendingMDN="%home%/pending" pendingMDNinfo="%home%/pendinginfo">
<module classname="org.openas2.processor.sender.AS2SenderModule"/>
<module classname="org.openas2.processor.sender.MDNSenderModule"/>
{pollers}
<module classname="org.openas2.processor.storage.MDNFileModule" filename="%home%/mdn/$mdn.msg.sender.as2_id$-$mdn.msg.receiver.as2_id$/$date.yyyyMMddhhmmssSSS$" protocol="as2" tempdir="%home%/temp"/>
<module classname="org.openas2.processor.storage.MessageFileModule" filename="%home%/inbox/$msg.receiver.as2_id$/$msg.attributes.filename$" protocol="as2" tempdir="%home%/temp"/>
<module classname="org.openas2.processor.receiver.AS2ReceiverModule" address="127.0.0.1" port="{self.port}" errordir="%home%/inbox-error"/>
<module classname="org.openas2.processor.receiver.AS2MDNReceiverModule" address="127.0.0.1" port="{self.mdn_port}"/>
</processor>
</openas2>
'''

    def received(self, case, _name):
        # Its directories leave out what a file name should not have.
        letters = lambda text: "".join(letter for letter in text if letter.isalnum())
        found = [place for place in glob.glob(os.path.join(self.home, "inbox", "*", "*")) if letters(place.split(os.sep)[-2]) == letters(self.id(case))]
        if not found:
            return None, {}
        with open(found[0], "rb") as file:
            return file.read(), {}

    def send(self, case, order):
        shutil.copy(order["file"], os.path.join(self.home, "stage"))
        os.rename(os.path.join(self.home, "stage"), os.path.join(self.outbox(case), order["name"]))
        self.settled.add(case.id)
        return {}

    def finish(self, patience):
        """Waits until every case has a file in `sent` (receipt verified) or in `error`."""
        end = time.monotonic() + patience
        while time.monotonic() < end and not all(self.ended(name) for name in self.settled):
            time.sleep(0.2)

    def ended(self, name):
        return next((place for place in ("sent", "error") if any(files for _, _, files in os.walk(os.path.join(self.home, place, name)))), "")

    def outcome(self, case, _name):
        place = self.ended(case.id)
        return {"status": "processed" if place == "sent" else place or "no receipt was taken"}


PRODUCTS = [PyAs2, LibAs2, OpenAs2, OpenSsl]
