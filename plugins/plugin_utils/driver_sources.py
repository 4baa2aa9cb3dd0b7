"""Switches off the repositories of a file that can bring a driver, and no other."""

from __future__ import annotations

import re

from ansible_collections.torchfleet.gpu.plugins.module_utils.installation import DRIVER_SOURCE

MARK = "# Switched off by torchfleet.gpu.nvidia_driver: "
ENABLED = re.compile(r"^[ \t]*enabled[ \t]*[:=].*\n?", re.M | re.I)


def switched_off(content: str, path: str) -> str:
    """The file of apt, dnf or zypper as it shall be."""
    if path.endswith(".list"):
        lines = content.splitlines(keepends=True)
        return "".join(MARK + line if _brings_driver(line) else line for line in lines)
    if path.endswith(".sources"):
        parts = re.split(r"(\n[ \t]*\n)", content)
        return "".join(_off(part, "Enabled: no\n") if _brings_driver(part) else part for part in parts)
    parts = re.split(r"(?m)^(?=\[)", content)
    return "".join(_off(part, "enabled=0\n") if _brings_driver(part) else part for part in parts)


def _brings_driver(stanza: str) -> bool:
    told = (line for line in stanza.splitlines() if not line.lstrip().startswith("#"))
    return DRIVER_SOURCE.search("\n".join(told)) is not None


def _off(stanza: str, line: str) -> str:
    """Right before its first other setting, for a stanza may begin with comments and a header."""
    rest = ENABLED.sub("", stanza)
    return re.sub(r"^(?=[^#\[\s])", line, rest, count=1, flags=re.M)
