"""What bulk.py has pyas2lib do, in a process of its own: sign and encrypt a file, or decrypt and verify what came of it.

    pyas2_bulk.py compose KEYS PAYLOAD BODY    as ALICE for BOB; BODY has the headers in front
    pyas2_bulk.py open KEYS BODY PAYLOAD       as BOB; writes the payload
"""
import pathlib
import sys

from pyas2lib import Message, Organization, Partner


def sides(keys, us, them):
    key, cert = (keys / f"{us}.pem.key").read_bytes() + (keys / f"{us}.pem").read_bytes(), (keys / f"{them}.pem").read_bytes()
    return (Organization(as2_name=us, sign_key=key, sign_key_pass="", decrypt_key=key, decrypt_key_pass=""),
            Partner(as2_name=them, verify_cert=cert, encrypt_cert=cert, validate_certs=False, sign=True, digest_alg="sha256",
                    encrypt=True, enc_alg="aes_256_cbc"))


def main():
    mode, keys, source, target = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
    if mode == "compose":
        message = Message(*sides(keys, "alice", "bob"))
        message.build(source.read_bytes(), filename="payload", content_type="application/octet-stream", subject="bench")
        head = "".join(f"{name}: {' '.join(value.split())}\r\n" for name, value in message.headers.items())
        target.write_bytes(head.encode() + b"\r\n" + message.content)
    else:
        org, partner = sides(keys, "bob", "alice")
        message = Message()
        status, trouble, _ = message.parse(source.read_bytes(), find_org_cb=lambda _: org, find_partner_cb=lambda _: partner)
        if status != "processed" or not (message.signed and message.encrypted):
            sys.exit(f"{status}: {trouble}")
        target.write_bytes(message.content)


main()
