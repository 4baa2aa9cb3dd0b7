"""The files and the commands of a host, for what is read from both."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

Json = Dict[str, Any]
Run = Callable[[List[str]], Tuple[int, str, str]]
"""Runs a command; gives (exit status, stdout, stderr), status 127 when there is no such command."""


class Host:
    """The files of a host under ``root`` (tests read a tree of their own) and its commands."""

    def __init__(self, run: Run, root: str = "/", machine: str | None = None) -> None:
        self.run = run
        self.root = Path(root).resolve()
        self.machine = machine or platform.machine()

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.at(path))

    def raw(self, path: str, limit: int = 1 << 20) -> bytes:
        """The beginning of a file; nothing when it is absent or not readable."""
        try:
            with self.at(path).open("rb") as file:
                return file.read(limit)
        except OSError:
            return b""

    def text(self, path: str, limit: int = 1 << 20) -> str:
        return self.raw(path, limit).decode("utf-8", "replace").strip()

    def glob(self, pattern: str) -> list[str]:
        try:
            return sorted(
                "/" + str(found.relative_to(self.root)) for found in self.root.glob(pattern.lstrip("/"))
            )
        except OSError:
            return []

    def real(self, path: str) -> str:
        """``path`` with every link followed."""
        try:
            return "/" + str(self.at(path).resolve().relative_to(self.root))
        except (OSError, RuntimeError, ValueError):
            return path


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Order as ``sort -V`` does, which is how GRUB finds the newest kernel."""
    return [
        (1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[^\d]+", version)
    ]
