"""The positive matrix: each case is one message with its settings."""
from dataclasses import dataclass, replace

BOTH = ("we send", "they send")


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
    filed: str = ""  # the name under which the gateway files it, where that is another
    size: int = 0  # bytes of noise instead of a small order
    web: str = "http"  # https, tls1.2, tls1.3, client-certificate, basic
    files: tuple = ()  # several attachments (RFC 6362): name and content type of each
    roll: str = ""  # old and new certificates side by side: theirs, ours-before, ours-after
    repeat: bool = False  # the first answer is lost on its way, and the message comes again
    directions: tuple = BOTH

    @property
    def title(self):
        what = [word for word in (self.sign, self.scheme if self.scheme != "pkcs1" else "", self.encrypt) if word] or ["plain"]
        what += [self.transport] if self.transport != "pkcs1" else []
        what += [self.key] if self.key != "rsa" else []
        what += [f"zlib {self.compress}"] if self.compress else []
        what += [f"{self.size >> 10} KiB"] if self.size else []
        what += [f"id {self.peer[:20]}"] if self.peer else []
        what += [f"file {ascii(self.file)[1:-1][:28]}"] if self.file else []
        what += [f"{len(self.files)} attachments"] if self.files else []
        what += [f"old and new certificates, {self.roll}"] if self.roll else []
        what += ["answer lost, sent again"] if self.repeat else []
        what += [self.web] if self.web != "http" else []
        receipt = f"{'signed' if self.mdn_signed else 'unsigned'} {self.mdn}" if self.mdn else "no MDN"
        return f"{' '.join(what)}, {receipt}"

    @property
    def receipt(self):
        """`mdn` as `as2gate partner set` wants it."""
        return (self.mdn + ("-signed" if self.mdn_signed else "")) if self.mdn else "none"


def packaging_and_receipts(web=""):
    """P01–P20: {plain, encrypted, signed, both} × {no MDN, unsigned, signed; the MDNs also asynchronous}; P…s over HTTPS."""
    number = 0
    for mdn, signed in (("", False), ("sync", False), ("sync", True), ("async", False), ("async", True)):
        for sign, encrypt in (("", ""), ("", "aes256-cbc"), ("sha256", ""), ("sha256", "aes256-cbc")):
            number += 1
            case = Case(f"P{number:02}", sign=sign, encrypt=encrypt, mdn=mdn, mdn_signed=signed)
            yield replace(case, id=f"{case.id}s", web="https") if web else case


CASES = [
    *packaging_and_receipts(),
    *packaging_and_receipts("https"),
    Case("C1", sign="", encrypt="", compress="before-sign"),
    Case("C2", sign="", compress="before-sign"),
    Case("C3", encrypt="", compress="before-sign"),
    Case("C4", compress="before-sign"),
    Case("C5", compress="after-sign"),
    Case("C6", compress="after-sign", encrypt=""),
    Case("L1", compress="before-sign", mdn="async", size=1 << 20),
    Case("L2", size=50 << 10),
    Case("T1", web="tls1.2"),
    Case("T2", web="tls1.3"),
    Case("T3", web="client-certificate"),
    Case("T4", web="basic"),
    Case("S1", sign="sha1"),
    Case("S2", sign="sha224"),
    Case("S3", sign="sha384"),
    Case("S4", sign="sha512"),
    Case("S5", scheme="pss"),
    Case("S6", key="ec-p256"),
    Case("S7", key="ec-p384", sign="sha384"),
    Case("S8", key="ec-p256", encrypt=""),
    # Never sent: accepted from old partners only.
    Case("E1", encrypt="3des", directions=("they send",)),
    Case("E2", encrypt="aes128-cbc"),
    Case("E3", encrypt="aes192-cbc"),
    Case("E4", encrypt="aes128-gcm"),
    Case("E5", encrypt="aes256-gcm"),
    Case("E6", transport="oaep-sha1"),
    Case("E7", transport="oaep-sha256"),
    Case("E8", transport="oaep-sha512"),
    Case("N1", peer="Peer 1 <a>,b!#"),
    Case("N2", peer="Peer<a>b!#[]:;'"),
    Case("N3", peer="Peer" + "x" * 120),
    Case("N4", peer='Peer "a\\b"'),
    Case("F1", file="order 1 (copy).edi"),
    Case("F2", file="größe 訂單.edi"),
    Case("F3", file="=?UTF-8?B?Z3LDtsOfZS5lZGk=?=", filed="größe.edi", directions=("they send",)),
    Case("F4", file="o" * 230 + ".edi", filed="o" * 196 + ".edi", directions=("they send",)),
    Case("F5", file="CON.edi", filed="_CON.edi", directions=("they send",)),
    Case("M1", files=(("order.xml", "application/xml"), ("scan.pdf", "application/pdf"), ("photo.tiff", "image/tiff"))),
    Case("K1", roll="theirs"),
    Case("K2", roll="ours-before"),
    Case("K3", roll="ours-after"),
    Case("D1", repeat=True),
]
