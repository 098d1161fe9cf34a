"""Load for an AS2 receiver: one message, made once with `openssl cms`, posted again and again under fresh Message-IDs.

The Message-ID is an HTTP header, outside of the signature, so a load costs this process next to nothing: about a tenth of a
millisecond for each message. Every answer has to be a positive MDN that carries the message's MIC.
"""
import base64
import hashlib
import secrets
import select
import socket
import subprocess
import time


def cms(*args, data):
    return subprocess.run(["openssl", "cms", *map(str, args), "-binary", "-outform", "DER"], input=data, capture_output=True, check=True).stdout


class Message:
    """Signed with the sender's key, encrypted to the receiver's certificate, asking for a signed sync MDN."""

    def __init__(self, sender, receiver, payload, key, cert, recipient):
        part = b"Content-Type: application/edi-x12\r\nContent-Transfer-Encoding: binary\r\n" \
               b"Content-Disposition: attachment; filename=order.edi\r\n\r\n" + payload
        signature = base64.encodebytes(cms("-sign", "-md", "sha256", "-signer", cert, "-inkey", key, data=part)).replace(b"\n", b"\r\n")
        mark = b"--bench-boundary"
        signed = b'Content-Type: multipart/signed; protocol="application/pkcs7-signature"; micalg=sha-256; boundary="bench-boundary"\r\n\r\n' \
            + mark + b"\r\n" + part + b"\r\n" + mark + b"\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\n" \
            b"Content-Transfer-Encoding: base64\r\n\r\n" + signature + b"\r\n" + mark + b"--\r\n"
        self.body = cms("-encrypt", "-aes256", "-recip", recipient, data=signed)
        self.mic = base64.b64encode(hashlib.sha256(part).digest())
        self.head = "".join(f"{name}: {value}\r\n" for name, value in {
            "AS2-Version": "1.2", "AS2-From": sender, "AS2-To": receiver, "Subject": "bench", "Date": "Thu, 01 Jan 2026 00:00:00 GMT",
            "MIME-Version": "1.0", "Disposition-Notification-To": "bench@bench.test", "Content-Transfer-Encoding": "binary",
            "Disposition-Notification-Options": "signed-receipt-protocol=required, pkcs7-signature; signed-receipt-micalg=required, sha-256",
            "Content-Type": "application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m",
            "Content-Length": str(len(self.body)), "Connection": "keep-alive",
        }.items()).encode()


class Client:
    """One connection with one message under way."""

    def __init__(self, address):
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = bytearray()

    def complete(self):
        """Bytes of the answer, once it is whole; 0 before. An answer without a length ends with the connection."""
        end = self.answer.find(b"\r\n\r\n")
        if end < 0:
            return 0
        head = bytes(self.answer[:end]).lower()
        if b"transfer-encoding: chunked" in head:
            last = self.answer.find(b"\r\n0\r\n\r\n", end)
            return last + 7 if last >= 0 else 0
        at = head.find(b"content-length:")
        if at < 0:
            return 0
        whole = end + 4 + int(head[at + 15:].split(b"\r\n", 1)[0])
        return whole if len(self.answer) >= whole else 0


def replay(address, path, message, count, connections):
    """Posts `count` messages, so many at once; wall seconds. Ends the program's run at the first answer that is no receipt."""
    run, host = secrets.token_hex(6), f"{address[0]}:{address[1]}"
    start = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n".encode() + message.head
    poll, clients, sent, done = select.epoll(), {}, 0, 0

    def fire(client):
        nonlocal sent
        sent += 1
        client.answer.clear()
        # The body fits into the socket's buffer.
        client.sock.sendall(start + f"Message-ID: <{run}-{sent}@bench.test>\r\n\r\n".encode() + message.body)

    def connect():
        client = Client(address)
        clients[client.sock.fileno()] = client
        poll.register(client.sock.fileno(), select.EPOLLIN)
        return client

    began = time.monotonic()
    for _ in range(min(connections, count)):
        fire(connect())
    while done < count:
        if not (events := poll.poll(60)):
            raise SystemExit(f"error: no answer for 60 s after {done} of {count} messages")
        for descriptor, _ in events:
            client = clients[descriptor]
            got = client.sock.recv(1 << 16)
            client.answer += got
            if got and not client.complete():
                continue
            check(bytes(client.answer), message)
            done += 1
            closes = not got or b"connection: close" in bytes(client.answer[:1000]).lower()
            if closes or sent == count:
                poll.unregister(descriptor)
                clients.pop(descriptor).sock.close()
                client = connect() if sent < count else None
            if client:
                fire(client)
    return time.monotonic() - began


def check(answer, message):
    line = answer.lower().partition(b"\r\ndisposition:")[2].partition(b"\r\n")[0]
    if not (answer.startswith(b"HTTP/1.1 200") and line.endswith(b"processed") and message.mic in answer):
        raise SystemExit(f"error: not the receipt that was asked for: {answer[:4000]!r}")
