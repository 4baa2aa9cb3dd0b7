"""What the role leaves on shaped hosts, told by the hosts' own tools: dummies of the real names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Expected:
    """How a host tells its packages, its kernels and what an upgrade of everything would do."""

    kernel: str
    newer: str
    installed: str
    kernels: str
    upgrade: str
    package: str


HOSTS = {
    "ubuntu01": Expected(
        "6.8.0-88-generic",
        "6.8.0-90-generic",
        "dpkg-query -W -f '${Package} ${Version}\\n'",
        "dpkg-query -W -f '${Package}\\n' 'linux-image-[0-9]*'",
        "apt-get --simulate dist-upgrade",
        "libnvidia-compute-580-server",
    ),
    "rocky01": Expected(
        "5.14.0-611.5.1.el9_7.x86_64",
        "5.14.0-611.11.1.el9_7",
        "rpm -qa --qf '%{NAME} %{VERSION}\\n'",
        "rpm -q kernel-core",
        "dnf --assumeno upgrade",
        "nvidia-driver-cuda",
    ),
}


@pytest.fixture(scope="module")
def expected(host: Any) -> Expected:
    """Return what this host is."""
    return HOSTS[host.backend.get_pytest_id().removeprefix("ansible://")]


def test_the_module_is_of_the_planned_branch_and_flavour(host: Any, expected: Expected) -> None:
    (path,) = host.check_output("find /lib/modules -name 'nvidia.ko*'").splitlines()
    assert path.startswith(f"/lib/modules/{expected.kernel}/")
    assert host.check_output("modinfo -F version %s", path).startswith("580.")
    assert host.check_output("modinfo -F license %s", path) == "Dual MIT/GPL"


def test_packages_are_of_one_version(host: Any, expected: Expected) -> None:
    rows = [line.split() for line in host.check_output(expected.installed).splitlines()]
    driver = {name: version for name, version in rows if "nvidia" in name}
    assert expected.package in driver
    assert {version.partition("-")[0] for version in driver.values()} == {
        driver[expected.package].partition("-")[0]
    }


def test_no_kernel_came_along(host: Any, expected: Expected) -> None:
    """A newer one is on offer, and the plain names of headers and dkms ask for it."""
    assert len(host.check_output(expected.kernels).splitlines()) == 1
    assert expected.newer in host.run(expected.upgrade).stdout


def test_an_upgrade_of_everything_leaves_the_driver_alone(host: Any, expected: Expected) -> None:
    done = host.run(expected.upgrade)
    changed = {a or b for a, b in re.findall(r"^(?:Inst|Remv) (\S+)|^ (\S+) +x86_64 ", done.stdout, re.M)}
    assert changed  # the kernel, at least
    assert [name for name in changed if "nvidia" in name] == []


def test_nouveau_is_kept_out_of_the_initramfs(host: Any, expected: Expected) -> None:
    images = host.check_output("sh -c 'grep -l \"^blacklist nouveau\" /boot/init*'").splitlines()
    assert len(images) == 1
    assert expected.kernel in images[0]


def test_the_host_says_that_it_is_shaped(host: Any) -> None:
    assert "shaped, not real" in host.file("/etc/os-release").content_string


def test_the_stream_of_the_branch_is_enabled(host: Any, expected: Expected) -> None:
    if not expected.upgrade.startswith("dnf"):
        pytest.skip("apt has no module streams")
    assert "stream=580-open" in host.file("/etc/dnf/modules.d/nvidia-driver.module").content_string
    assert host.run("dnf versionlock list").stdout.count("nvidia") >= 6
