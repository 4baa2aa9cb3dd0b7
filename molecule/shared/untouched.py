#!/usr/bin/env python3
"""Say what differs between two pictures of a host (snapshot.py); exit status 1 when anything does.

untouched.py BEFORE.json AFTER.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

SHOWN = 30


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return one line for each name that is new, gone or changed."""
    lines = [f"new: {name} ({after[name]})" for name in after.keys() - before.keys()]
    lines += [f"gone: {name} ({before[name]})" for name in before.keys() - after.keys()]
    lines += [
        f"changed: {name} ({before[name]} -> {after[name]})"
        for name in before.keys() & after.keys()
        if before[name] != after[name]
    ]
    return sorted(lines)


def main(before: Path, after: Path) -> int:
    """Compare two files."""
    first, second = json.loads(before.read_text()), json.loads(after.read_text())
    if not first:
        print(f"{before} is empty: the pristine host was not looked at")
        return 1
    found = differences(first, second)
    print(f"{len(second)} files, directories, links and packages compared, {len(found)} differ")
    print("\n".join(found[:SHOWN]) + (f"\n... and {len(found) - SHOWN} more" if len(found) > SHOWN else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
