#!/usr/bin/env python3
"""Reads a stored MDN (header lines, blank line, body) with Python's own mail parser, apart from the gateway's code.

receipt.py show MDN                         prints the text for people and the part for machines
receipt.py check MDN SENT.json RECEIVED.json  prints the MIC if what was sent, received and receipted is one; else why not
"""

import base64
import email
import email.policy
import json
import sys


def parts(path):
    """Text for people, fields for machines, and whether a signature is there."""
    with open(path, "rb") as file:
        message = email.message_from_binary_file(file, policy=email.policy.default)
    kinds = {}
    for part in message.walk():
        kinds.setdefault(part.get_content_type(), part)
    machine = kinds["message/disposition-notification"]
    body = machine.get_payload()
    # The parser takes the fields for the headers of a message inside.
    fields = body[0].items() if isinstance(body, list) else email.message_from_string(body).items()
    human = kinds["text/plain"].get_content().strip()
    return human, [(name, str(value)) for name, value in fields], "application/pkcs7-signature" in kinds


def show(path):
    human, fields, signed = parts(path)
    print(f"  for people{' (signed)' if signed else ''}:")
    for line in human.splitlines():
        print(f"    {line}")
    print("  for machines:")
    for name, value in fields:
        print(f"    {name}: {value}")


def mic(text):
    """The digest's bytes and its algorithm's name without punctuation."""
    value, _, name = str(text).rpartition(",")
    return base64.b64decode(value.strip()), name.strip().lower().replace("-", "")


def check(path, sent_path, received_path):
    with open(sent_path, encoding="utf-8") as sent, open(received_path, encoding="utf-8") as received:
        sent, received = json.load(sent), json.load(received)
    _, fields, signed = parts(path)
    fields = {name.lower(): value for name, value in fields}
    said = fields.get("received-content-mic", "")
    if sent["state"] != "delivered":
        return f"ALICE's message is {sent['state']}: {sent.get('reason') or 'no reason given'}"
    if not signed:
        return "the receipt is not signed"
    if not fields.get("disposition", "").lower().endswith("; processed"):
        return f"the receipt says {fields.get('disposition')}"
    if fields.get("original-message-id") != sent["message_id"]:
        return "the receipt is for another message"
    if not said or not mic(said) == mic(sent["mic"]) == mic(received["mic"]):
        return f"MICs differ: sent {sent['mic']}, received {received['mic']}, receipted {said}"
    print(said)
    return None


if __name__ == "__main__":
    if sys.argv[1] == "show":
        show(sys.argv[2])
    elif problem := check(*sys.argv[2:5]):
        print(problem)
        sys.exit(1)
