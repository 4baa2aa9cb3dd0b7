"""How something simulated comes over what the container shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

RUN = Path("/run/torchfleet-sim")


def bind(source: Path, target: Path) -> None:
    """Put one file or directory over another."""
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)


def overlay(upper: Path, target: Path) -> None:
    """Merge a directory into a read-only one."""
    options = f"lowerdir={upper}:{target}"
    subprocess.run(["mount", "-t", "overlay", "torchfleet-sim", "-o", options, str(target)], check=True)
