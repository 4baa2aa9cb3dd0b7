"""Every system that the planner offers a driver for has data in the role, and NVIDIA's key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/nvidia_driver"
SYSTEMS = yaml.safe_load((ROOT / "plugins/plugin_utils/data/systems.yml").read_text())["systems"]
FAMILY = {"rocky": "rhel", "almalinux": "rhel", "ol": "rhel", "opensuse-leap": "sles"}
HOSTS = [(name, str(system["version"]), system) for system in SYSTEMS for name in system["ids"]]


def variables(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROLE / f"vars/{name}.yml").read_text())
    return data


def distribution(name: str, version: str) -> str:
    """Return NVIDIA's name of a system, as its documentation has it."""
    if FAMILY.get(name, name) == "sles":
        return "suse16" if version == "16" else {"sles": "sles15", "opensuse-leap": "opensuse15"}[name]
    return f"{FAMILY.get(name, name)}{version.replace('.', '')}"


@pytest.mark.parametrize(("name", "version", "system"), HOSTS, ids=lambda value: str(value)[:20])
def test_the_role_has_data(name: str, version: str, system: dict[str, Any]) -> None:
    data = variables(FAMILY.get(name, name))
    manager = data["__nvidia_driver_manager"]
    assert re.search(r"apt|dnf|zypper", manager)
    if "{{" in manager:  # a family whose other releases are unknown
        releases = str(data.get("__nvidia_driver_releases", "")) + manager
        assert f"'{version}'" in releases
    assert data["__nvidia_driver_initramfs"]["argv"]
    if system["nvidia"]:
        key = variables("main")["__nvidia_driver_nvidia_keys"][distribution(name, version)]
        assert re.fullmatch(r"[0-9A-Fa-f]{8}\.pub", key["file"])
        # NVIDIA names the file by the key's last digits.
        assert key["fingerprint"].upper().endswith(key["file"].partition(".")[0].upper())


@pytest.mark.parametrize("manager", ["apt", "dnf", "zypper"])
def test_a_package_manager_has_all_its_steps(manager: str) -> None:
    steps = re.findall(r"<manager>_(\w+)\.yml", (ROLE / "tasks/install.yml").read_text())
    assert len(steps) >= 8
    assert [step for step in steps if not (ROLE / f"tasks/{manager}_{step}.yml").is_file()] == []
