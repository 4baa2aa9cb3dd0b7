"""Debian's real driver packages on hosts with a simulated PCI bus: what DKMS built is a real module."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Driver:
    """What converge installs on a host."""

    package: str
    module: str
    version: str


DRIVERS = {
    "bookworm01": Driver("nvidia-tesla-470-kernel-dkms", "nvidia-tesla-470", "470."),
    "trixie01": Driver("nvidia-tesla-535-kernel-dkms", "nvidia-tesla-535", "535."),
}


@pytest.fixture(scope="module")
def driver(host: Any) -> Driver:
    """Return what this host has."""
    return DRIVERS[host.backend.get_pytest_id().removeprefix("ansible://")]


def test_packages_are_debian_s_own(host: Any, driver: Driver) -> None:
    package = host.package(driver.package)
    assert package.is_installed
    assert package.version.startswith(driver.version)
    assert "+sim" not in package.version


def test_dkms_built_the_module_for_the_kernel(host: Any, driver: Driver) -> None:
    kernel = host.check_output("uname -r")
    status = host.check_output("dkms status")
    assert f"{driver.module}/{driver.version}" in status
    assert f", {kernel}, x86_64: installed" in status
    place = f"/lib/modules/{kernel}/updates/dkms"
    (module,) = host.check_output("find %s -name %s", place, f"{driver.module}.ko*").splitlines()
    assert host.check_output("modinfo -F version %s", module).startswith(driver.version)
    assert host.check_output("modinfo -F vermagic %s", module).startswith(f"{kernel} ")


def test_it_came_up_with_the_reboot(host: Any, driver: Driver) -> None:
    assert f"  {driver.version}" in host.file("/proc/driver/nvidia/version").content_string
    assert not host.file("/sys/module/nouveau").exists


def test_nouveau_is_kept_out(host: Any) -> None:
    assert "blacklist nouveau" in host.check_output("modprobe --showconfig").splitlines()


def test_the_real_nvidia_smi_finds_no_device(host: Any) -> None:
    """The packages are real and the GPU is not, and the real tool says so."""
    said = host.check_output("nvidia-smi; echo status $?")  # 255 would look like a failure of ssh
    assert re.search(r"^(Failed to initialize NVML|NVIDIA-SMI has failed)", said), said
    assert not re.search(r"status (0|127)$", said), said
