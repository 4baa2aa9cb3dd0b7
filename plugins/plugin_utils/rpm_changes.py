"""What dnf and zypper would do to a host's packages, as they print it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
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


def zypper_changes(text: str) -> list[Json]:
    """What ``zypper --xmlout`` prints of its plan, in the same form; nothing where it prints none."""
    begin, end = text.find("<install-summary"), text.find("</install-summary>")
    if begin < 0 or end < 0:
        return []
    rows: dict[str, Json] = {}
    for part in ElementTree.fromstring(text[begin:end] + "</install-summary>"):
        for item in part.iter("solvable"):
            if item.get("type", "package") != "package":
                continue
            name, edition, old = item.get("name", ""), item.get("edition"), item.get("edition-old")
            if part.tag == "to-remove":
                rows[name] = {"name": name, "from": edition, "to": rows.get(name, {}).get("to")}
            else:
                rows[name] = {"name": name, "from": rows.get(name, {}).get("from") or old, "to": edition}
    return [rows[name] for name in sorted(rows)]
