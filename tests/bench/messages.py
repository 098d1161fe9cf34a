"""Small messages between two gateways, each put by OpenSSH's sftp, each with a signed MDN; first accept to last delivery."""

import datetime
import os

from measure import median, row
from pair import Pair

SESSIONS = 4


def options(parser):
    parser.add_argument("--messages", type=int, default=400, help="small messages of each run (400)")


def measure(bench):
    rates = [one_batch(bench, turn) for turn in range(bench.args.runs)]
    return [row("10 KiB messages, put to signed MDN, two gateways", "messages/s", median(rates), goal=50.0, runs=bench.args.runs,
                more_is_better=True)]


def one_batch(bench, turn):
    place = bench.place / f"pair-{turn}"
    source = place / "source"
    for session in range(SESSIONS):
        (source / str(session)).mkdir(parents=True)
    for n in range(bench.args.messages):
        (source / str(n % SESSIONS) / f"order-{turn}-{n:05}.edi").write_bytes(os.urandom(10 * 1024))
    # The release delay is a wait by design, not work: here it is 0.
    with Pair(bench, place, UPLOADS__RELEASE_AFTER="0s") as pair:
        pair.put("alice", *[f"put {source}/{session}/* AS2/send/ALICE/BOB/\n" for session in range(SESSIONS)])
        listed = pair.delivered(bench.args.messages)
    first = min(seconds(m["created"]) for m in listed)
    last = max(seconds(m["finished"]) for m in listed)
    return len(listed) / (last - first)


def seconds(stamp):
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
