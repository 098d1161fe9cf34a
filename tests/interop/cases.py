"""The positive matrix: each case is one message with its settings.

Beyond it: messages of gigabytes (the rest of L1), which the products hold in memory, repeats while the first copy is in work or after a
restart (D1), receipts after the wait has ended (A1) and recorded messages (W1) are up to the gateway alone, with tests of their own.
"""
from dataclasses import dataclass, replace

BOTH = ("we send", "they send")
KEYS = ("rsa", "ec-p256", "ec-p384", "ec-p521")
# Stations with an old and a new certificate: the switch is to come, or has been.
ROLLS = {"ours-before": "GATE-before", "ours-after": "GATE-after"}
STATIONS = ["GATE", *(f"GATE-{key}" for key in KEYS[1:]), *ROLLS.values()]


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
    transport: str = "pkcs1"  # oaep-sha1, oaep-sha256, …; with an EC key ecdh-sha256, …
    key: str = "rsa"  # ec-p256, ec-p384, ec-p521: both sides sign with ECDSA; encryption is then to the EC certificate, by ECDH
    peer: str = ""  # the peer's AS2 id where it is the point of the case
    file: str = ""  # the file's name where it is the point of the case
    unnamed: bool = False  # the file comes without a name
    filed: str = ""  # the name under which the gateway files it, where that is another
    size: int = 0  # bytes of noise instead of a small order
    web: str = "http"  # https, tls1.2, tls1.3, client-certificate, basic
    files: tuple = ()  # several attachments (RFC 6362): name and content type of each
    roll: str = ""  # old and new certificates side by side: theirs, ours-before, ours-after
    repeat: bool = False  # the first answer is lost on its way, and the message comes again
    early: bool = False  # the asynchronous MDN comes before the answer to the message, and once more after it
    restart: bool = False  # AS2 Restart (draft-harding-as2-restart-07)
    directions: tuple = BOTH

    @property
    def title(self):
        what = [word for word in (self.sign, self.scheme if self.scheme != "pkcs1" else "", self.encrypt) if word] or ["plain"]
        what += [self.transport] if self.transport != "pkcs1" else []
        what += [self.key] if self.key != "rsa" else []
        what += [f"zlib {self.compress}"] if self.compress else []
        what += [f"{self.size / 1000:.0f} kB"] if self.size else []
        what += [f"id {self.peer[:20]}"] if self.peer else []
        what += [f"file {ascii(self.file)[1:-1][:28]}"] if self.file else []
        what += ["file without a name"] if self.unnamed else []
        what += [f"{len(self.files)} attachments"] if self.files else []
        what += [f"old and new certificates, {self.roll}"] if self.roll else []
        what += ["answer lost, sent again"] if self.repeat else []
        what += ["MDN before the answer, and again"] if self.early else []
        what += ["AS2 Restart"] if self.restart else []
        what += [self.web] if self.web != "http" else []
        receipt = f"{'signed' if self.mdn_signed else 'unsigned'} {self.mdn}" if self.mdn else "no MDN"
        return f"{' '.join(what)}, {receipt}"

    @property
    def station(self):
        """The station of the gateway that has the key, or the certificates, of the case."""
        return ROLLS.get(self.roll) or ("GATE" if self.key == "rsa" else f"GATE-{self.key}")

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


def over_https(cases):
    """The same over HTTPS, each under an AS2 name of its own."""
    for case in cases:
        # A minute for the largest is enough once.
        yield replace(case, id=f"{case.id}s", peer=case.peer.replace("Peer", "PeerTLS"), web="https", size=min(case.size, 1 << 20))


# What is not about the transport.
CONTENT = [
    Case("C1", sign="", encrypt="", compress="before-sign"),
    Case("C2", sign="", compress="before-sign"),
    Case("C3", encrypt="", compress="before-sign"),
    Case("C4", compress="before-sign"),
    Case("C5", compress="after-sign"),
    Case("C6", compress="after-sign", encrypt=""),
    Case("L1", compress="before-sign", mdn="async", size=100_000_000),
    Case("L2", size=50 << 10),
    Case("S1", sign="sha1"),
    Case("S2", sign="sha224"),
    Case("S3", sign="sha384"),
    Case("S4", sign="sha512"),
    Case("S5", scheme="pss"),
    Case("S6", key="ec-p256", transport="ecdh-sha256"),
    Case("S7", key="ec-p384", transport="ecdh-sha384", sign="sha384"),
    Case("S8", key="ec-p256", encrypt=""),
    Case("S9", key="ec-p521", transport="ecdh-sha512", sign="sha512"),
    Case("S10", key="ec-p384", sign="sha384", encrypt=""),
    Case("S11", key="ec-p521", sign="sha512", encrypt=""),
    # Never sent: accepted from old partners only.
    Case("E1", encrypt="3des", directions=("they send",)),
    Case("E2", encrypt="aes128-cbc"),
    Case("E3", encrypt="aes192-cbc"),
    Case("E4", encrypt="aes128-gcm"),
    Case("E5", encrypt="aes256-gcm"),
    Case("E6", transport="oaep-sha1"),
    Case("E7", transport="oaep-sha256"),
    Case("E8", transport="oaep-sha512"),
    Case("E9", transport="oaep-sha384"),
    # OpenSSL's own choice; never sent.
    Case("E10", key="ec-p256", transport="ecdh-sha1", directions=("they send",)),
    Case("N1", peer="Peer 1"),
    Case("N2", peer="Peer<a>"),
    Case("N3", peer="Peer" + "x" * 128),  # cut to 128
    Case("N4", peer='Peer"c\\d"'),
    Case("N5", peer="Peera,b!#[]:;'"),
    Case("F1", file="order 1 (copy).edi"),
    Case("F2", file="größe 訂單.edi"),
    # Ours are written by RFC 2231.
    Case("F3", file="=?UTF-8?B?Z3LDtsOfZS5lZGk=?=", filed="größe.edi", directions=("they send",)),
    Case("F4", file="o" * 214 + ".edi", filed="o" * 196 + ".edi"),
    Case("F5", file="CON.edi", filed="_CON.edi"),
    # Ours always have a name, and no file here has one of more than 229 bytes.
    Case("F6", unnamed=True, filed="payload-1.x12", directions=("they send",)),
    Case("F7", file="o" * 296 + ".edi", filed="o" * 196 + ".edi", directions=("they send",)),
    Case("M1", files=(("order.xml", "application/xml"), ("scan.pdf", "application/pdf"), ("photo.tiff", "image/tiff"))),
    Case("K1", roll="theirs"),
    Case("K2", roll="ours-before"),
    Case("K3", roll="ours-after"),
    # The other way round it is we who answer first.
    Case("A1", mdn="async", early=True, directions=("we send",)),
]

CASES = [
    *packaging_and_receipts(),
    *packaging_and_receipts("https"),
    *CONTENT,
    *over_https(CONTENT),
    *(Case(f"T{number}{end}", web=web, mdn=mdn) for mdn, end in (("sync", ""), ("async", "a"))
      for number, web in enumerate(("tls1.2", "tls1.3", "client-certificate", "basic"), 1)),
    Case("R1", restart=True, size=1 << 20),
    Case("D1", repeat=True),
    # With an MDN under way, the sender need not send again: what we do then is up to us.
    Case("D2", mdn="async", repeat=True, directions=("they send",)),
]
