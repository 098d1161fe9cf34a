#!/usr/bin/env python3
"""`openssl cms` as a peer of `make interop`: openssl_peer.py HOME. MIME, headers and MDNs are made here, by the letter of
RFC 4130; every CMS object is made and opened by the command line of OpenSSL. Where that was built without zlib, as Debian's
is, CompressedData is made and opened here, with Python's zlib."""
import base64
import email.message
import email.utils
import hashlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
import zlib
from urllib.parse import quote

import wire

CIPHERS = {"3des": "-des3"} | {f"aes{bits}-{mode}": f"-aes-{bits}-{mode}" for bits in (128, 192, 256) for mode in ("cbc", "gcm")}
DIGESTS = {name.replace("sha", "sha-"): name for name in ("sha1", "sha224", "sha256", "sha384", "sha512")} | {"md5": "md5"}


def cms(*args, data):
    """`openssl cms` with its input on stdin; what it wrote."""
    ran = subprocess.run(["openssl", "cms", *args], input=data, capture_output=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"openssl cms {' '.join(args)}: {ran.stderr.decode()}")
    return ran.stdout


def entity(kind, body, *more):
    return "".join(f"{line}\r\n" for line in (f"Content-Type: {kind}", *more)).encode() + b"\r\n" + body


def split(data):
    """Headers (lower case) and body of a MIME entity."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = re.sub(rb"\r\n[ \t]+", b" ", head).decode("latin-1").split("\r\n")
    return {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}, body


def decoded(headers, body):
    return base64.b64decode(body) if headers.get("content-transfer-encoding", "").lower() == "base64" else body


def parts(headers, body):
    """The raw parts of a multipart, without the line ends that belong to the boundaries (RFC 2046 §5.1.1)."""
    boundary = re.search(r'boundary="?([^";]+)"?', headers["content-type"])[1].encode()
    return [piece[2:] for piece in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]]


def mic(digest, data):
    return f"{base64.b64encode(hashlib.new(digest, data).digest()).decode()}, {digest}"


# RFC 3274 §1.1: id-ct-compressedData, id-alg-zlibCompress, id-data.
COMPRESSED = bytes.fromhex("060b2a864886f70d0109100109")
ZLIB = bytes.fromhex("300d060b2a864886f70d0109100308")
DATA = bytes.fromhex("06092a864886f70d010701")


def der(tag, *contents):
    content = b"".join(contents)
    return bytes([tag, 0x84]) + len(content).to_bytes(4, "big") + content


def compress(data):
    if wire.OPENSSL_HAS_ZLIB:
        return cms("-compress", "-binary", "-outform", "DER", data=data)
    content = der(0x30, DATA, der(0xA0, der(0x04, zlib.compress(data))))
    return der(0x30, COMPRESSED, der(0xA0, der(0x30, b"\x02\x01\x00", ZLIB, content)))


def uncompress(data):
    if wire.OPENSSL_HAS_ZLIB:
        return cms("-uncompress", "-binary", "-inform", "DER", data=data)
    octets = []

    def walk(at, end):
        """Gathers the octet strings, whatever the lengths' form (X.690 §8.1.3)."""
        while at < end and data[at:at + 2] != b"\0\0":
            tag, length, at = data[at], data[at + 1], at + 2
            if length > 0x80:
                at, length = at + length - 0x80, int.from_bytes(data[at:at + length - 0x80], "big")
            if length == 0x80:
                at = walk(at, end) + 2
                continue
            if tag & 0x20:
                walk(at, at + length)
            elif tag == 0x04:
                octets.append(data[at:at + length])
            at += length
        return at

    walk(0, len(data))
    return zlib.decompress(b"".join(octets))


def file_name(headers):
    """RFC 2231 by Python's own reader; `filename*` before `filename` (RFC 6266 §4.3)."""
    reader = email.message.Message()
    reader["Content-Disposition"] = headers.get("content-disposition", "")
    names = [value for name, value in reader.get_params(header="Content-Disposition") if name == "filename"]
    names.sort(key=lambda name: isinstance(name, tuple), reverse=True)
    return email.utils.collapse_rfc2231_value(names[0]) if names else None


def attachment(kind, name, data):
    """A payload part; a name beyond ASCII as RFC 2231 writes it."""
    named = f'; filename="{name}"' if name.isascii() else f"; filename*=UTF-8''{quote(name)}"
    return entity(kind, data, f"Content-Disposition: attachment{named if name else ''}", "Content-Transfer-Encoding: binary")


def related(pieces):
    """multipart/related around entities (RFC 6362, RFC 2387)."""
    boundary = secrets.token_hex(12)
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + piece + b"\r\n" for piece in pieces)
    return entity(f'multipart/related; type="application/xml"; boundary="{boundary}"', body + f"--{boundary}--\r\n".encode())


class OpenSsl(wire.Peer):
    def path(self, name):
        return os.path.join(self.home, name)

    def sign(self, station, data, digest, scheme="pkcs1"):
        """multipart/signed around an entity."""
        own = self.path(f"{station}.own.pem")
        pss = ["-keyopt", "rsa_padding_mode:pss"] if scheme == "pss" else []
        made = cms("-sign", "-binary", "-outform", "DER", "-md", digest, "-signer", own, "-inkey", own, *pss, data=data)
        boundary = secrets.token_hex(12)
        signature = entity("application/pkcs7-signature; name=smime.p7s", base64.encodebytes(made).replace(b"\n", b"\r\n"),
                           "Content-Transfer-Encoding: base64")
        micalg = next(new for new, old in DIGESTS.items() if old == digest)
        kind = f'multipart/signed; protocol="application/pkcs7-signature"; micalg={micalg}; boundary="{boundary}"'
        mark = f"--{boundary}".encode()
        return entity(kind, mark + b"\r\n" + data + b"\r\n" + mark + b"\r\n" + signature + b"\r\n" + mark + b"--\r\n")

    def verified(self, station, headers, body):
        """The signed part and the digest's name."""
        first, second = parts(headers, body)
        signature = decoded(*split(second))
        cert = self.path(f"{station}.pem")
        with tempfile.NamedTemporaryFile() as content:
            content.write(first)
            content.flush()
            cms("-verify", "-binary", "-inform", "DER", "-content", content.name, "-certfile", cert, "-nointern", "-noverify", data=signature)
        printed = cms("-cmsout", "-print", "-noout", "-inform", "DER", data=signature).decode("latin-1")
        scheme = "pss" if "rsassaPss" in printed else "pkcs1"
        return first, re.search(r"digestAlgorithms:\s+algorithm: (\w+)", printed)[1].lower(), scheme

    def opened(self, station, headers, body):
        """Peels every layer: facts, payload, what the MIC is over."""
        facts, raw, own = {"sign": "", "encrypt": "", "compress": False}, None, self.path(f"{station}.own.pem")
        data, signed = None, None
        while True:
            kind = headers.get("content-type", "").lower()
            if "multipart/signed" in kind:
                signed, facts["sign"], facts["scheme"] = self.verified(station, headers, body)
                data = signed
            elif "pkcs7-mime" in kind and "compressed-data" in kind:
                data = uncompress(decoded(headers, body))
                facts["compress"] = True
            elif "pkcs7-mime" in kind:
                made = decoded(headers, body)
                printed = cms("-cmsout", "-print", "-noout", "-inform", "DER", data=made).decode("latin-1")
                facts["encrypt"] = re.search(r"contentEncryptionAlgorithm:\s+algorithm: ([\w-]+)", printed)[1].lower()
                data = cms("-decrypt", "-binary", "-inform", "DER", "-recip", own, "-inkey", own, data=made)
            else:
                facts["files"], payload = self.payload(headers, body)
                return facts, payload, signed if signed is not None else data if data is not None else raw
            headers, body = split(data)
            raw = body

    @staticmethod
    def payload(headers, body):
        """The names and the bytes of all attachments."""
        pieces = [split(piece) for piece in parts(headers, body)] if "multipart/" in headers.get("content-type", "") else [(headers, body)]
        return [file_name(head) for head, _ in pieces], b"".join(decoded(*piece) for piece in pieces)

    def receive(self, headers, body):
        station = self.name(wire.value(headers, "AS2-From"))
        facts, payload, over = self.opened(station, {name.lower(): text for name, text in headers}, body)
        facts["status"] = "processed"
        if not wire.value(headers, "Disposition-Notification-To"):
            return facts, payload, None, None
        wanted = wire.value(headers, "Disposition-Notification-Options")
        digest = facts["sign"] or "sha256"
        report = self.report(headers, mic(digest, body if over is None else over))
        if "signed-receipt-protocol" in wanted:
            report = self.sign(station, report, digest)
        head, text = split(report)
        own = [("AS2-From", wire.value(headers, "AS2-To")), ("AS2-To", wire.value(headers, "AS2-From"))]
        mdn = (self.common(own) + [("Content-Type", head["content-type"])], text)
        return facts, payload, mdn, wire.value(headers, "Receipt-Delivery-Option") or None

    @staticmethod
    def report(headers, digest):
        boundary = secrets.token_hex(12)
        fields = "\r\n".join((
            "Reporting-UA: openssl cms",
            f"Original-Recipient: rfc822; {wire.value(headers, 'AS2-To')}",
            f"Final-Recipient: rfc822; {wire.value(headers, 'AS2-To')}",
            f"Original-Message-ID: {wire.value(headers, 'Message-ID')}",
            "Disposition: automatic-action/MDN-sent-automatically; processed",
            f"Received-Content-MIC: {digest}", "",
        )).encode()
        pieces = (entity("text/plain", b"Received.\r\n"), entity("message/disposition-notification", fields))
        body = b"".join(b"--" + boundary.encode() + b"\r\n" + piece + b"\r\n" for piece in pieces)
        kind = f'multipart/report; report-type=disposition-notification; boundary="{boundary}"'
        return entity(kind, body + f"--{boundary}--\r\n".encode())

    @staticmethod
    def common(names):
        return [("AS2-Version", "1.2"), *names, ("Message-ID", f"<{secrets.token_hex(12)}@openssl.test>"),
                ("Date", email.utils.formatdate()), ("MIME-Version", "1.0")]

    def send(self, order):
        station, pieces = order["to"], []
        for one in order["files"]:
            with open(one["file"], "rb") as file:
                payload = file.read()
            pieces.append(attachment(one["type"], one["name"], payload))
        data = over = plain = pieces[0] if len(pieces) == 1 else related(pieces)
        digest = order["sign"] or "sha256"
        if order["compress"] == "before-sign":
            data = over = self.compressed(data)
        if order["sign"]:
            data = self.sign(station, data, digest, order["scheme"])
        if order["compress"] == "after-sign":
            data = self.compressed(data)
        if order["encrypt"]:
            data = self.encrypted(station, data, order)
        if order["sign"] == "":
            over = payload if data is plain else plain
        head, body = split(data)
        quoted = order["me"]
        if any(letter in quoted for letter in ' "\\'):
            quoted = '"' + quoted.replace("\\", "\\\\").replace('"', '\\"') + '"'
        headers = self.common([("AS2-From", quoted), ("AS2-To", station)]) + [("Subject", "from the peer")]
        headers += [(name.title(), text) for name, text in head.items()]
        if order["mdn"]:
            headers.append(("Disposition-Notification-To", "peer@openssl.test"))
        if order["mdn"] and order["mdn_signed"]:
            wanted = f"signed-receipt-protocol=optional, pkcs7-signature; signed-receipt-micalg=optional, {digest}"
            headers.append(("Disposition-Notification-Options", wanted))
        url = self.mdn_url(order)
        if order["mdn"] == "async":
            headers.append(("Receipt-Delivery-Option", url))
        status, got, text = self.post(order, headers, body)
        told = {"http": status}
        if not order["mdn"]:
            return told
        if order["mdn"] == "async":
            got, text = self.mdn(order)
        return told | self.judged(station, {name.lower(): value for name, value in got}, text, mic(digest, over))

    def compressed(self, data):
        return entity("application/pkcs7-mime; smime-type=compressed-data; name=smime.p7z", compress(data), "Content-Transfer-Encoding: binary")

    def encrypted(self, station, data, order):
        options = ["-recip", self.path(self.certificate(station, "encrypt"))]
        if order["transport"].startswith("oaep"):
            options += ["-keyopt", "rsa_padding_mode:oaep", "-keyopt", f"rsa_oaep_md:{order['transport'][5:]}"]
        if order["transport"].startswith("ecdh"):
            options += ["-keyopt", f"ecdh_kdf_md:{order['transport'][5:]}"]
        made = cms("-encrypt", "-binary", "-outform", "DER", CIPHERS[order["encrypt"]], *options, data=data)
        kind = "authEnveloped-data" if order["encrypt"].endswith("gcm") else "enveloped-data"
        return entity(f"application/pkcs7-mime; smime-type={kind}; name=smime.p7m", made, "Content-Transfer-Encoding: binary")

    def judged(self, station, headers, body, expected):
        """What an MDN says, its signature verified."""
        told = {"mdn_signed": "multipart/signed" in headers.get("content-type", ""), "trouble": ""}
        if told["mdn_signed"]:
            headers, body = split(self.verified(station, headers, body)[0])
        _, fields = split(parts(headers, body)[1])
        fields, _ = split(fields.rstrip() + b"\r\n\r\n")
        told["status"] = fields["disposition"].partition(";")[2].strip()
        got, _, named = fields.get("received-content-mic", "").partition(",")
        told["mic"] = [got.strip(), named.strip().lower().replace("-", "")] == expected.split(", ")
        if not told["mic"]:
            told["trouble"] = f"MIC {got},{named}, expected {expected}"
        return told


OpenSsl(sys.argv[1]).serve()
