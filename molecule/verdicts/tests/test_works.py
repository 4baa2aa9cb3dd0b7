"""What the role does where it may: Fabric Manager, the simulated one, on a host with NVSwitches."""

from __future__ import annotations

from typing import Any

from drive_role import recap, role

testinfra_hosts = ["ansible://ok01"]


def test_fabric_manager_is_started_and_starts_with_the_host(host: Any) -> None:
    host.check_output("systemctl disable --now nvidia-fabricmanager.service")
    said = role("ok01", {})
    assert recap(said, "ok01")["failed"] == 0, said
    service = host.service("nvidia-fabricmanager.service")
    assert service.is_enabled
    assert service.is_running
    said = role("ok01", {})
    counts = recap(said, "ok01")
    assert (counts["changed"], counts["failed"]) == (0, 0), said


def test_fabric_manager_of_another_version_is_refused(host: Any) -> None:
    prebuilt = "/opt/torchfleet-sim/prebuilt/{}/fabricmanager/nvidia-fabricmanager_*.deb"
    host.check_output(f"dpkg --install {prebuilt.format('570.211.01')}")
    host.check_output("apt-mark unhold nvidia-fabricmanager")
    said = role("ok01", {})
    words = ["Fabric Manager is 570.211.01", "the driver is 580.178.04", "nvidia_driver_version"]
    assert [word for word in words if word not in said] == [], said
    assert recap(said, "ok01")["failed"] == 1
    host.check_output(f"dpkg --install {prebuilt.format('580.178.04')}")
