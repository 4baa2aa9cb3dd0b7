"""Each simulated host gets its verdict, with a reason that names what was found and what is next."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

STATE = Path(__file__).resolve().parents[3] / ".torchfleet" / "verdicts"

# The verdict, and what its reason must name: what was found, and what is next.
VERDICTS = {
    "ok01": ("ok", ["580.178.04 open"]),
    "container01": ("not wanted", ["container", "docker", "host's affair"]),
    "vm01": ("not wanted", ["no NVIDIA GPU", "virtual machine"]),
    "wsl01": ("not wanted", ["WSL2", "Windows"]),
    "absent01": ("absent", ["no NVIDIA driver", "nouveau drives it"]),
    "absent02": ("absent", ["no NVIDIA driver", "nouveau is loaded"]),
    "absent03": ("absent", ["no NVIDIA driver"]),
    "foreign01": ("foreign (.run)", ["580.178.04", "/usr/bin/nvidia-uninstall", "adopted"]),
    "kernel01": ("built for another kernel", ["580.178.04", "6.1.0-99-amd64", "boots next", "headers"]),
    "flavour01": ("wrong flavour", ["580.178.04 open", "10de:1b06", "only be driven by the proprietary one"]),
    "mixed01": ("wrong flavour", ["10de:1b06", "10de:2901", "no driver serves both"]),
    "mixed02": ("wrong flavour", ["10de:1db4", "proprietary", "change the flavour"]),
    "secure01": ("blocked by Secure Boot", ["580.178.04 open", "unsigned", "enrol"]),
    "nouveau01": ("nouveau active", ["580.178.04 proprietary", "blacklisted", "reboot"]),
    "busy01": ("reboot pending", ["570.211.01", "580.178.04", "a reboot brings it in"]),
    "library01": ("library mismatch", ["580.178.04", "libcuda is 570.211.01", "of one version"]),
}
GPUS = {"ok01": 8, "absent03": 8, "vm01": 0, "wsl01": 0, "mixed01": 2, "mixed02": 2, "busy01": 2}
# What the kernel says is loaded there; no other host has a module loaded.
LOADED = {
    "ok01": "580.178.04",
    "foreign01": "580.178.04",
    "kernel01": "580.178.04",
    "mixed01": "580.178.04",
    "mixed02": "580.178.04",
    "busy01": "570.211.01",
    "library01": "580.178.04",
}


@pytest.fixture(scope="module")
def name(host: Any) -> str:
    """Return the host's name in the inventory."""
    return str(host.backend.get_pytest_id().removeprefix("ansible://"))


@pytest.fixture(scope="module")
def told(name: str) -> Any:
    """Return the truth and the plan that converge kept."""
    return json.loads((STATE / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def driver(told: Any) -> Any:
    """Return the truth's driver."""
    return told["truth"]["driver"]


def test_verdict(name: str, driver: Any) -> None:
    verdict, words = VERDICTS[name]
    assert driver["verdict"] == verdict, driver["reason"]
    assert [word for word in words if word not in driver["reason"]] == [], driver["reason"]


def test_it_is_what_the_host_is(host: Any, name: str, told: Any, driver: Any) -> None:
    """lspci and procfs agree with the truth: the verdict is not made of what the test wants."""
    if name == "container01":
        assert told["truth"]["virtualization"] == {"type": "container", "detail": "docker"}
        return
    devices = host.check_output("lspci -n -d 10de:").splitlines()
    gpus = [line for line in devices if re.search(r" 030[02]: ", line)]
    assert len(gpus) == len(told["truth"]["gpus"]) == GPUS.get(name, 1)
    assert len(devices) - len(gpus) == told["truth"]["nvswitches"]
    version = host.file("/proc/driver/nvidia/version")
    assert version.exists is (name in LOADED)
    if name in LOADED:
        assert f"  {LOADED[name]}  " in version.content_string
        assert driver["loaded"]["version"] == LOADED[name]
    else:
        assert driver["loaded"] is None
    assert host.file("/sys/module/nouveau").exists is driver["nouveau"]["loaded"]


def test_packages_are_those_of_dpkg(host: Any, driver: Any) -> None:
    layout = "${Package} ${Version} ${db:Status-Want}\\n"
    rows = host.check_output("dpkg-query --show --showformat=%s", layout).splitlines()
    installed = {tuple(row.split()[:2]): row.split()[2] for row in rows}
    for row in driver["packages"]:
        assert (installed[row["name"], row["version"]] == "hold") is row["held"]
    named = {name for name, _version in installed if re.search("nvidia|libcuda", name)}
    # Of no driver: this one has a version of its own.
    assert named - {row["name"] for row in driver["packages"]} <= {"nvidia-kernel-common"}


def test_fabric_manager_on_the_host_with_nvswitches_alone(name: str, driver: Any) -> None:
    running = {"version": "580.178.04", "enabled": True, "active": True}
    assert driver["fabric_manager"] == (running if name == "ok01" else None)


def test_the_job_is_named(host: Any, name: str, told: Any) -> None:
    """Daemons of the driver hold no GPU here; the job of busy01 does."""
    found = [(row["name"], row["user"]) for row in told["truth"]["processes"]]
    assert found == ([("python3", "admin")] if name == "busy01" else [])


def test_what_others_left(name: str, driver: Any) -> None:
    files = ["/usr/bin/nvidia-uninstall", "/usr/bin/nvidia-installer", "/var/log/nvidia-installer.log"]
    assert driver["leftovers"]["files"] == (files if name == "foreign01" else [])
    # Only libcuda was put back; the metapackage of the former branch stays with an upgrade.
    left = {"library01": ["libcuda1"], "busy01": ["cuda-drivers-570"]}
    assert [row["name"] for row in driver["leftovers"]["packages"]] == left.get(name, [])
