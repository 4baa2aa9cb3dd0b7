#!/usr/bin/env python3
"""Write the output beneath each "$ torchfleet-plan ..." in the console blocks of docs/*.md.

doc_examples.py           writes what is out of date, and names it
doc_examples.py --check   only names it, and ends with status 1

The day is the one of the tables. A document whose YAML or JSON blocks begin with "# FILE: PLACE", as those of
docs/data.md do, is run with tables to which those rows were added.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
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
import pathlib, sys
sys.path.insert(0, sys.argv.pop(1))
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
tables.DATA = pathlib.Path(sys.argv.pop(1))
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import cli
raise SystemExit(cli.main(sys.argv[1:]))
"""


def extend(text: str, folder: Path) -> None:
    """A copy of the tables with the rows of a document added."""
    shutil.copytree(DATA, folder, dirs_exist_ok=True)
    for name, place, rows in ROWS.findall(text):
        path = folder / name
        table: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        new = yaml.safe_load(rows)
        if isinstance(new, list):
            table[place] += new
        elif isinstance(new, dict):
            table[place] = dict(sorted({**table[place], **new}.items()))
        else:
            table[place] = new
        write = json.dumps if path.suffix == ".json" else yaml.safe_dump
        path.write_text(write(table), encoding="utf-8")


def plan(data: Path, arguments: list[str]) -> str:
    """What the command prints with these tables."""
    today = yaml.safe_load((data / "torch.yml").read_text(encoding="utf-8"))["asof"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(ROOT / "collections"), str(data), *arguments, "--today", str(today)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def shown(text: str, data: Path) -> str:
    """The document with the output of today."""

    def block(match: re.Match[str]) -> str:
        commands = [line for line in match[1].splitlines() if line.startswith(COMMAND)]
        parts = [f"{line}\n{plan(data, shlex.split(line[len(COMMAND) :]))}" for line in commands]
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
