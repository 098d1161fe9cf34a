#!/usr/bin/env python3
"""pyas2lib as a peer of `make interop`: pyas2_peer.py HOME, with <station>.own.pem (key and
certificate of the peer) and <station>.pem (the gateway's certificate) in HOME for each station of the gateway."""
import logging
import sys

from pyas2lib import Mdn, Message, Organization, Partner

import wire

logging.disable(logging.CRITICAL)
CIPHERS = {"3des": "tripledes_192_cbc"} | {f"aes{bits}-cbc": f"aes_{bits}_cbc" for bits in (128, 192, 256)}


def one_line(headers):
    """Headers as HTTP wants them: nothing folded."""
    return [(name, " ".join(text.split())) for name, text in headers.items()]


class PyAs2(wire.Peer):
    def us(self, name, mdn_url=None):
        key = self.read("GATE.own.pem")
        return Organization(as2_name=name, sign_key=key, decrypt_key=key, mdn_url=mdn_url, domain="peer.test")

    def them(self, name, **settings):
        certs = {f"{use}_cert": self.read(self.certificate(name, use)) for use in ("verify", "encrypt")}
        return Partner(as2_name=name, validate_certs=False, **certs, **settings)

    def receive(self, headers, body):
        message = Message()
        status, trouble, mdn = message.parse(wire.block(headers, body), find_org_cb=self.us, find_partner_cb=self.them)
        content, names = self.payload(message.payload) if message.payload else (None, [])
        facts = {
            "status": status,
            "trouble": str(trouble[0]) if trouble and trouble[0] else "",
            "sign": message.digest_alg if message.signed else "",
            "encrypt": message.enc_alg if message.encrypted else "",
            "compress": bool(message.compressed),
            "files": names,
        }
        reply = (one_line(mdn.headers), mdn.content) if mdn else None
        return facts, content, reply, mdn.mdn_url if mdn and mdn.mdn_mode == "ASYNC" else None

    @staticmethod
    def payload(entity):
        """The bytes of all parts, and their names."""
        parts = entity.get_payload() if entity.is_multipart() else [entity]
        return b"".join(part.get_payload(decode=True) for part in parts), [part.get_filename() for part in parts]

    def send(self, order):
        settings = {"sign": bool(order["sign"]), "encrypt": bool(order["encrypt"]), "compress": bool(order["compress"])}
        settings.update({"digest_alg": order["sign"]} if order["sign"] else {})
        settings.update({"enc_alg": CIPHERS[order["encrypt"]]} if order["encrypt"] else {})
        settings.update({"sign_alg": "rsassa_pss"} if order["scheme"] == "pss" else {})
        settings.update({"key_enc_alg": "rsaes_oaep"} if order["transport"].startswith("oaep") else {})
        if order["mdn"]:
            settings.update(mdn_mode=order["mdn"].upper(), mdn_digest_alg=(order["sign"] or "sha256") if order["mdn_signed"] else None)
        message = Message(self.us(order["me"], self.mdn_url(order)), self.them(order["to"], **settings))
        (one,) = order["files"]
        with open(one["file"], "rb") as file:
            message.build(file.read(), filename=one["name"] or None, content_type=one["type"], subject="from the peer")
        status, headers, body = self.post(order, one_line(message.headers), message.content)
        told = {"http": status}
        if not order["mdn"]:
            return told
        if order["mdn"] == "async":
            headers, body = self.mdn(order)
        mdn, text = Mdn(), wire.block(headers, body)
        told["status"], detail = mdn.parse(text, find_message_cb=lambda *_: message)
        told["trouble"] = str(detail or "")
        told["mdn_signed"] = "multipart/signed" in wire.value(headers, "Content-Type")
        # pyas2lib computes no MIC for a message that is not signed.
        told["mic"] = message.mic in text if message.mic else None
        return told


PyAs2(sys.argv[1]).serve()
