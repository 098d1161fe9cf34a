"""The products: how each is started, what it can do, and how its side of a case is read."""
import ctypes
import fcntl
import glob
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import wire

HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT = 240  # seconds for one order to a peer


def port_block():
    """The first block of a thousand ports that no other process has, as tests/src/process.rs takes them; ours while we live."""
    for block in itertools.cycle(range(20)):
        try:
            lock = open(os.path.join(tempfile.gettempdir(), f"as2gate-test-ports-{block}"), "a")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # taken, or another user's
            time.sleep(0.05)
            continue
        for port in itertools.cycle(range(10_000 + block * 1_000, 11_000 + block * 1_000)):
            yield port, lock


PORTS = port_block()


def free_port():
    """Below the range from which the system draws, so that no connection gets it before its server does."""
    while True:
        port, _ = next(PORTS)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def spawn(command, home, **pipes):
    """Starts a program that ends with us, however we end."""
    log = open(os.path.join(home, "peer.log"), "ab")
    streams = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, **pipes}
    return subprocess.Popen(command, cwd=home, preexec_fn=die_with_parent, **streams)


def die_with_parent():
    """PR_SET_PDEATHSIG with SIGKILL, where there is a prctl."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9)


class HttpPeer:
    """A product behind the three paths of wire.py."""

    process = None

    def __init__(self, home, tools):
        self.home, self.tools = home, tools

    def command(self):
        raise NotImplementedError

    def start(self, _cases, _gateway_urls):
        self.process = spawn(self.command(), self.home, stdout=subprocess.PIPE)
        # Node warns on standard output first.
        line = next((line.split(b" ", 1)[1] for line in self.process.stdout if line.startswith(b"ready ")), None)
        if not line:
            raise SystemExit(f"error: {self.title} did not start; see {self.home}/peer.log")
        self.ports = json.loads(line)

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def id(self, case):
        return case.peer.replace("Peer", self.short)[:128] or f"{self.short}-{case.id}"

    def port(self, case):
        return self.ports[case.web]

    def url(self, case):
        return f"{'http' if case.web == 'http' else 'https'}://127.0.0.1:{self.port(case)}/as2"

    def partner(self, _case):
        return {}

    @staticmethod
    def own(case):
        """The station for which the product's own key in a case was made."""
        return case.station

    @staticmethod
    def key_transport(case):
        """How the product wraps the content keys of a case."""
        return case.transport

    @staticmethod
    def help(_case):
        """What the product had done for it in a case; empty if nothing."""
        return ""

    def filed(self, _case, name):
        """The name that a file of a product gets at the gateway."""
        return name

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
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['http']}/send", json.dumps(order).encode())
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
            return "no AES-GCM (constants.py)"
        if case.key != "rsa":
            return "RSA keys only (cms.py)"
        if case.transport != "pkcs1" and direction == "they send":
            return "RSA PKCS#1 v1.5 always: Message.build passes no key_enc_alg on (as2.py)"
        if case.transport not in ("pkcs1", "oaep-sha1"):
            return "OAEP with SHA-1 only (oscrypto)"
        if case.scheme == "pss" and direction == "they send":
            return "writes no parameters with RSASSA-PSS, which then means SHA-1, and uses another digest"
        if case.compress == "after-sign" and direction == "they send":
            return "compresses before signing only"
        if case.files:
            return "builds messages of one payload" if direction == "they send" else "takes the last attachment for all that is signed"
        if not case.file.isascii() and direction == "we send":
            return "reads the ASCII name that stands beside the real one"
        return ""


class OpenSsl(HttpPeer):
    title, short = "openssl cms", "SSL"

    def command(self):
        return [sys.executable, os.path.join(HERE, "openssl_peer.py"), self.home]

    @staticmethod
    def limit(_case, _direction):
        return ""

    @staticmethod
    def help(case):
        return "built without zlib: Python's zlib packed and unpacked" if case.compress and not wire.OPENSSL_HAS_ZLIB else ""


class LibAs2(HttpPeer):
    title, short = "libas2 0.8.2", "JS"

    def command(self):
        # Node 20 refuses RSA PKCS#1 v1.5 for decryption, on which libas2 stands.
        return ["node", "--security-revert=CVE-2023-46809", os.path.join(HERE, "libas2_peer.js"), self.home, os.path.join(self.tools, "node/node_modules")]

    @staticmethod
    def limit(case, direction):
        if case.compress:
            return "no compression (AS2Crypto.js)"
        if case.key != "rsa":
            return "RSA keys only: names no curve for the others"
        if case.encrypt.endswith("-gcm"):
            return "no AuthEnvelopedData: puts AES-GCM into EnvelopedData, against RFC 5083 and 5084"
        if case.sign == "sha224":
            return "no SHA-224 (Constants.js)"
        if case.transport not in ("pkcs1", "oaep-sha512") and direction == "they send":
            return "no choice of the key transport: OAEP with SHA-512 always (pkijs)"
        if case.scheme == "pss":
            return "no RSASSA-PSS (AS2SignedData.js)"
        if case.files and direction == "they send":
            return "composes messages of one payload"
        if '"' in case.peer:
            return "writes an AS2 name with quotes as an encoded word (RFC 2047), and reads none that is escaped"
        return ""

    @staticmethod
    def key_transport(_case):
        # Rows of another key transport than OAEP with SHA-512 are its limit, where that is their point.
        return "oaep-sha512"

    def partner(self, case):
        # It reads every part as text.
        return {"transfer_encoding": "base64"} if case.size or case.files else {}


class OpenAs2:
    """The OpenAS2 server: sends what is dropped into its outbox, files what it receives in a directory of the sender."""

    title, short = "OpenAS2 2.10.1", "OA"
    # Whether it polls for cases beyond its limits, too.
    all = False
    CIPHERS = {"3des": "3DES", "aes128-cbc": "AES128", "aes192-cbc": "AES192", "aes256-cbc": "AES256"}
    # JavaMail's own entry, which the server loses when it sets up BouncyCastle's: without it there is no unsigned MDN.
    MAILCAP = "multipart/*;; x-java-content-handler=com.sun.mail.handlers.multipart_mixed\n"

    def __init__(self, home, tools, tracking=False):
        """`tracking`: with the database of its messages, as its own distribution is set up."""
        self.home, self.tools, self.servers, self.tracking = home, tools, [], tracking
        self.settled = set()

    @staticmethod
    def limit(case, direction):
        if case.encrypt.endswith("-gcm"):
            return "no AES-GCM"
        if case.key != "rsa" and case.encrypt:
            return "encrypts to RSA keys only, and has one certificate for each partner"
        if case.scheme == "pss" and direction == "they send":
            return "does not sign by RSASSA-PSS"
        if case.transport != "pkcs1":
            return "RSA PKCS#1 v1.5 only (BcRSAKeyTransEnvelopedRecipient)"
        if case.web in ("client-certificate", "basic") and direction == "we send":
            return "its receiver asks for no client certificate and no credentials"
        if case.early:
            return "answers, and then sends its MDN, once (AS2ReceiverHandler)"
        if len(case.file) > 255 and direction == "they send":
            return "names a file as the file system does, which ends at 255 bytes"
        if case.files:
            return "one payload in a message"
        if case.compress and not case.sign and not case.encrypt and direction == "they send":
            return "leaves the MIME headers out of the MIC of a message that is only compressed, against RFC 5402"
        return ""

    key_transport = staticmethod(HttpPeer.key_transport)

    @staticmethod
    def own(case):
        # One key for all that it can do.
        return case.station if case.key != "rsa" and case.encrypt else "GATE"

    @staticmethod
    def help(case):
        if case.roll.startswith("ours"):
            return "one certificate for each partner: encrypts to the one that it verifies with"
        return "signs by RSA: its SHA256WITHEC is no name of a signature" if case.key != "rsa" else ""

    def id(self, case):
        return case.peer.replace("Peer", self.short)[:128] or f"{self.short}{case.id}"

    def known_as(self, case, direction):
        """The AS2 name in its configuration, in quotes where it wants them: receiving, it takes off those around blanks only."""
        name = self.id(case)
        quotes = '"' in name or " " in name and direction == "they send"
        return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' if quotes else name

    def server(self, case):
        """TLS 1.2 is a setting of the whole server, so that case has one to itself."""
        return next(server for server in self.servers if case in server.cases)

    def port(self, case):
        return self.server(case).ports["http" if case.web == "http" else "https"]

    def url(self, case):
        return f"{'http' if case.web == 'http' else 'https'}://127.0.0.1:{self.port(case)}/"

    def partner(self, case):
        return {"mdn_urls": [f"http://127.0.0.1:{self.server(case).ports['mdn']}/"]}

    def filed(self, case, name):
        # Its plain messages carry no name.
        return name if case.sign or case.encrypt or case.compress else "payload-1.x12"

    def start(self, cases, gateway_urls):
        self.stations = {case.station for case in cases}
        self.stores()
        old = [case for case in cases if case.web == "tls1.2"]
        for name, protocol, members in (("main", "TLSv1.3", [case for case in cases if case not in old]), ("tls12", "TLSv1.2", old)):
            if members:
                self.servers.append(OpenAs2Server(os.path.join(self.home, name), self, protocol, members, gateway_urls))
        for server in self.servers:
            server.wait()

    def stop(self):
        for server in self.servers:
            server.process.kill()
            server.process.wait()

    def stores(self):
        """In the form that BouncyCastle 1.66 reads: certs.p12 with the keys of messages, tls.p12 with that of TLS, trust.p12 with the gateway's."""
        self.store_key("certs.p12", "oa", "GATE.own")
        for station in self.stations:
            self.trust("certs.p12", station.lower(), f"{station}.pem")
        self.store_key("tls.p12", "tls", "tls")
        self.trust("trust.p12", "gate", "gateway-tls.pem")
        with open(os.path.join(self.home, ".mailcap"), "w", encoding="utf-8") as file:
            file.write(self.MAILCAP)

    def store_key(self, name, alias, stem):
        """A key and its certificate under this alias; what had it is replaced."""
        self.run("openssl", "pkcs12", "-export", "-legacy", "-inkey", f"{stem}.key", "-in", f"{stem}.crt", "-name", alias, "-out", "one.p12",
                 "-passout", "pass:interop")
        self.run("keytool", "-J-Dkeystore.pkcs12.legacy", "-importkeystore", "-noprompt", "-srckeystore", "one.p12", "-srcstorepass", "interop",
                 "-destkeystore", name, "-deststoretype", "PKCS12", "-deststorepass", "interop")

    def trust(self, name, alias, file):
        self.run("keytool", "-J-Dkeystore.pkcs12.legacy", "-importcert", "-noprompt", "-alias", alias, "-file", file, "-keystore", name,
                 "-storetype", "PKCS12", "-storepass", "interop")

    def run(self, *args):
        subprocess.run(args, cwd=self.home, check=True, capture_output=True)

    def received(self, case, _name):
        # Its directories leave out what a file name should not have.
        letters = lambda text: "".join(letter for letter in text if letter.isalnum())
        found = glob.glob(os.path.join(self.server(case).home, "inbox", "*", "*"))
        found = [place for place in found if letters(place.split(os.sep)[-2]) == letters(self.id(case))]
        if not found:
            return None, {}
        with open(found[0], "rb") as file:
            return file.read(), {"files": [os.path.basename(found[0])]}

    def send(self, case, order):
        (one,) = order["files"]
        home = self.server(case).home
        shutil.copy(one["file"], os.path.join(home, "stage"))
        os.rename(os.path.join(home, "stage"), os.path.join(home, "outbox", case.id, one["name"] or case.id))
        # A message without a receipt goes nowhere.
        if case.mdn:
            self.settled.add(case)
        return {}

    def finish(self, patience):
        """Waits until every case has a file in `sent` (receipt verified) or in `error`."""
        end = time.monotonic() + patience
        while time.monotonic() < end and not all(self.ended(case) for case in self.settled):
            time.sleep(0.2)

    def ended(self, case):
        home = self.server(case).home
        return next((place for place in ("sent", "error") if any(files for _, _, files in os.walk(os.path.join(home, place, case.id)))), "")

    def outcome(self, case, _name):
        place = self.ended(case)
        return {"status": "processed" if place == "sent" else place or "no receipt was taken"}


class OpenAs2Server:
    """One server: a directory with its configuration, a process, and its cases."""

    def __init__(self, home, product, protocol, cases, gateway_urls):
        self.home, self.product, self.protocol, self.cases, self.gateway_urls = home, product, protocol, cases, gateway_urls
        self.ports = {name: free_port() for name in ("http", "https", "mdn")}
        os.makedirs(home)
        for name, text in (("partnerships.xml", self.partnerships()), ("config.xml", self.config()), ("commands.xml", "<commands/>")):
            with open(os.path.join(home, name), "w", encoding="utf-8") as file:
                file.write(text)
        store = os.path.join(product.home, "{}.p12")
        properties = {
            "openas2.log.level": "INFO", "org.apache.commons.logging.Log": "org.openas2.logging.Log", "user.home": product.home,
            "jdk.tls.server.protocols": "TLSv1.2" if protocol == "TLSv1.2" else "TLSv1.3,TLSv1.2",
            "javax.net.ssl.trustStore": store.format("trust"), "javax.net.ssl.trustStorePassword": "interop",
            "javax.net.ssl.keyStore": store.format("tls"), "javax.net.ssl.keyStorePassword": "interop",
        }
        # It holds a message several times.
        heap = "2g" if any(case.size >= 10_000_000 for case in cases) else "512m"
        flags = [f"-D{key}={value}" for key, value in properties.items()]
        jars = os.path.join(product.tools, "openas2", "*")
        if product.tracking:
            self.make_tracking_table(jars)
        self.process = spawn(
            ["java", f"-Xmx{heap}", *flags, "-cp", jars, "org.openas2.app.OpenAS2Server", os.path.join(home, "config.xml")], home)

    def tracking(self):
        """Its tracking module as in its distribution, which has it in an H2 database of its own."""
        return '''<module classname="org.openas2.processor.msgtracking.DbTrackingModule" use_embedded_db="true" force_load_jdbc_driver="false"
 db_user="sa" db_pwd="OpenAS2" db_name="openas2" table_name="msg_metadata" db_directory="%home%/DB" jdbc_driver="org.h2.Driver"
 jdbc_connect_string="jdbc:h2:$component.db_directory$/$component.db_name$" sql_escape_character="'" tcp_server_start="false"/>
'''

    def make_tracking_table(self, jars):
        """The table that its distribution brings along. With an index, so that its look-ups do not slow down as it grows."""
        words = "sender_id receiver_id status state signature_algorithm encryption_algorithm compression file_name sent_file_name " \
                "content_type content_transfer_encoding mdn_mode"
        texts = "prior_msg_id mdn_id mdn_response state_msg"
        columns = ["id INT AUTO_INCREMENT PRIMARY KEY", "msg_id VARCHAR(1000) NOT NULL", "direction VARCHAR(25)",
                   "is_resend VARCHAR(1) DEFAULT 'N'", "resend_count INT DEFAULT 0", "create_dt TIMESTAMP", "update_dt TIMESTAMP"]
        columns += [f"{name} VARCHAR(255)" for name in words.split()] + [f"{name} LONGVARCHAR" for name in texts.split()]
        script = os.path.join(self.home, "tracking.sql")
        with open(script, "w", encoding="utf-8") as file:
            file.write(f"CREATE TABLE msg_metadata ({', '.join(columns)});\nCREATE INDEX by_msg_id ON msg_metadata (msg_id);\n")
        subprocess.run(["java", "-cp", jars, "org.h2.tools.RunScript", "-url", f"jdbc:h2:{self.home}/DB/openas2", "-user", "sa",
                        "-password", "OpenAS2", "-script", script], check=True, capture_output=True)

    def wait(self):
        for _ in range(300):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.ports["mdn"])) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"error: OpenAS2 did not start; see {self.home}/peer.log")

    def sending(self, case):
        """The attributes of the partnership from this side to the gateway."""
        ours = {
            "protocol": "as2", "content_transfer_encoding": "binary", "subject": "from the peer", "no_chunked_max_size": "200000000",
            "resend_requires_new_message_id": "false",
            "as2_url": self.gateway_urls[case], "resend_max_retries": "3" if case.repeat else "0", "as2_mdn_options": "none",
            "prevent_canonicalization_for_mic": "true" if case.size else "false",
        }
        if case.web == "basic":
            ours |= {"http_user": "gate", "http_password": "secret"}
        if case.sign:
            ours["sign"] = case.sign.upper()
        if case.encrypt:
            ours["encrypt"] = OpenAs2.CIPHERS.get(case.encrypt, "AES256")
        if case.compress:
            ours |= {"compression_type": "ZLIB", "compression_mode": "compress-" + ("before" if case.compress.startswith("before") else "after") + "-signing"}
        if case.mdn:
            digest = (case.sign or "sha256").upper()
            ours["as2_mdn_to"] = "oa@peer.test"
            if case.mdn_signed:
                ours["as2_mdn_options"] = f"signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=optional, {digest}"
        if case.mdn == "async":
            ours["as2_receipt_option"] = f"http://127.0.0.1:{self.ports['mdn']}/"
        return ours

    def partnerships(self):
        stations = sorted(self.product.stations)
        lines = [f'<partner name="{name}" as2_id="{name}" x509_alias="{name.lower()}" email="gate@gate.test"/>' for name in stations]
        for case in self.cases:
            names = {"they send": case.id, "we send": f"{case.id}-receives"}
            for direction, name in names.items():
                lines.append(f'<partner name="{name}" as2_id={quoteattr(self.product.known_as(case, direction))} x509_alias="oa" email="oa@peer.test"/>')
            for sender, receiver, fields in ((names["they send"], case.station, self.sending(case)), (case.station, names["we send"], {"protocol": "as2"})):
                lines.append(f'<partnership name="{sender}-{receiver}"><sender name="{sender}"/><receiver name="{receiver}"/>')
                lines += [f"<attribute name={quoteattr(key)} value={quoteattr(value)}/>" for key, value in fields.items()]
                lines.append("</partnership>")
        return "<partnerships>\n" + "\n".join(lines) + "\n</partnerships>\n"

    def poller(self, case):
        # By the partners' own names: a comma in an AS2 name would end it here.
        ids = f"sender.name={case.id}, receiver.name={case.station}"
        return f'''<module classname="org.openas2.processor.receiver.AS2DirectoryPollingModule" outboxdir="%home%/outbox/{case.id}"
 errordir="%home%/error/{case.id}" sentdir="%home%/sent/{case.id}" stored_sent_filename="$msg.attributes.filename$" interval="1"
 defaults={quoteattr(ids)} sendfilename="{'false' if case.unnamed else 'true'}" mimetype="{'application/octet-stream' if case.size else 'application/edi-x12'}"/>
'''

    def config(self):
        pollers = "".join(
            self.poller(case) for case in self.cases if "they send" in case.directions and (self.product.all or not self.product.limit(case, "they send")))
        return f'''<openas2>
<properties log_date_format="yyyy-MM-dd HH:mm:ss.SSS" as2_message_id_format="OPENAS2-$rand.UUID$@peer.test" http_ssl_protocols="{self.protocol}"/>
<certificates classname="org.openas2.cert.PKCS12CertificateFactory" filename="%home%/../certs.p12" password="interop" interval="300"/>
<partnerships classname="org.openas2.partner.XMLPartnershipFactory" filename="%home%/partnerships.xml"/>
<loggers><logger classname="org.openas2.logging.ConsoleLogger"/></loggers>
<commands classname="org.openas2.cmd.XMLCommandRegistry" filename="%home%/commands.xml"/>
<processor classname="org.openas2.processor.DefaultProcessor" pendingMDN="%home%/pending" pendingMDNinfo="%home%/pendinginfo">
<module classname="org.openas2.processor.sender.AS2SenderModule"/>
<module classname="org.openas2.processor.sender.MDNSenderModule"/>
<module classname="org.openas2.processor.resender.DirectoryResenderModule" resenddir="%home%/resend" errordir="%home%/resend-error" resenddelay="1"/>
{pollers}{self.tracking() if self.product.tracking else ''}
<module classname="org.openas2.processor.storage.MDNFileModule" filename="%home%/mdn/$mdn.msg.sender.as2_id$-$mdn.msg.receiver.as2_id$/$date.yyyyMMddhhmmssSSS$" protocol="as2" tempdir="%home%/temp"/>
<module classname="org.openas2.processor.storage.MessageFileModule" filename="%home%/inbox/$msg.receiver.as2_id$/$msg.content-disposition.filename$" protocol="as2" tempdir="%home%/temp"/>
<module classname="org.openas2.processor.receiver.AS2ReceiverModule" address="127.0.0.1" port="{self.ports['http']}" errordir="%home%/inbox-error"/>
<module classname="org.openas2.processor.receiver.AS2ReceiverModule" address="127.0.0.1" port="{self.ports['https']}" errordir="%home%/inbox-error"
 protocol="https" ssl_protocol="TLS" ssl_keystore="%home%/../tls.p12" ssl_keystore_password="interop"/>
<module classname="org.openas2.processor.receiver.AS2MDNReceiverModule" address="127.0.0.1" port="{self.ports['mdn']}"/>
</processor>
</openas2>
'''


PRODUCTS = [PyAs2, LibAs2, OpenAs2, OpenSsl]
