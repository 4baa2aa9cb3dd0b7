"""Runs the driver role on a host of this scenario, and sees what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
STATE = ROOT / ".torchfleet" / "verdicts"


def host_name(host: Any) -> str:
    """Return the host's name in the inventory."""
    return str(host.backend.get_pytest_id().removeprefix("ansible://"))


def role(name: str, variables: dict[str, Any], *options: str) -> str:
    """Run the driver role on the hosts of a pattern and return what it said."""
    done = subprocess.run(
        [
            f"{Path(sys.executable).parent}/ansible-playbook",
            f"--inventory={STATE}/inventory",
            f"--limit={name}",
            f"--extra-vars={json.dumps(variables)}",
            *options,
            str(Path(__file__).parents[1] / "drive.yml"),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return " ".join(done.stdout.split())


def recap(said: str, name: str) -> dict[str, int]:
    """Return how many tasks of a host were changed, failed and so on."""
    row = said.rpartition("PLAY RECAP")[2].partition(f" {name} : ")[2]
    counts: dict[str, int] = {}
    for item in row.split():
        key, mark, number = item.partition("=")
        if not mark:
            break
        counts[key] = int(number)
    return counts


def picture(host: Any) -> str:
    """Return what a driver role could change: packages, configuration and modules."""
    places = "/etc /boot /lib/modules /usr/bin /usr/lib/x86_64-linux-gnu /var/lib/dpkg/status"
    files = host.check_output(f"find {places} -xdev -printf '%p %s %T@ %l\\n' | sort | sha256sum")
    return str(files + host.check_output("cat /proc/driver/nvidia/version 2>&1 || true"))
