"""What is left on shaped hosts after the removal: nothing of the driver, and all of the rest."""

from __future__ import annotations

from typing import Any

WRITTEN = (
    "/etc/apt/sources.list.d/torchfleet-nvidia.sources",
    "/etc/apt/preferences.d/zz-torchfleet-nvidia.pref",
    "/etc/apt/apt.conf.d/60torchfleet-nvidia",
    "/etc/yum.repos.d/torchfleet-nvidia.repo",
    "/etc/yum.repos.d/torchfleet-epel.repo",
    "/etc/modprobe.d/torchfleet-nouveau.conf",
    "/etc/modules-load.d/torchfleet-nvidia-uvm.conf",
)


def test_nothing_of_the_driver_is_left(host: Any) -> None:
    listed = "rpm -qa" if host.exists("dnf") else "dpkg-query -W -f '${db:Status-Status} ${Package}\\n'"
    assert [line for line in host.check_output(listed).splitlines() if "nvidia" in line] == []
    assert host.check_output("find /lib/modules /usr/lib64 /usr/lib/x86_64-linux-gnu -name '*nvidia*'") == ""


def test_nothing_that_the_role_wrote_is_left(host: Any) -> None:
    assert [path for path in WRITTEN if host.file(path).exists] == []
    assert "nvidia" not in host.run("cat /etc/dnf/plugins/versionlock.list").stdout
    assert "stream=580" not in host.run("cat /etc/dnf/modules.d/nvidia-driver.module").stdout


def test_other_packages_stayed(host: Any) -> None:
    listed = "rpm -qa" if host.exists("dnf") else "dpkg-query -W -f '${Package}\\n'"
    names = host.check_output(listed)
    assert "dkms" in names
    assert "kernel-core" in names or "linux-image-6.8.0-88-generic" in names
