"""Runs a playbook on the inventory beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(
    folder: Path, *options: str, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``play.yml`` of the folder on the hosts of its ``hosts.yml``; on wide lines and without colours."""
    command = [sys.executable, "-m", "ansible", "playbook", "-i", str(folder / "hosts.yml")]
    return subprocess.run(
        [*command, *options, str(folder / "play.yml")],
        cwd=cwd,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "1000",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
