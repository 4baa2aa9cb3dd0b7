"""Debian's real driver packages on hosts with a simulated PCI bus: what DKMS built is a real module."""

from __future__ import annotations

from typing import Any

import pytest

DRIVERS = {"bookworm01": "535.", "trixie01": "550."}


@pytest.fixture(scope="module")
def branch(host: Any) -> str:
    """Return the beginning of the driver's version on this host."""
    return DRIVERS[host.backend.get_pytest_id().removeprefix("ansible://")]


def test_packages_are_debian_s_own(host: Any, branch: str) -> None:
    for name in ("nvidia-kernel-dkms", "nvidia-open-kernel-dkms"):
        package = host.package(name)
        if package.is_installed:
            assert package.version.startswith(branch)
            assert "+sim" not in package.version
            return
    pytest.fail("no package of the kernel module is installed")


def test_dkms_built_the_module_for_the_kernel(host: Any, branch: str) -> None:
    kernel = host.check_output("uname -r")
    status = host.check_output("dkms status")
    assert f"{branch}" in status
    assert kernel in status
    assert "installed" in status
    (module,) = host.check_output(
        "find /lib/modules/%s -name 'nvidia-current*.ko*' ! -name '*-current-*' -o -path '/lib/modules/%s/*'"
        " -name 'nvidia-current-open.ko*'",
        kernel,
        kernel,
    ).splitlines()
    assert host.check_output("modinfo -F version %s", module).startswith(branch)
    assert host.check_output("modinfo -F vermagic %s", module).startswith(f"{kernel} ")


def test_it_came_up_with_the_reboot(host: Any, branch: str) -> None:
    assert f"  {branch}" in host.file("/proc/driver/nvidia/version").content_string
    assert not host.file("/sys/module/nouveau").exists


def test_nouveau_is_kept_out(host: Any) -> None:
    assert host.run("grep -rqs '^blacklist nouveau' /etc/modprobe.d").rc == 0


def test_the_real_nvidia_smi_finds_no_device(host: Any) -> None:
    """The packages are real and the GPU is not, and the real tool says so."""
    done = host.run("command -v nvidia-smi && ! nvidia-smi")
    assert done.rc == 0, done.stdout
