"""What dnf and zypper would do to a host's packages, as they print it."""

from __future__ import annotations

import re
from typing import Any

Json = dict[str, Any]

# A part of the table: "Installing dependencies:", in dnf 4 and 5. Rows are wrapped where a name is long.
DNF_PART = re.compile(
    r"^(Installing|Reinstalling|Upgrading|Downgrading|Removing)(?: [a-z ]+)?:\n"
    r"((?:(?!^(?:Installing|Reinstalling|Upgrading|Downgrading|Removing|Skipping|Transaction|Enabling|Switching)\b).*\n?)+)",
    re.M,
)
DNF_ROW = re.compile(r"(\S+)\s+(?:x86_64|aarch64|noarch|i[3-6]86)\s+(\S+)\s+\S+\s+[\d.]+")


def dnf_changes(text: str) -> list[Json]:
    """What a transaction of dnf would change: ``from`` is null for a new package, ``to`` for one that goes.

    dnf does not print which version an upgraded package has now.
    """
    rows: dict[str, Json] = {}
    for part, body in DNF_PART.findall(text):
        for name, version in DNF_ROW.findall(body):
            if part == "Removing":
                rows[name] = {"name": name, "from": version, "to": rows.get(name, {}).get("to")}
            else:
                old = None if part == "Installing" else "another version"
                rows[name] = {"name": name, "from": rows.get(name, {}).get("from") or old, "to": version}
    return [rows[name] for name in sorted(rows)]
