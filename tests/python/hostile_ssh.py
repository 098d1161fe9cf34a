#!/usr/bin/env python3
"""A client that breaks the rules of SSH and SFTP on purpose, over paramiko's packet layer.

    hostile_ssh.py PORT USER KEYFILE CASE...       runs the named cases, or all of them without a name

Every case prints `ok CASE`; the first that finds the server at fault prints `FAULT CASE: what` and ends with 1.
"""
import os
import socket
import struct
import sys
import time

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN
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


def packet(length, padding, body):
    return struct.pack(">IB", length, padding) + body


def oversized_packets_before_the_key_exchange():
    for length in (0x7FFFFFFF, 0xFFFFFFFF, 1 << 20, 300_000):
        need(bare(packet(length, 4, b"\x14" + os.urandom(64))), f"a packet of {length} bytes keeps the connection")


def truncated_and_ill_padded_packets():
    for length, padding, body in ((0, 0, b""), (1, 0, b""), (5, 255, os.urandom(16)), (12, 11, os.urandom(16)), (8, 200, os.urandom(64))):
        need(bare(packet(length, padding, body) + bytes(64)), f"length {length}, padding {padding} keeps the connection")


def a_banner_without_end():
    need(bare(b"A" * 1_000_000, greet=False), "a megabyte without a line end keeps the connection")


def bytes_of_another_protocol():
    need(bare(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 200, greet=False), "HTTP keeps the connection")


def messages_before_the_key_exchange():
    """Plain packets of later phases, CVE-2018-10933 and CVE-2025-32433 without even a key exchange."""
    for kind in (5, 50, 52, 60, 80, 90, 94, 98, 100):
        body = bytes([kind]) + bytes(11)
        need(bare(packet(1 + len(body) + 4, 4, body + bytes(4))), f"message {kind} keeps the connection")


# --- after the key exchange, before the login -----------------------------------------------------------------------

def transport():
    made = paramiko.Transport(socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE))
    made.banner_timeout = made.auth_timeout = PATIENCE
    made.start_client(timeout=PATIENCE)
    return made


def message(kind, *fields):
    made = Message()
    made.add_byte(bytes([kind]))
    for field in fields:
        if isinstance(field, bool):
            made.add_boolean(field)
        elif isinstance(field, int):
            made.add_int(field)
        elif isinstance(field, bytes):
            made.add_bytes(field)
        else:
            made.add_string(field)
    return made


def opens_no_channel(peer):
    try:
        channel = peer.open_channel("session", timeout=SILENCE)
    except (paramiko.SSHException, EOFError, OSError):
        return True
    channel.close()
    return False


EARLY = [
    ("USERAUTH_SUCCESS", message(52)),
    ("GLOBAL_REQUEST", message(80, "tcpip-forward", True, "", 0)),
    ("REQUEST_SUCCESS", message(81)),
    ("CHANNEL_OPEN", message(90, "session", 0, 1 << 20, 1 << 15)),
    ("CHANNEL_OPEN_CONFIRMATION", message(91, 0, 0, 1 << 20, 1 << 15)),
    ("WINDOW_ADJUST", message(93, 0, 1 << 20)),
    ("CHANNEL_DATA", message(94, 0, "x" * 100)),
    ("CHANNEL_EOF", message(96, 0)),
    ("CHANNEL_CLOSE", message(97, 0)),
    ("CHANNEL_REQUEST exec", message(98, 0, "exec", True, "id")),
    ("CHANNEL_SUCCESS", message(99, 0)),
    ("CHANNEL_FAILURE", message(100, 0)),
]


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


def another_user_after_a_good_offer():
    """GHSA-hpv4-5h6f-wqr3, CVE-2024-45337: what was found out about one name says nothing about the next."""
    key = paramiko.Ed25519Key.from_private_key_file(KEY)
    for other in ("root", USER + "x", "", "a" * 5000, USER + "\0", "../" + USER):
        peer = transport()
        try:
            # An offer without a signature: the server says that this key would do.
            peer._send_message(message(5, "ssh-userauth"))
            peer._send_message(message(50, USER, "ssh-connection", "publickey", False, "ssh-ed25519", key.asbytes()))
            peer.auth_publickey(other, key)
            raise Fault(f"the key of {USER} logs {other[:40]!r} in")
        except (paramiko.SSHException, EOFError, OSError):
            pass
        need(not peer.is_authenticated(), f"{other[:40]!r} is logged in")
        peer.close()


def methods_that_are_not_offered():
    """MOVEit CVE-2024-5806 and friends: only a verified signature logs in."""
    tries = [
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
    for n, attempt in enumerate(tries):
        peer = transport()
        try:
            peer._send_message(message(5, "ssh-userauth"))
            peer._send_message(attempt)
        except (EOFError, OSError):
            continue
        need(opens_no_channel(peer), f"attempt {n} opens a channel")
        need(not peer.is_authenticated(), f"attempt {n} logs in")
        peer.close()


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
        need(opens_no_channel(peer), f"a {what} flood leads to a channel")
        peer.close()


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
    """Erlang's CVE-2026-54886: no request may loop or hang. Strings longer than their packet get BAD_MESSAGE (5)."""
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
    peer = logged_in()
    for what in ("exec", "shell"):
        channel = peer.open_session(timeout=PATIENCE)
        channel.settimeout(PATIENCE)
        channel.exec_command("scp -t /tmp") if what == "exec" else channel.invoke_shell()
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
    for request in ("pty-req", "x11-req", "auth-agent-req@openssh.com"):
        channel = peer.open_session(timeout=PATIENCE)
        try:
            if request == "pty-req":
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
    """GHSA-h5rc-j5f5-3gcm, CVE-2026-116774: window sums beyond 2^32, a packet size of 0."""
    peer = logged_in()
    channel = sftp_channel(peer)
    try:
        for _ in range(4):
            peer._send_message(message(93, channel.remote_chanid, 0xFFFFFFFF))
        channel.sendall(struct.pack(">IBI", 5, 1, 3))
        read(channel)
    except (EOFError, OSError, Fault):
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


CASES = [
    oversized_packets_before_the_key_exchange, truncated_and_ill_padded_packets, a_banner_without_end, bytes_of_another_protocol,
    messages_before_the_key_exchange, connection_messages_before_the_login, a_refused_login_opens_nothing,
    another_user_after_a_good_offer, methods_that_are_not_offered, floods_before_the_login, sftp_packets_out_of_form,
    a_request_cut_short_is_answered_as_such, no_shell_no_program_no_forwarding, channels_are_counted_and_serve_one_subsystem,
    messages_for_channels_that_are_not_there, more_data_than_the_window, windows_that_overflow, reads_of_a_client_that_never_looks,
]
assert cMSG_CHANNEL_OPEN == bytes([90])


def main():
    # paramiko's reader threads report every refusal that is meant to happen here.
    paramiko.util.logging.getLogger("paramiko").setLevel(100)
    wanted = sys.argv[4:]
    for case in CASES:
        if wanted and case.__name__ not in wanted:
            continue
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
