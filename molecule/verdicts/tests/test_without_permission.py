"""What the driver role refuses on hosts that it could harm, before the first change."""

from __future__ import annotations

from typing import Any

import pytest
from drive_role import host_name, picture, recap, role

# What the role is told to do, and what preflight or the role must say instead of doing it.
REFUSALS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "busy01": ({"nvidia_driver_state": "absent"}, ["processes use its GPUs", "python3", "admin"]),
    "foreign01": ({"nvidia_driver_state": "absent"}, ["no package manager", "nvidia_driver_adopt"]),
    "secure01": (
        {"nvidia_driver_upgrade": True, "nvidia_driver_branch": "535"},
        ["Secure Boot", "is not enrolled", "nvidia_driver_mok_enroll"],
    ),
    "flavour01": ({}, ["GTX 1080 Ti", "open kernel modules", "nvidia_driver_upgrade"]),
    "mixed01": (
        {"nvidia_driver_upgrade": True},
        ["GTX 1080 Ti", "B200", "move the GPUs of", "to another host"],
    ),
    "mixed02": ({}, ["V100", "open kernel modules", "nvidia_driver_upgrade"]),
    "ok01": (
        {
            "nvidia_driver_upgrade": True,
            "nvidia_driver_repository": "local",
            "nvidia_driver_branch": "595",
            "nvidia_driver_local": [{"version": "595.71.05", "layout": "nvidia"}],
            "nvidia_driver_local_repository": {"url": "http://mirror.lab/nvidia"},
        },
        ["nvidia_driver_local_repository", "fingerprint of 40 hexadecimal digits"],
    ),
    "container01": (
        {"nvidia_driver_state": "present"},
        ["is a container", "nvidia_driver_allow_in_container"],
    ),
}
testinfra_hosts = [f"ansible://{name}" for name in REFUSALS]


def test_nothing_is_changed_where_a_change_is_refused(host: Any) -> None:
    name = host_name(host)
    before = picture(host)
    variables, words = REFUSALS[name]
    said = role(name, variables)
    assert [word for word in words if word not in said] == [], said
    counts = recap(said, name)
    assert (counts["changed"], counts["failed"]) == (0, 1), said
    assert picture(host) == before


def test_no_reboot_under_a_job(host: Any) -> None:
    """The host is put in order otherwise: its driver is held."""
    if host_name(host) != "busy01":
        pytest.skip("no job runs there")
    booted = "stat -c %Y /run/torchfleet-sim/booted"
    before = host.check_output(booted)
    said = role("busy01", {"nvidia_driver_reboot": True})
    words = ["must reboot", "a reboot brings it in", "python3", "admin", "nvidia_driver_reboot_force"]
    assert [word for word in words if word not in said] == [], said
    assert "failed=1" in said
    assert host.check_output(booted) == before
    assert "  570.211.01  " in host.file("/proc/driver/nvidia/version").content_string
