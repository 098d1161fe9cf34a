"""The positive matrix: each case is one message with its settings."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One message. Names of algorithms are those of `as2gate partner set`."""

    id: str
    sign: str = "sha256"
    encrypt: str = "aes256-cbc"
    compress: str = ""  # before-sign, after-sign
    mdn: str = "sync"  # async, or empty for none
    mdn_signed: bool = True
    scheme: str = "pkcs1"  # pss
    transport: str = "pkcs1"  # oaep-sha1, oaep-sha256, …
    key: str = "rsa"  # ec-p256, ec-p384: both sides sign with ECDSA; encryption is then to the EC certificate, by ECDH
    peer: str = ""  # the peer's AS2 id where it is the point of the case
    file: str = ""  # the file's name where it is the point of the case
    size: int = 0  # bytes of noise instead of a small order

    @property
    def title(self):
        what = [word for word in (self.sign, self.scheme if self.scheme != "pkcs1" else "", self.encrypt) if word] or ["plain"]
        what += [self.transport] if self.transport != "pkcs1" else []
        what += [self.key] if self.key != "rsa" else []
        what += [f"zlib {self.compress}"] if self.compress else []
        what += [f"{self.size >> 10} KiB"] if self.size else []
        what += [f"id {self.peer}"] if self.peer else []
        what += [f"file {self.file}"] if self.file else []
        receipt = f"{'signed' if self.mdn_signed else 'unsigned'} {self.mdn}" if self.mdn else "no MDN"
        return f"{' '.join(what)}, {receipt}"

    @property
    def receipt(self):
        """`mdn` as `as2gate partner set` wants it."""
        return (self.mdn + ("-signed" if self.mdn_signed else "")) if self.mdn else "none"


def packaging_and_receipts():
    """P01–P20: {plain, encrypted, signed, both} × {no MDN, unsigned, signed; the MDNs also asynchronous}."""
    number = 0
    for mdn, signed in (("", False), ("sync", False), ("sync", True), ("async", False), ("async", True)):
        for sign, encrypt in (("", ""), ("", "aes256-cbc"), ("sha256", ""), ("sha256", "aes256-cbc")):
            number += 1
            yield Case(f"P{number:02}", sign=sign, encrypt=encrypt, mdn=mdn, mdn_signed=signed)


CASES = [
    *packaging_and_receipts(),
    Case("C1", sign="", encrypt="", compress="before-sign"),
    Case("C2", sign="", compress="before-sign"),
    Case("C3", encrypt="", compress="before-sign"),
    Case("C4", compress="before-sign"),
    Case("C5", compress="after-sign"),
    Case("L1", compress="before-sign", mdn="async", size=1 << 20),
    Case("S1", sign="sha1"),
    Case("S2", sign="sha224"),
    Case("S3", sign="sha384"),
    Case("S4", sign="sha512"),
    Case("S5", scheme="pss"),
    Case("S6", key="ec-p256"),
    Case("S7", key="ec-p384", sign="sha384"),
    Case("E1", encrypt="3des"),
    Case("E2", encrypt="aes128-cbc"),
    Case("E3", encrypt="aes192-cbc"),
    Case("E4", encrypt="aes128-gcm"),
    Case("E5", encrypt="aes256-gcm"),
    Case("E6", transport="oaep-sha1"),
    Case("E7", transport="oaep-sha256"),
    Case("E8", transport="oaep-sha512"),
    Case("N1", peer="Peer 1 <a>,b!#"),
    Case("F1", file="order 1 (copy).edi"),
    Case("L2", size=50 << 10),
]
