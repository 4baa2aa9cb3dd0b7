#!/usr/bin/env python3
"""Write the output beneath each "$ torchfleet-plan ..." in the console blocks of docs/*.md.

doc_examples.py           writes what is out of date, and names it
doc_examples.py --check   only names it, and ends with status 1

The day is the one of the tables. A document whose YAML or JSON blocks begin with "# FILE: PLACE", as those of
docs/data.md do, is run with those rows as the data of a site.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "plugins" / "plugin_utils" / "data"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
ROWS = re.compile(r"```(?:yaml|json)\n# (\S+): (\w+)\n(.*?)```", re.DOTALL)
COMMAND = "$ torchfleet-plan "
CODE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import cli
raise SystemExit(cli.main(sys.argv[1:]))
"""


def extend(text: str, folder: Path) -> None:
    """The rows of a document as the data of a site."""
    tables: dict[str, dict[str, Any]] = {}
    for name, place, rows in ROWS.findall(text):
        tables.setdefault(name, {})[place] = yaml.safe_load(rows)
    for name, table in tables.items():
        (folder / name).write_text(json.dumps(table), encoding="utf-8")


def plan(site: Path | None, arguments: list[str]) -> str:
    """What the command prints with the data of this site."""
    path = site / "torch.yml" if site else DATA / "torch.yml"
    today = yaml.safe_load((path if path.exists() else DATA / "torch.yml").read_text(encoding="utf-8"))[
        "asof"
    ]
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT / "collections"), *arguments, "--today", str(today)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TORCHFLEET_DATA": str(site or "")},
        text=True,
        check=False,
    )
    return done.stdout


def shown(text: str, site: Path) -> str:
    """The document with the output of today."""

    def block(match: re.Match[str]) -> str:
        commands = [line for line in match[1].splitlines() if line.startswith(COMMAND)]
        parts = [f"{line}\n{plan(site, shlex.split(line[len(COMMAND) :]))}" for line in commands]
        return "```console\n" + "\n".join(parts) + "```"

    return BLOCK.sub(block, text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; end with 1 where something is old"
    )
    args = parser.parse_args()
    old = []
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if COMMAND not in text:
            continue
        with tempfile.TemporaryDirectory() as folder:
            extend(text, Path(folder))
            new = shown(text, Path(folder))
        if new != text:
            old.append(path)
            if not args.check:
                path.write_text(new, encoding="utf-8")
    for path in old:
        print(f"{path.relative_to(ROOT)}: {'out of date' if args.check else 'written'}")
    return 1 if old and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
