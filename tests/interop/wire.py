"""What the Python peers share: loopback HTTP and HTTPS servers, a POST, and the three paths that every peer answers.

    POST /as2    an AS2 message; what the peer made of it goes to HOME/in/<AS2-To, percent-encoded>.json and .payload.
                 With ?early its asynchronous MDN goes before the answer, and once more after it
    POST /mdn    an asynchronous MDN
    POST /send   {"me", "to", "url", "file", …}: sends one message and answers with what came of it, as JSON
"""
import base64
import http.client
import json
import os
import queue
import ssl
import subprocess
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit

OPENSSL_HAS_ZLIB = subprocess.run(
    ["openssl", "cms", "-compress", "-outform", "DER"], input=b"x", capture_output=True, check=False).returncode == 0
TIMEOUT = 180  # seconds for an answer or an asynchronous MDN


# The kinds of listener that a peer has, each on a port of its own.
WEB = ("http", "https", "tls1.2", "tls1.3", "client-certificate", "basic")
CREDENTIALS = "Basic " + base64.b64encode(b"gate:secret").decode()


def tls(home, web, server):
    """The TLS side of a kind of listener, or of a client that uses it; None without TLS. The certificates are pinned."""
    if web == "http":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if web == "tls1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if web == "tls1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if not server:
        context.load_verify_locations(os.path.join(home, "gateway-tls.pem"))
    if server or web == "client-certificate":
        context.load_cert_chain(os.path.join(home, "tls.pem"))
    if server and web == "client-certificate":
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(os.path.join(home, "gateway-client.pem"))
    return context


def post(url, headers, body, context=None):
    """One POST; the answer's status, header list and body."""
    at = urlsplit(url)
    if at.scheme == "https":
        connection = http.client.HTTPSConnection(at.hostname, at.port, timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=TIMEOUT)
    connection.request("POST", at.path or "/", body=body, headers=dict(headers))
    answer = connection.getresponse()
    got = answer.status, answer.getheaders(), answer.read()
    connection.close()
    return got


def value(headers, name):
    """The value of a header of a list, or ''."""
    return next((text for found, text in headers if found.lower() == name.lower()), "")


def block(headers, body):
    """Header list and body as one MIME entity."""
    return b"".join(f"{name}: {text}\r\n".encode("latin-1", "replace") for name, text in headers) + b"\r\n" + body


class Peer:
    """Runs `receive(headers, body)` and `send(order)` of a product behind the three paths.

    `receive` gives (facts, payload, MDN or None, URL for it or None); an MDN is (header list, body).
    `send` gives a dict; it may wait for its MDN with `self.mdn(order)`.
    """

    def __init__(self, home):
        self.home, self.waiting, self.ports = home, {}, {}
        os.makedirs(os.path.join(home, "in"), exist_ok=True)

    def read(self, *path):
        with open(os.path.join(self.home, *path), "rb") as file:
            return file.read()

    def mdn_url(self, order):
        self.waiting[order["me"]] = queue.Queue()
        return f"{'http' if order['web'] == 'http' else 'https'}://127.0.0.1:{self.ports[order['web']]}/mdn"

    def post(self, order, headers, body):
        """Posts a message as its case wants it; once more where the first answer gets lost."""
        headers = headers + ([("Authorization", CREDENTIALS)] if order["web"] == "basic" else [])
        for last in (False, True) if order["repeat"] else (True,):
            try:
                return post(order["url"], headers, body, tls(self.home, order["web"], server=False))
            except (http.client.HTTPException, OSError):
                if last:
                    raise

    def certificate(self, station, use):
        """The gateway's certificate that this side verifies with, or encrypts to."""
        other = f"{station}.encrypt.pem"
        return other if use == "encrypt" and os.path.exists(os.path.join(self.home, other)) else f"{station}.pem"

    def mdn(self, order):
        """Header list and body of the asynchronous MDN."""
        return self.waiting[order["me"]].get(timeout=TIMEOUT)

    def note(self, headers, facts, payload):
        stem = os.path.join(self.home, "in", quote(self.name(value(headers, "AS2-To")), safe=""))
        if payload is not None:
            with open(stem + ".payload", "wb") as file:
                file.write(payload)
        with open(stem + ".tmp", "w", encoding="utf-8") as file:
            json.dump(facts, file)
        os.rename(stem + ".tmp", stem + ".json")

    @staticmethod
    def name(header):
        """An AS2 name without its quotes (RFC 4130 §6.2)."""
        if len(header) > 1 and header[0] == header[-1] == '"':
            return header[1:-1].replace('\\"', '"').replace("\\\\", "\\")
        return header

    def as2(self, headers, body, via, early):
        try:
            facts, payload, mdn, url = self.receive(headers, body)
        except Exception:
            self.note(headers, {"status": "crash", "trouble": traceback.format_exc(), "via": via}, None)
            return 500, [], b""
        self.note(headers, {**facts, "via": via}, payload)
        if mdn and url:
            mdn = mdn[0] + ([("Authorization", CREDENTIALS)] if via["web"] == "basic" else []), mdn[1]
            context = tls(self.home, via["web"], server=False)
            if early:
                post(url, *mdn, context)
            threading.Thread(target=post, args=(url, *mdn, context), daemon=True).start()
        return (200, *mdn) if mdn and not url else (200, [], b"")

    def answer(self, path, headers, body, via):
        if via["web"] == "basic" and value(headers, "Authorization") != CREDENTIALS:
            return 401, [("WWW-Authenticate", 'Basic realm="peer"')], b""
        if path.startswith("/as2"):
            return self.as2(headers, body, via, path.endswith("?early"))
        if path == "/mdn":
            self.waiting[self.name(value(headers, "AS2-To"))].put((headers, body))
            return 200, [], b""
        try:
            told = self.send(json.loads(body))
        except Exception:
            told = {"trouble": traceback.format_exc()}
        return 200, [("Content-Type", "application/json")], json.dumps(told).encode()

    def serve(self):
        """Says `ready {"http": PORT, …}` and serves until it is killed, or until its parent closes its standard input."""
        for web in WEB:
            self.ports[web] = self.listen(web)
        print("ready", json.dumps(self.ports), flush=True)
        sys.stdin.read()

    def listen(self, web):
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                via = {"web": web}
                if web != "http":
                    shown = self.connection.getpeercert(binary_form=True) if web == "client-certificate" else None
                    via |= {"tls": self.connection.version(), "client": bool(shown)}
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, reply = peer.answer(self.path, self.headers.items(), body, via)
                self.send_response(status)
                for name, text in headers:
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self):
                stream, address = super().get_request()
                # The handshake is for the connection's own thread.
                return (context.wrap_socket(stream, server_side=True, do_handshake_on_connect=False) if context else stream), address

            def handle_error(self, *_):
                pass

        context = tls(self.home, web, server=True)
        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_address[1]
