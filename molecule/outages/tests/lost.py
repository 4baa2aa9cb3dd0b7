"""Runs on a host: how many files its environments are to have, and which of them are gone. Prints JSON.

lost.py PREFIX...
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path


def expected(prefix: Path) -> list[Path]:
    """What conda and the wheels say that they installed. Byte code comes and goes."""
    found = []
    for record in prefix.glob("conda-meta/*.json"):
        found += [prefix / name for name in json.loads(record.read_text())["files"]]
    for record in prefix.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        with record.open(newline="") as stream:
            found += [record.parents[1] / row[0] for row in csv.reader(stream)]
    # A wheel names its scripts below .data, from where they are moved.
    return [path for path in found if path.suffix != ".pyc" and ".data/" not in str(path)]


files = [path for prefix in sys.argv[1:] for path in expected(Path(prefix))]
gone = [str(path) for path in files if not path.is_symlink() and not path.exists()]
print(json.dumps({"files": len(files), "lost": gone}))
