#!/usr/bin/env python3
"""A small AS2 peer on pyas2lib, for tests: a second opinion on everything that goes over the wire.

    peer.py receive --me PY --peer ALICE --key KEY.PEM --peer-cert CERT.PEM --out DIR
        Listens on a loopback port, prints `ready PORT`, and for each message writes DIR/<n>.payload and DIR/<n>.json.
        The MDN asked for goes back in the answer, or by a POST of its own.
    peer.py send --url URL --me PY --peer ALICE --key KEY.PEM --peer-cert CERT.PEM --file FILE [options]
        Posts one message, checks the MDN asked for, and prints what came of it as one JSON object.
"""
import argparse
import http.client
import itertools
import json
import logging
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from pyas2lib import Mdn, Message, Organization, Partner

logging.disable(logging.CRITICAL)
TIMEOUT = 60


def post(url, headers, body):
    """One POST; the answer's status, header list and body."""
    at = urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=TIMEOUT)
    connection.request("POST", at.path or "/", body=body, headers=headers)
    answer = connection.getresponse()
    got = answer.status, answer.getheaders(), answer.read()
    connection.close()
    return got


def one_line(headers):
    """Headers as HTTP wants them: nothing folded."""
    return {name: " ".join(value.split()) for name, value in headers.items()}


def raw(headers, body):
    """Header list and body as pyas2lib reads them."""
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in headers) + b"\r\n" + body


class Server(ThreadingHTTPServer):
    """Hands each POST to a function that answers (status, headers, body)."""

    daemon_threads = True

    def __init__(self, answer, port=0):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, reply = answer(self.headers.items(), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", port), Handler)

    @property
    def port(self):
        return self.server_address[1]


def us(args, mdn_url=None):
    key = open(args.key, "rb").read()
    return Organization(as2_name=args.me, sign_key=key, decrypt_key=key, mdn_url=mdn_url, domain="peer.test")


def them(args, **settings):
    cert = open(args.peer_cert, "rb").read()
    settings.setdefault("enc_alg", "aes_256_cbc")
    return Partner(as2_name=args.peer, verify_cert=cert, encrypt_cert=cert, validate_certs=False, **settings)


def receive(args):
    org, partner, numbers = us(args), them(args), itertools.count(1)
    os.makedirs(args.out, exist_ok=True)

    def answer(headers, body):
        message = Message()
        status, trouble, mdn = message.parse(
            raw(headers, body),
            find_org_cb=lambda name: org if name == args.me else None,
            find_partner_cb=lambda name: partner if name == args.peer else None,
        )
        facts = {
            "status": status,
            "trouble": str(trouble[0]) if trouble and trouble[0] else "",
            "message_id": message.message_id,
            "signed": message.signed,
            "digest": message.digest_alg,
            "encrypted": message.encrypted,
            "cipher": message.enc_alg,
            "compressed": message.compressed,
            "mic": message.mic.decode() if message.mic else "",
            "file": message.payload.get_filename() if message.payload else None,
            "type": message.payload.get_content_type() if message.payload else None,
            "headers": list(headers),
        }
        stem = os.path.join(args.out, str(next(numbers)))
        if status == "processed":
            content = message.content
            with open(stem + ".payload", "wb") as file:
                file.write(content if isinstance(content, bytes) else content.encode())
        with open(stem + ".tmp", "w") as file:
            json.dump(facts, file)
        os.rename(stem + ".tmp", stem + ".json")
        if mdn is None:
            return 200, {}, b""
        if mdn.mdn_mode == "ASYNC":
            threading.Thread(target=post, args=(mdn.mdn_url, one_line(mdn.headers), mdn.content)).start()
            return 200, {}, b""
        return 200, one_line(mdn.headers), mdn.content

    server = Server(answer)
    print("ready", server.port, flush=True)
    server.serve_forever()


def send(args):
    arrived, got = threading.Event(), []

    def take(headers, body):
        got.append((list(headers), body))
        arrived.set()
        return 200, {}, b""

    server = Server(take, args.mdn_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {"sign": bool(args.sign), "encrypt": bool(args.encrypt), "compress": args.compress}
    settings.update({"digest_alg": args.sign} if args.sign else {})
    settings.update({"enc_alg": args.encrypt} if args.encrypt else {})
    if args.mdn != "none":
        settings["mdn_mode"] = args.mdn.upper()
        settings["mdn_digest_alg"] = args.mdn_signed or None
    message = Message(us(args, f"http://127.0.0.1:{server.port}/mdn"), them(args, **settings))
    payload = open(args.file, "rb").read()
    message.build(payload, filename=os.path.basename(args.file), content_type=args.type, subject="from the peer")
    status, headers, body = post(args.url, one_line(message.headers), message.content)
    told = {"http": status, "message_id": message.message_id, "mic": message.mic.decode() if message.mic else ""}
    if args.mdn == "async":
        if not arrived.wait(TIMEOUT):
            sys.exit("no async MDN came")
        headers, body = got[0]
    if args.mdn != "none":
        mdn = Mdn()
        text = raw(headers, body)
        told["disposition"], told["detail"] = mdn.parse(text, find_message_cb=lambda *_: message)
        told["signed"] = any(name.lower() == "content-type" and "multipart/signed" in value for name, value in headers)
        told["mic_agrees"] = bool(message.mic) and message.mic in text
        told["mdn"] = text.decode("latin-1")
    print(json.dumps(told))


def main():
    parser = argparse.ArgumentParser()
    modes = parser.add_subparsers(dest="mode", required=True)
    for name in ("receive", "send"):
        mode = modes.add_parser(name)
        for option in ("--me", "--peer", "--key", "--peer-cert"):
            mode.add_argument(option, required=True)
    modes.choices["receive"].add_argument("--out", required=True)
    sender = modes.choices["send"]
    sender.add_argument("--url", required=True)
    sender.add_argument("--file", required=True)
    sender.add_argument("--type", default="application/octet-stream")
    sender.add_argument("--sign", default="")
    sender.add_argument("--encrypt", default="")
    sender.add_argument("--compress", action="store_true")
    sender.add_argument("--mdn", choices=("none", "sync", "async"), default="sync")
    sender.add_argument("--mdn-signed", default="")
    sender.add_argument("--mdn-port", type=int, default=0)
    args = parser.parse_args()
    receive(args) if args.mode == "receive" else send(args)


main()
