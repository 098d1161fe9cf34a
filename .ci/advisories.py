#!/usr/bin/env python3
"""advisories.py DATABASE Cargo.lock deny.toml: known vulnerabilities of the locked crates, from a RustSec checkout.

Works offline. Vulnerabilities fail unless deny.toml ignores them with a reason; informational ones are printed.
"""

import pathlib
import re
import sys
import tomllib


def version(text):
    """A version as something that sorts: numbers, then whether it is a release, then the pre-release's parts."""
    core, _, pre = text.split("+")[0].partition("-")
    numbers = [int(n) for n in core.split(".")]
    parts = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pre.split(".")] if pre else []
    return (*numbers, *[0] * (3 - len(numbers))), not pre, parts


def matches(wanted, range_text):
    """Whether a version lies in a requirement like `>= 1.2, < 2` or `^0.3.1`."""
    have = version(wanted)
    for term in range_text.split(","):
        sign, text = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|~)?\s*([^\s]+)\s*", term).groups()
        if text == "*":
            continue
        bound = version(text)
        numbers = [int(n) for n in text.split("-")[0].split(".")]
        if sign == "~":
            keep = min(len(numbers), 2) - 1
        else:  # caret: everything right of the first number that is not zero may grow
            keep = next((i for i, n in enumerate(numbers) if n), len(numbers) - 1)
        above = ((*numbers[:keep], numbers[keep] + 1, *[0] * (2 - keep)), False, [])
        holds = {
            ">=": have >= bound,
            "<=": have <= bound,
            ">": have > bound,
            "<": have < bound,
            "=": have == bound,
        }.get(sign, bound <= have < above)
        if not holds:
            return False
    return True


def advisories(database, crate):
    """The advisories about a crate: front matter between ```toml and ```."""
    for file in sorted((database / "crates" / crate).glob("*.md")):
        found = re.search(r"```toml\n(.*?)```", file.read_text(encoding="utf-8"), re.S)
        if found:
            yield tomllib.loads(found[1]), file.read_text(encoding="utf-8")


def title(text):
    found = re.search(r"^# (.+)$", text, re.M)
    return found[1] if found else ""


def main():
    database, lock, deny = (pathlib.Path(argument) for argument in sys.argv[1:4])
    ignored = tomllib.loads(deny.read_text())["advisories"].get("ignore", [])
    reasons = {entry["id"]: entry["reason"] for entry in ignored}
    packages = [p for p in tomllib.loads(lock.read_text())["package"] if "source" in p]
    bad = 0
    for package in packages:
        for advisory, text in advisories(database, package["name"]):
            facts, ranges = advisory["advisory"], advisory["versions"]
            safe = ranges.get("patched", []) + ranges.get("unaffected", [])
            if facts.get("withdrawn") or any(matches(package["version"], r) for r in safe):
                continue
            name = f"{facts['id']}  {package['name']} {package['version']}  {title(text)}"
            if facts["id"] in reasons:
                print(f"ignored  {name}\n         {reasons.pop(facts['id'])}")
            elif kind := facts.get("informational"):
                print(f"note     {name} ({kind})")
            else:
                print(f"error    {name}")
                bad += 1
    for stale in reasons:
        print(f"error    {stale} is ignored in {deny.name} and concerns no locked crate")
        bad += 1
    print(f"advisories: {len(packages)} crates looked up, {bad} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
