#!/usr/bin/env python3
"""A client that breaks the rules of SSH and SFTP on purpose, over paramiko's packet layer.

    hostile_ssh.py PORT USER KEYFILE CASE...       runs the named cases, or without a name all that need no settings of their own

Every case prints `ok CASE`; the first that finds the server at fault prints `FAULT CASE: what` and ends with 1.
"""
import concurrent.futures
import io
import os
import socket
import struct
import sys
import time

import paramiko
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from paramiko.common import cMSG_CHANNEL_OPEN
from paramiko.kex_group14 import KexGroup14SHA256
from paramiko.message import Message

PORT, USER, KEY = int(sys.argv[1]), sys.argv[2], sys.argv[3]
PATIENCE = 10  # seconds that a hostile peer may be kept waiting for its end
SILENCE = 1  # seconds without an answer after which there will be none


class Fault(Exception):
    pass


def need(holds, what):
    if not holds:
        raise Fault(what)


# --- before the key exchange: bare bytes ----------------------------------------------------------------------------

def bare(payload, greet=True):
    """Sends bytes on a fresh connection; True if the server ended it in time, whatever it said before."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE) as sock:
        try:
            if greet:
                sock.sendall(b"SSH-2.0-hostile\r\n")
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR) if payload == b"" else None
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                if not sock.recv(65536):
                    return True
        except (ConnectionError, BrokenPipeError):
            return True
        except TimeoutError:
            return False
    return False


def message(kind, *fields):
    made = Message()
    made.add_byte(bytes([kind]))
    for field in fields:
        if isinstance(field, bool):
            made.add_boolean(field)
        elif isinstance(field, int):
            made.add_int(field)
        else:
            made.add_string(field)
    return made


def raw(payload):
    made = Message()
    made.add_bytes(payload)
    return made


def string(value):
    return struct.pack(">I", len(value)) + value


def number(n):
    """The bytes of an mpint."""
    return n.to_bytes((n.bit_length() + 8) // 8, "big") if n else b""


def packet(length, padding, body):
    return struct.pack(">IB", length, padding) + body


def oversized_packets_before_the_key_exchange():
    """GHSA-vgvv-x7xg-6cqg: nothing is set aside for a length before it is judged."""
    for length in (0x7FFFFFFF, 0xFFFFFFFF, 1 << 20, 300_000):
        need(bare(packet(length, 4, b"\x14" + os.urandom(64))), f"a packet of {length} bytes keeps the connection")


def truncated_and_ill_padded_packets():
    for length, padding, body in ((0, 0, b""), (1, 0, b""), (5, 255, os.urandom(16)), (12, 11, os.urandom(16)), (8, 200, os.urandom(64))):
        need(bare(packet(length, padding, body) + bytes(64)), f"length {length}, padding {padding} keeps the connection")


def a_banner_without_end():
    """CVE-2026-48108: neither one line nor many may come before the identification."""
    need(bare(b"and a line\r\n" * 100_000, greet=False), "a megabyte of lines keeps the connection")
    need(bare(b"A" * 1_000_000, greet=False), "a megabyte without a line end keeps the connection")


def bytes_of_another_protocol():
    need(bare(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 200, greet=False), "HTTP keeps the connection")


def messages_before_the_key_exchange():
    """Plain packets of later phases, CVE-2018-10933 and CVE-2025-32433 without even a key exchange."""
    for kind in (5, 50, 52, 60, 80, 90, 94, 98, 100):
        body = bytes([kind]) + bytes(11)
        need(bare(packet(1 + len(body) + 4, 4, body + bytes(4))), f"message {kind} keeps the connection")


# --- during the key exchange: packets in clear -----------------------------------------------------------------------

STRICT = "kex-strict-{}-v00@openssh.com"
CURVE = "curve25519-sha256"


class Clear:
    """A connection up to both KEXINITs; `first` are the payloads that the client sends before its own."""

    def __init__(self, kex, compression="none", strict=False, first=()):
        self.sock = socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE)
        self.stream = self.sock.makefile("rb")
        self.sock.sendall(b"SSH-2.0-hostile\r\n")
        self.stream.readline()
        payload = self.read()
        need(payload and payload[0] == 20, "the server begins with something else than its KEXINIT")
        fields = Message(payload[17:])
        names = ("kex", "key", "cipher", "cipher back", "mac", "mac back", "compression", "compression back")
        self.offers = {name: fields.get_text().split(",") for name in names}
        key, cipher, mac = (self.offers[name][0] for name in ("key", "cipher", "mac"))
        kex = kex + "," + STRICT.format("c") if strict else kex
        lists = [kex, key, cipher, cipher, mac, mac, compression, compression, "", ""]
        init = b"\x14" + os.urandom(16) + b"".join(string(names.encode()) for names in lists) + bytes(5)
        try:
            self.send(*first, init)
        except OSError:
            pass

    def send(self, *payloads):
        for payload in payloads:
            padding = 16 - (5 + len(payload)) % 8
            self.sock.sendall(packet(1 + len(payload) + padding, padding, payload + bytes(padding)))

    def read(self):
        try:
            length, padding = struct.unpack(">IB", self.stream.read(5))
            return self.stream.read(length - 1)[:-padding]
        except (OSError, struct.error):
            return None

    def answers(self, *payloads):
        """Kinds of the answers to what is sent, up to NEWKEYS or the end, which is None; silence is a fault."""
        kinds = []
        try:
            self.send(*payloads)
        except OSError:
            pass
        began = time.monotonic()
        while kinds[-1:] not in ([None], [21]):
            answer = self.read()
            kinds.append(answer[0] if answer else None)
        need(time.monotonic() - began < PATIENCE, f"no end after {[payload[:1] for payload in payloads]}, only {kinds}")
        return kinds

    def close(self):
        self.stream.close()
        self.sock.close()


EXCHANGED, ENDED = [31, 21], ([None], [1, None])
INIT = b"\x1e" + string(b"\x09" + bytes(31))  # the base point: as good a value as any
SLIPPED_IN = {
    "IGNORE": b"\x02" + bytes(4), "UNIMPLEMENTED": b"\x03" + bytes(4), "DEBUG": b"\x04" + bytes(9),
    "SERVICE_REQUEST": message(5, "ssh-userauth").asbytes(), "EXT_INFO": message(7, 1, "x", "y").asbytes(),
    "USERAUTH_REQUEST": message(50, USER, "ssh-connection", "none").asbytes(), "USERAUTH_SUCCESS": b"\x34",
    "GLOBAL_REQUEST": message(80, "x", True).asbytes(), "CHANNEL_OPEN": message(90, "session", 0, 1 << 20, 1 << 15).asbytes(),
}


def a_prefix_slipped_into_the_key_exchange():
    """Terrapin CVE-2023-48795; asyncssh CVE-2023-46445, CVE-2023-46446: what a stranger put in before the keys counts for nothing."""
    for what, extra in SLIPPED_IN.items():
        # Without strict key exchange the first three are allowed (RFC 4253 §11), which also shows that this test would notice.
        harmless = extra[0] in (2, 3, 4)
        peer = Clear(CURVE)
        told = peer.answers(extra, INIT)
        need(told == EXCHANGED if harmless else told in ENDED, f"{what} before the INIT leads to {told}")
        peer.close()
        for where, peer, sent in (
            ("before KEXINIT", Clear(CURVE, strict=True, first=(extra,)), (INIT,)),
            ("before the INIT", Clear(CURVE, strict=True), (extra, INIT)),
        ):
            told = peer.answers(*sent)
            need(told in ENDED, f"{what} {where} leads to {told} in spite of strict key exchange")
            peer.close()
        for strict in (True, False):
            peer = Clear(CURVE, strict=strict)
            need(peer.answers(INIT) == EXCHANGED, "no exchange")
            # In the place of NEWKEYS, and NEWKEYS after it: no word of it may be the beginning of what is encrypted.
            told = peer.answers(extra, b"\x15") if strict or not harmless else [None]
            need(told in ENDED, f"{what} before NEWKEYS leads to {told}")
            peer.close()


def algorithms_with_known_faults():
    """CVE-2023-48795, CVE-2002-20001 (DHEat), russh before 0.61.1 (CVE-2026-46702): what is not offered cannot be attacked."""
    peer = Clear(CURVE)
    need(STRICT.format("s") in peer.offers["kex"], "strict key exchange is not offered")
    for way in ("compression", "compression back"):
        need(peer.offers[way] == ["none"], f"compression {peer.offers[way]} is offered")
    for fault in ("group-exchange", "group1-", "group15", "group16", "group17", "group18", "cbc", "arcfour", "md5", "-96", "dss", "none"):
        for kind in ("kex", "key", "cipher", "cipher back", "mac", "mac back"):
            need(not any(fault in name for name in peer.offers[kind]), f"{fault} is offered: {peer.offers[kind]}")
    peer.close()
    for kex, compression in (
        (CURVE, "zlib"), (CURVE, "zlib@openssh.com"), ("diffie-hellman-group-exchange-sha256", "none"), ("diffie-hellman-group18-sha512", "none"),
    ):
        peer = Clear(kex, compression)
        told = peer.answers(INIT)
        need(told in ENDED, f"{kex} with {compression} leads to {told}")
        peer.close()


ORDERS = (  # points of Curve25519 of small order, and other spellings of them
    0, 1, 325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823, 2**255 - 20, 2**255 - 19, 2**255 - 18,
)


def public_values_that_give_the_secret_away():
    """CVE-2023-28113: a secret that an onlooker can tell is none. Of every key exchange that is offered."""
    small = [point.to_bytes(32, "little") for point in ORDERS]
    prime = KexGroup14SHA256.P
    values = {
        "curve25519": [string(value) for value in (*small, b"", bytes(31), bytes(33))],
        "mlkem768x25519": [string(value) for value in (b"", bytes(1215), bytes(1217), bytes(1216), b"\xff" * 1216)],
        "ecdh": [string(value) for value in (b"", b"\0", b"\4" + bytes(64), b"\4" + b"\xff" * 64, b"\2" + b"\xff" * 32, b"\4" + bytes(131))],
        "diffie": [string(number(n)) for n in (0, 1, prime - 1, prime, prime + 1, 2 * prime, 2**8192)],
    }
    good = {"curve25519": INIT[1:], "diffie": string(number(2**2000 + 1))}
    for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()):
        point = ec.generate_private_key(curve).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        good[f"ecdh-sha2-nistp{curve.key_size}"] = string(point)
    names = [name for name in Clear(CURVE).offers["kex"] if "strict" not in name and "ext-info" not in name]
    need(len(names) >= 3, f"only {names} are offered")
    for name in names:
        family = name.split("-")[0]
        if value := good.get(name, good.get(family)):
            need(Clear(name).answers(b"\x1e" + value) == EXCHANGED, f"{name} does not work at all")
        for value in values[family]:
            peer = Clear(name)
            told = peer.answers(b"\x1e" + value)
            need(told in ENDED, f"{name}: {value[4:40].hex()}, {len(value) - 4} bytes, lead to {told}")
            peer.close()


# --- after the key exchange, before the login -----------------------------------------------------------------------

def transport():
    made = paramiko.Transport(socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE))
    made.banner_timeout = made.auth_timeout = PATIENCE
    made.start_client(timeout=PATIENCE)
    return made


def is_over(peer):
    """The server ends the connection by itself."""
    end = time.monotonic() + PATIENCE
    while peer.is_active() and time.monotonic() < end:
        time.sleep(0.05)
    return not peer.is_active()


def opens_no_channel(peer, patience=SILENCE):
    try:
        channel = peer.open_channel("session", timeout=patience)
    except (paramiko.SSHException, EOFError, OSError):
        return True
    channel.close()
    return False


EARLY = [
    ("USERAUTH_SUCCESS", message(52)),
    ("GLOBAL_REQUEST", message(80, "tcpip-forward", True, "", 0)),
    ("REQUEST_SUCCESS", message(81)),
    ("REQUEST_FAILURE", message(82)),
    ("CHANNEL_OPEN", message(90, "session", 0, 1 << 20, 1 << 15)),
    ("CHANNEL_OPEN_CONFIRMATION", message(91, 0, 0, 1 << 20, 1 << 15)),
    ("CHANNEL_OPEN_FAILURE", message(92, 0, 1, "no", "")),
    ("WINDOW_ADJUST", message(93, 0, 1 << 20)),
    ("CHANNEL_DATA", message(94, 0, "x" * 100)),
    ("CHANNEL_EXTENDED_DATA", message(95, 0, 1, "x" * 100)),
    ("CHANNEL_EOF", message(96, 0)),
    ("CHANNEL_CLOSE", message(97, 0)),
    ("CHANNEL_REQUEST exec", message(98, 0, "exec", True, "id")),
    ("CHANNEL_SUCCESS", message(99, 0)),
    ("CHANNEL_FAILURE", message(100, 0)),
]


def oversized_packets_after_the_key_exchange():
    """GHSA-vgvv-x7xg-6cqg, CVE-2026-46673: nor once they are encrypted, where the length goes in clear as well."""
    for cipher, mac in (("aes128-gcm@openssh.com", "hmac-sha2-256"), ("aes128-ctr", "hmac-sha2-256-etm@openssh.com")):
        for length in (0x7FFFFFF0, 0xFFFFFFF0, 300_000):
            peer = paramiko.Transport(socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE))
            peer.get_security_options().ciphers = (cipher,)
            peer.get_security_options().digests = (mac,)
            peer.start_client(timeout=PATIENCE)
            peer.sock.sendall(struct.pack(">I", length) + os.urandom(1000))
            need(is_over(peer), f"a packet of {length} bytes under {cipher} keeps the connection")


def connection_messages_before_the_login():
    """CVE-2018-10933, CVE-2025-32433: nothing of the connection protocol counts before a login."""
    for name, early in EARLY:
        peer = transport()
        try:
            peer._send_message(early)  # noqa: SLF001: the point of the exercise
        except (EOFError, OSError):
            continue
        need(opens_no_channel(peer), f"{name} before the login leads to a channel")
        need(not peer.is_active(), f"{name} and an OPEN before the login keep the connection")
        need(not peer.is_authenticated(), f"{name} counts as a login")
        peer.close()


def a_refused_login_opens_nothing():
    peer = transport()
    try:
        peer.auth_publickey(USER, paramiko.RSAKey.generate(2048))
        raise Fault("a stranger's key logs in")
    except (paramiko.SSHException, EOFError):
        pass
    need(not peer.is_active() or opens_no_channel(peer), "a channel after a refused login")
    peer.close()


def offer(key):
    """A key without a signature: the server says whether it would do."""
    return message(50, USER, "ssh-connection", "publickey", False, "ssh-ed25519", key.asbytes())


def signed(peer, user, key, name=None, service="ssh-connection", session=None, real=True):
    """A request to log in as `user`, and what `key` signs: the same, or as told otherwise."""
    def request(name, service, real):
        return message(50, name, service, "publickey", real, "ssh-ed25519", key.asbytes()).asbytes()
    signs = string(session or peer.session_id) + request(user if name is None else name, service, real)
    return request(user, "ssh-connection", True), key.sign_ssh_data(signs).asbytes()


def tries(peer, *messages, patience=SILENCE):
    """Whether what is sent for a login leads to no channel."""
    try:
        for sent in (message(5, "ssh-userauth"), *messages):
            peer._send_message(sent)
    except (EOFError, OSError):
        return True
    return opens_no_channel(peer, patience)


def side_by_side(attempt, each):
    """Each refusal takes a second."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(attempt, each))


def another_user_after_a_good_offer():
    """russh before 0.61.0 (GHSA-hpv4-5h6f-wqr3, CVE-2026-46705), CVE-2024-45337: what was found out about one name says nothing
    about the next. Wing FTP CVE-2025-47812: a name with a NUL or another control character is nobody's. SFTPGo CVE-2026-30915:
    nor is one that is a path."""
    key = paramiko.Ed25519Key.from_private_key_file(KEY)
    odd = ("\0", "\0x", "\n", "\r", "\x1b[2J", "\x7f", "\x85", " ", "/", "/..")
    # The user's own name first: it shows that all else is right.
    others = (USER, "root", USER + "x", "", "a" * 5000, "../" + USER, "./" + USER, *(USER + end for end in odd))

    def attempt(other):
        peer = transport()
        request, signature = signed(peer, other, key)
        refused = tries(peer, offer(key), raw(request + string(signature)), patience=PATIENCE if other == USER else SILENCE)
        need(refused == (other != USER), f"the key of {USER} {'logs' if other != USER else 'does not log'} {other[:40]!r} in")
        peer.close()

    side_by_side(attempt, others)


def only_a_signature_over_this_very_login_counts():
    """CVE-2024-45337, russh before 0.61.2: not one by another key than was offered, for another name or session, or cut short."""
    key = paramiko.Ed25519Key.from_private_key_file(KEY)
    made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    other = paramiko.Ed25519Key(file_obj=io.StringIO(made.decode()))
    earlier = transport()

    def signatures(peer):
        request, good = signed(peer, USER, key)
        return {
            "that is right": (request, good),
            "of the key that was not offered": signed(peer, USER, other),
            "of another key under the offered one": (request, signed(peer, USER, other)[1]),
            "of an earlier session": (request, signed(peer, USER, key, session=earlier.session_id)[1]),
            "for another user": (request, signed(peer, USER, key, name=USER + "x")[1]),
            "for another service": (request, signed(peer, USER, key, service="ssh-userauth")[1]),
            "over an offer": (request, signed(peer, USER, key, real=False)[1]),
            "cut short": (request, good[:-1]),
            "of zeros": (request, good[:-64] + bytes(64)),
            "under another name": (request, good.replace(b"ssh-ed25519", b"ssh-ed25518")),
            "that is empty": (request, b""),
        }

    def attempt(which):
        what, before = which
        peer = transport()
        request, signature = signatures(peer)[what]
        right = what == "that is right"
        refused = tries(peer, *before, raw(request + string(signature)), patience=PATIENCE if right else SILENCE)
        need(refused != right, f"a signature {what} {'does not log' if right else 'logs'} in")
        peer.close()

    side_by_side(attempt, [(what, before) for what in signatures(earlier) for before in ((), (offer(key),))])
    earlier.close()


def keys_that_cost_more_than_they_prove():
    """x/crypto CVE-2026-39829: an RSA key is judged by its length before anything is computed with it, be it a user's or an
    authority's. The test that runs this looks at the time that it takes the server."""
    def rsa(bits, exponent):
        return string(b"ssh-rsa") + string(number(exponent)) + string(number((1 << bits) - 1))

    def certificate(authority, bits):
        name = b"ssh-ed25519-cert-v01@openssh.com"
        body = string(name) + string(bytes(32)) + string(bytes(32)) + struct.pack(">QI", 1, 1) + string(b"id") + string(b"")
        body += struct.pack(">QQ", 0, 2**64 - 1) + string(b"") + string(b"") + string(b"") + string(authority)
        return name, body + string(string(b"rsa-sha2-512") + string(b"\x7f" * (bits // 8)))

    def attempt(which):
        bits, exponent, is_certificate, real = which
        algorithm, blob = b"rsa-sha2-512", rsa(bits, exponent)
        if is_certificate:
            algorithm, blob = certificate(blob, bits)
        asked = message(50, USER, "ssh-connection", "publickey", real, algorithm, blob)
        if real:
            asked.add_string(string(algorithm) + string(b"\x7f" * (bits // 8)))
        peer = transport()
        need(tries(peer, asked), f"a key of {bits} bits in {algorithm} logs in")
        need(is_over(peer), f"a key of {bits} bits in {algorithm} keeps the server busy")

    keys = ((8192, (1 << 8191) + 1), (16_384, 65537), (600_000, 65537), (600_000, (1 << 200_000) + 1))
    side_by_side(attempt, [(*key, is_certificate, real) for key in keys for is_certificate in (False, True) for real in (False, True)])


def methods_that_are_not_offered():
    """MOVEit CVE-2024-5806 and friends: only a verified signature logs in."""
    attempts = [
        message(50, USER, "ssh-connection", "none"),
        message(50, USER, "ssh-connection", "password", False, ""),
        message(50, USER, "ssh-connection", "password", True, "old", "new"),
        message(50, USER, "ssh-connection", "keyboard-interactive", "", ""),
        message(50, USER, "ssh-connection", "hostbased", "ssh-ed25519", "", "localhost", "root", ""),
        message(50, USER, "ssh-connection", "publickey", True, "ssh-ed25519", "", ""),
        message(50, USER, "ssh-connection", "publickey", True, "ssh-ed25519", "/etc/passwd", "x" * 64),
        message(50, USER, "ssh-connection", "publickey", True, "no-such-algorithm", "x" * 51, "x" * 64),
        message(50, USER, "ssh-connection", "publickey", False, "ssh-rsa", "x" * 1_000_000),
        message(50, USER, "ssh-something-else", "none"),
        message(61, 0),
    ]
    for n, attempt in enumerate(attempts):
        peer = transport()
        need(tries(peer, attempt), f"attempt {n} opens a channel")
        need(not peer.is_authenticated(), f"attempt {n} logs in")
        peer.close()


def an_answer_that_counts_in_billions():
    """CVE-2026-42189: as many answers as the packet has bytes for, whatever it says. Wants a user who is asked for a code."""
    key = paramiko.Ed25519Key.from_private_key_file(KEY)
    for count, rest in ((0x10000000, b""), (0xFFFFFFFF, b""), (0xFFFFFFFF, bytes(1000)), (2, bytes(3))):
        peer = transport()
        left = peer.auth_publickey(USER, key)
        need(left == ["keyboard-interactive"], f"after the key comes {left}")

        def answer(title, text, prompts):
            peer._send_message(raw(b"\x3d" + struct.pack(">I", count) + rest))
            return ["000000"]

        try:
            peer.auth_interactive(USER, answer)
            raise Fault(f"{count} answers log in")
        except (paramiko.SSHException, EOFError, OSError):
            pass
        need(not peer.is_authenticated(), f"{count} answers are a login")
        peer.close()


def the_time_for_a_login_is_counted_in_all():
    """OpenSSH CVE-2024-6387: the end comes on time at every stage, and is nothing but an end. Wants a grace of three seconds."""
    def nothing(sock):
        pass

    def half_a_line(sock):
        sock.sendall(b"SSH-2.0-slow")

    def half_a_packet(sock):
        sock.sendall(b"SSH-2.0-slow\r\n" + packet(1000, 4, b"\x14"))

    def kept_alive(peer):
        return lambda: peer._send_message(message(2, "x"))

    def asks_for_the_service(peer):
        peer._send_message(message(5, "ssh-userauth"))
        return kept_alive(peer)

    def offers_a_key(peer):
        key = paramiko.Ed25519Key.from_private_key_file(KEY)
        peer._send_message(message(5, "ssh-userauth"))
        return lambda: peer._send_message(offer(key))

    def bare_bytes(stage):
        with socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE) as sock:
            began = time.monotonic()
            stage(sock)
            try:
                while sock.recv(65536):
                    pass
            except (ConnectionError, TimeoutError):
                pass
        return time.monotonic() - began

    def packets(stage):
        began = time.monotonic()
        peer = transport()
        again = stage(peer)
        try:
            while peer.is_active() and time.monotonic() - began < PATIENCE:
                again()
                time.sleep(0.4)
        except (EOFError, OSError):
            pass
        is_over(peer)
        return time.monotonic() - began

    def attempt(which):
        run, stage = which
        took = run(stage)
        need(2 < took < PATIENCE, f"{stage.__name__} is ended after {took:.1f} s")

    stages = [(bare_bytes, stage) for stage in (nothing, half_a_line, half_a_packet)]
    side_by_side(attempt, stages + [(packets, stage) for stage in (kept_alive, asks_for_the_service, offers_a_key)])


def floods_before_the_login():
    """CVE-2025-26466: pings, IGNOREs and requests without a login cost us nothing that stays."""
    for kind, what in ((192, "ping"), (2, "ignore"), (4, "debug"), (80, "global request"), (5, "service request")):
        peer = transport()
        began = time.monotonic()
        try:
            for _ in range(20_000):
                if kind == 80:
                    peer._send_message(message(80, "x", True))
                elif kind == 5:
                    peer._send_message(message(5, "ssh-userauth"))
                else:
                    peer._send_message(message(kind, "x" * 64))
                if time.monotonic() - began > PATIENCE:
                    break
        except (EOFError, OSError):
            pass
        need(is_over(peer), f"a {what} flood keeps the connection")


# --- after the login ------------------------------------------------------------------------------------------------

def logged_in():
    peer = transport()
    peer.auth_publickey(USER, paramiko.Ed25519Key.from_private_key_file(KEY))
    return peer


def sftp_channel(peer):
    channel = peer.open_session(timeout=PATIENCE)
    channel.settimeout(PATIENCE)
    channel.invoke_subsystem("sftp")
    return channel


def ended(channel):
    """The server closes the channel, or the connection, without being asked."""
    try:
        while True:
            if not channel.recv(65536):
                return True
    except socket.timeout:
        return False
    except OSError:
        return True


def sftp_packets_out_of_form():
    init = struct.pack(">IBI", 5, 1, 3)
    wrong = {
        "400,000 bytes": init + struct.pack(">IB", 400_000, 3) + bytes(1000),
        "4 GiB": init + struct.pack(">IB", 0xFFFFFFFF, 3) + bytes(1000),
        "no byte": init + struct.pack(">I", 0),
        "a request before INIT": struct.pack(">IBI", 5, 16, 1),
        "an answer": struct.pack(">IBI", 5, 2, 3),
        "INIT twice": init + init,
    }
    for what, sent in wrong.items():
        peer = logged_in()
        channel = sftp_channel(peer)
        channel.sendall(sent)
        need(ended(channel), f"a packet of {what} does not end the channel")
        peer.close()


def a_request_cut_short_is_answered_as_such():
    """Erlang CVE-2026-54886, ProFTPD CVE-2023-51713: no request may loop, hang or be read beyond its end. Strings longer than their packet get BAD_MESSAGE (5)."""
    peer = logged_in()
    channel = sftp_channel(peer)
    channel.sendall(struct.pack(">IBI", 5, 1, 3))
    read(channel)
    for kind in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 200):
        # A WRITE too short to tell its lengths leaves nothing to go on by and ends the channel.
        for tail in (() if kind == 6 else (b"", )) + (struct.pack(">I", 0xFFFFFFFF), struct.pack(">I", 100) + b"short"):
            body = struct.pack(">BI", kind, 7) + tail
            channel.sendall(struct.pack(">I", len(body)) + body)
            answer = read(channel, f"at request {kind} with {tail!r}")
            need(answer[0] == 101 and answer[1:5] == struct.pack(">I", 7), f"request {kind} with {tail!r}: {answer[:20]!r}")
            need(struct.unpack(">I", answer[5:9])[0] in (4, 5, 8), f"request {kind}: {answer[:20]!r}")
    peer.close()


def read(channel, when="at INIT"):
    def exactly(size):
        got = b""
        while len(got) < size:
            piece = channel.recv(size - len(got))
            need(piece, f"the server closed the channel {when}")
            got += piece
        return got
    return exactly(struct.unpack(">I", exactly(4))[0])


def no_shell_no_program_no_forwarding():
    """SFTPGo's git and rsync commands, bssh 214, CVE-2026-46673 (agents): there is nothing here but files."""
    peer = logged_in()
    programs = ("scp -t /tmp", "git-receive-pack '/x'", "git-upload-pack '/x'", "rsync --server . /", "id; reboot", "")
    for what in (*programs, None):
        channel = peer.open_session(timeout=PATIENCE)
        channel.settimeout(PATIENCE)
        channel.invoke_shell() if what is None else channel.exec_command(what)
        told = b""
        while piece := channel.recv_stderr(1000):
            told += piece
        need(told == b"This service allows sftp connections only.\r\n", f"{what} is told {told!r}")
        need(channel.recv_exit_status() == 1, f"{what} ends with {channel.recv_exit_status()}")
    for kind in ("direct-tcpip", "forwarded-tcpip", "x11"):
        try:
            peer.open_channel(kind, ("127.0.0.1", PORT), ("127.0.0.1", 1), timeout=PATIENCE)
            raise Fault(f"a channel {kind} is opened")
        except (paramiko.ChannelException, paramiko.SSHException):
            pass
    try:
        peer.request_port_forward("127.0.0.1", 0)
        raise Fault("a port is forwarded")
    except paramiko.SSHException:
        pass
    for request in ("env", "pty-req", "x11-req", "auth-agent-req@openssh.com"):
        channel = peer.open_session(timeout=PATIENCE)
        try:
            if request == "env":
                channel._event_pending()
                peer._send_user_message(message(98, channel.remote_chanid, "env", True, "LD_PRELOAD", "x.so"))
                channel._wait_for_event()
            elif request == "pty-req":
                channel.get_pty()
            elif request == "x11-req":
                channel.request_x11()
            else:
                channel.request_forward_agent(lambda *_: None)
                continue  # asks for no answer
            raise Fault(f"{request} is granted")
        except paramiko.SSHException:
            pass
    peer.close()


def channels_are_counted_and_serve_one_subsystem():
    peer = logged_in()
    channels = [sftp_channel(peer) for _ in range(10)]
    need(opens_no_channel(peer), "an eleventh channel is opened")
    try:
        channels[0].invoke_subsystem("sftp")
        raise Fault("a second subsystem on one channel")
    except (paramiko.SSHException, EOFError):
        pass
    peer.close()
    peer = logged_in()
    try:
        peer.open_session(timeout=PATIENCE).invoke_subsystem("netconf")
        raise Fault("another subsystem is granted")
    except paramiko.SSHException:
        pass
    peer.close()


def messages_for_channels_that_are_not_there():
    """GHSA-m65r, GHSA-47hw: callbacks for channels that were never opened. Others must not notice."""
    other = logged_in()
    theirs = sftp_channel(other)
    for kind in (91, 92, 93, 94, 95, 96, 97, 98, 99, 100):
        peer = logged_in()
        fields = {91: (0, 1, 1), 92: (1, "no", ""), 93: (1 << 31,), 94: ("data",), 95: (1, "data"), 98: ("exec", True, "id")}
        try:
            for number in (7, 0xFFFFFFFF):
                peer._send_message(message(kind, number, *fields.get(kind, ())))
            opens_no_channel(peer)
        except (EOFError, OSError):
            pass
        peer.close()
    theirs.sendall(struct.pack(">IBI", 5, 1, 3))
    need(read(theirs)[0] == 2, "another session suffers")
    other.close()


def more_data_than_the_window():
    """Data beyond the window is a broken rule (RFC 4254 §5.2): bounded, and other sessions go on."""
    peer = logged_in()
    channel = sftp_channel(peer)
    piece = struct.pack(">IB", 200_000, 6) + bytes(32_000)
    began = time.monotonic()
    try:
        for _ in range(4000):  # 128 MB against a window of 16 MiB, without looking at adjustments
            peer._send_message(message(94, channel.remote_chanid, piece))
            if time.monotonic() - began > PATIENCE:
                break
    except (EOFError, OSError):
        pass
    peer.close()
    fine = logged_in()
    sftp_channel(fine)
    fine.close()


def windows_that_overflow():
    """GHSA-h5rc-j5f5-3gcm: a window that is filled beyond 2^32 is full or the end, never small. CVE-2026-116774: a packet size of 0."""
    for amounts in ((0x100000000 - (1 << 21),), (0xFFFFFFFF,) * 4):
        peer = logged_in()
        channel = peer.open_session(window_size=1 << 21, timeout=PATIENCE)
        channel.settimeout(PATIENCE)
        channel.invoke_subsystem("sftp")
        try:
            for amount in amounts:
                peer._send_message(message(93, channel.remote_chanid, amount))
            channel.sendall(struct.pack(">IBI", 5, 1, 3))
            channel.recv(1)
        except socket.timeout:
            raise Fault(f"a window grown by {amounts} lets nothing through") from None
        except (EOFError, OSError):
            pass
        peer.close()
    peer = logged_in()
    try:
        peer._send_message(message(90, "session", 5, 1 << 20, 0))
        time.sleep(0.2)
    except (EOFError, OSError):
        pass
    peer.close()
    fine = logged_in()
    sftp_channel(fine)
    fine.close()


def reads_of_a_client_that_never_looks():
    """50,000 pipelined requests without reading: the channel waits or ends; nobody else does."""
    peer = logged_in()
    channel = sftp_channel(peer)
    channel.sendall(struct.pack(">IBI", 5, 1, 3))
    body = struct.pack(">BI", 7, 9) + struct.pack(">I", 1) + b"/"
    ask = struct.pack(">I", len(body)) + body
    channel.settimeout(PATIENCE)
    try:
        channel.sendall(ask * 50_000)
    except (OSError, socket.timeout):
        pass
    fine = logged_in()
    theirs = sftp_channel(fine)
    theirs.sendall(struct.pack(">IBI", 5, 1, 3))
    need(read(theirs)[0] == 2, "another session suffers")
    fine.close()
    peer.close()


def what_comes_and_goes():
    """MINA CVE-2021-30129: logins, channels, handles and refusals leave nothing behind. The test that runs this looks at the memory."""
    for _ in range(15):
        peer = logged_in()
        for _ in range(10):
            channel = sftp_channel(peer)
            channel.sendall(struct.pack(">IBI", 5, 1, 3))
            read(channel)
            for _ in range(10):
                for kind, path in ((11, b"/"), (3, b"/none"), (17, b"/x" * 2000)):
                    channel.sendall(string(struct.pack(">BI", kind, 7) + string(path) + (bytes(8) if kind == 3 else b"")))
                    answer = read(channel)
                    if answer[0] == 102:
                        channel.sendall(string(struct.pack(">BI", 4, 8) + answer[5:]))
                        need(read(channel)[5:9] == bytes(4), "a handle cannot be closed")
            channel.close()
        try:
            peer.request_port_forward("127.0.0.1", 0)
            raise Fault("a port is forwarded")
        except paramiko.SSHException:
            pass
        peer.close()


CASES = [
    oversized_packets_before_the_key_exchange, truncated_and_ill_padded_packets, a_banner_without_end, bytes_of_another_protocol,
    messages_before_the_key_exchange, a_prefix_slipped_into_the_key_exchange, algorithms_with_known_faults,
    public_values_that_give_the_secret_away, oversized_packets_after_the_key_exchange, connection_messages_before_the_login,
    a_refused_login_opens_nothing, another_user_after_a_good_offer, only_a_signature_over_this_very_login_counts,
    methods_that_are_not_offered, floods_before_the_login, sftp_packets_out_of_form, a_request_cut_short_is_answered_as_such,
    no_shell_no_program_no_forwarding, channels_are_counted_and_serve_one_subsystem, messages_for_channels_that_are_not_there,
    more_data_than_the_window, windows_that_overflow, reads_of_a_client_that_never_looks,
]
# By name only: these want settings of their own, or are measured.
OTHERS = [
    keys_that_cost_more_than_they_prove, an_answer_that_counts_in_billions, the_time_for_a_login_is_counted_in_all, what_comes_and_goes,
]
assert cMSG_CHANNEL_OPEN == bytes([90])


def main():
    # paramiko's reader threads report every refusal that is meant to happen here.
    paramiko.util.logging.getLogger("paramiko").setLevel(100)
    wanted = sys.argv[4:]
    for case in [case for case in CASES + OTHERS if case.__name__ in wanted] if wanted else CASES:
        began = time.monotonic()
        try:
            case()
        except Fault as fault:
            print(f"FAULT {case.__name__}: {fault}")
            sys.stdout.flush()
            os._exit(1)
        print(f"ok {case.__name__} {time.monotonic() - began:.1f} s", flush=True)
    os._exit(0)


main()
