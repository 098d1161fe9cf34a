#!/usr/bin/env python3
"""Measures the gateway and its rivals side by side, in one run.

run.py [--target DIR] [--part NAME]... [--runs N] [options of the parts]

Each part is a module beside this one, with a function `measure(bench)` that gives rows, and perhaps `options(parser)`. What a part
leaves on the disk goes after it, or after the last one if it sets MANY_FILES: for five minutes an ext4 without a journal looks at
every inode that was deleted before it makes a new file, which then costs the next part's servers up to half as much CPU again. For
the same reason such a part does not begin sooner after the end of a former run, and what stands side by side in the place of a
part (ours, each rival) gets block groups of its own: what one deletes while it works would cost the others.
Prints a table and writes DIR/bench.json: an array of objects with part, name, unit, ours, rival, rival_value, ratio, goal, met,
runs (measure.py, `row`, says what they mean). Every figure is the median of the runs; the last lines name the goals that were
missed. Payloads are read warm. CPU seconds are user and system time; peak memory is the kernel's high-water mark (VmHWM).
"""

import argparse
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import time

import measure

HERE = pathlib.Path(__file__).resolve().parent
# Seconds for which ext4 remembers a deleted inode that is not on the disk yet.
RECENT = 310


def parts():
    """The modules that measure something, by name."""
    names = sorted(file.stem for file in HERE.glob("*.py") if file != pathlib.Path(__file__).resolve())
    modules = {name: importlib.import_module(name) for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def main():
    known = parts()
    parser = argparse.ArgumentParser(description="Measures the gateway; see the head of this file.")
    parser.add_argument("--target", type=pathlib.Path, default=measure.ROOT / "target")
    parser.add_argument("--part", action="append", choices=sorted(known), help="only this part; may be given again (all)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, of which the median counts (3)")
    for module in known.values():
        if hasattr(module, "options"):
            module.options(parser)
    args = parser.parse_args()
    args.target = args.target.resolve()
    rows, left = [], []
    results = args.target / "bench.json"
    if any(getattr(known[name], "MANY_FILES", False) for name in args.part or known):
        wait_for_disk(results)
    for name in args.part or known:
        place = args.target / "bench" / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        # A hint for ext4 only (chattr(1), T); other file systems refuse it.
        subprocess.run(["chattr", "+T", place], check=False, stderr=subprocess.DEVNULL)
        print(f"measuring {name} (load {os.getloadavg()[0]:.2f}) …", flush=True)
        rows += [{"part": name, **row} for row in known[name].measure(measure.Bench(args, place))]
        if getattr(known[name], "MANY_FILES", False):
            left.append(place)
        else:
            shutil.rmtree(place)
    for place in left:
        shutil.rmtree(place)
    results.write_text(json.dumps(rows, indent=2) + "\n")
    measure.table(rows)
    print(f"written: {results}")


def wait_for_disk(results):
    """Until the files that a former run deleted cost nothing any more; its results were written right after."""
    since = time.time() - results.stat().st_mtime if results.exists() else RECENT
    if 0 <= since < RECENT:
        print(f"waiting for {RECENT - since:.0f} s: a former run has just deleted many files", flush=True)
        time.sleep(RECENT - since)


if __name__ == "__main__":
    main()
