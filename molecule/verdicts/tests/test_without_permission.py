"""What the driver role refuses on hosts that it could harm, before the first change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
STATE = ROOT / ".torchfleet" / "verdicts"

# What the role is told to do, and what preflight or the role must say instead of doing it.
REFUSALS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "busy01": ({"nvidia_driver_state": "absent"}, ["processes use its GPUs", "python3", "admin"]),
    "foreign01": ({"nvidia_driver_state": "absent"}, ["no package manager", "nvidia_driver_adopt"]),
    "secure01": (
        {"nvidia_driver_upgrade": True, "nvidia_driver_branch": "535"},
        ["Secure Boot", "is not enrolled", "nvidia_driver_mok_enroll"],
    ),
}
testinfra_hosts = [f"ansible://{name}" for name in REFUSALS]


@pytest.fixture(scope="module")
def name(host: Any) -> str:
    """Return the host's name in the inventory."""
    return str(host.backend.get_pytest_id().removeprefix("ansible://"))


def test_nothing_is_changed_where_a_change_is_refused(host: Any, name: str) -> None:
    variables, words = REFUSALS[name]
    before = picture(host)
    said = role(name, variables)
    assert [word for word in words if word not in said] == [], said
    assert "changed=0" in said and "failed=1" in said
    assert picture(host) == before


def test_no_reboot_under_a_job(host: Any, name: str) -> None:
    """The host is put in order otherwise: its driver is held."""
    if name != "busy01":
        pytest.skip("no job runs there")
    booted = "stat -c %Y /run/torchfleet-sim/booted"
    before = host.check_output(booted)
    said = role(name, {"nvidia_driver_reboot": True})
    words = ["must reboot", "a reboot brings it in", "python3", "admin", "nvidia_driver_reboot_force"]
    assert [word for word in words if word not in said] == [], said
    assert "failed=1" in said
    assert host.check_output(booted) == before
    assert "  570.211.01  " in host.file("/proc/driver/nvidia/version").content_string


def role(name: str, variables: dict[str, Any]) -> str:
    """Run the driver role and return what it said."""
    done = subprocess.run(
        [
            f"{Path(sys.executable).parent}/ansible-playbook",
            f"--inventory={STATE}/inventory",
            f"--limit={name}",
            f"--extra-vars={json.dumps(variables)}",
            str(Path(__file__).parents[1] / "drive.yml"),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    return " ".join(done.stdout.split())


def picture(host: Any) -> str:
    """Return what a driver role could change: packages, configuration and modules."""
    places = "/etc /boot /lib/modules /usr/bin /usr/lib/x86_64-linux-gnu /var/lib/dpkg/status"
    files = host.check_output(f"find {places} -xdev -printf '%p %s %T@ %l\\n' | sort | sha256sum")
    return str(files + host.check_output("cat /proc/driver/nvidia/version 2>&1 || true"))
