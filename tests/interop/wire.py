"""What the Python peers share: a loopback HTTP server, a POST, and the three paths that every peer answers.

    POST /as2    an AS2 message; what the peer made of it goes to HOME/in/<AS2-To, percent-encoded>.json and .payload
    POST /mdn    an asynchronous MDN
    POST /send   {"me", "to", "url", "file", …}: sends one message and answers with what came of it, as JSON
"""
import http.client
import json
import os
import queue
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, urlsplit

TIMEOUT = 40  # seconds for an answer or an asynchronous MDN


def post(url, headers, body):
    """One POST; the answer's status, header list and body."""
    at = urlsplit(url)
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
        self.home, self.waiting = home, {}
        os.makedirs(os.path.join(home, "in"), exist_ok=True)

    def read(self, *path):
        with open(os.path.join(self.home, *path), "rb") as file:
            return file.read()

    def mdn_url(self, order):
        self.waiting[order["me"]] = queue.Queue()
        return f"http://127.0.0.1:{self.port}/mdn"

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

    def as2(self, headers, body):
        try:
            facts, payload, mdn, url = self.receive(headers, body)
        except Exception:
            self.note(headers, {"status": "crash", "trouble": traceback.format_exc()}, None)
            return 500, [], b""
        self.note(headers, facts, payload)
        if mdn and url:
            threading.Thread(target=post, args=(url, *mdn), daemon=True).start()
        return (200, *mdn) if mdn and not url else (200, [], b"")

    def answer(self, path, headers, body):
        if path == "/as2":
            return self.as2(headers, body)
        if path == "/mdn":
            self.waiting[self.name(value(headers, "AS2-To"))].put((headers, body))
            return 200, [], b""
        try:
            told = self.send(json.loads(body))
        except Exception:
            told = {"trouble": traceback.format_exc()}
        return 200, [("Content-Type", "application/json")], json.dumps(told).encode()

    def serve(self):
        """Says `ready PORT` and serves until it is killed, or until its parent closes its standard input."""
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, reply = peer.answer(self.path, self.headers.items(), body)
                self.send_response(status)
                for name, text in headers:
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("ready", self.port, flush=True)
        sys.stdin.read()
