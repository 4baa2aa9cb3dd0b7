"""What dnf and zypper say that they would do; recorded from dnf 4.14 and zypper 1.14.89, one row wrapped."""

from __future__ import annotations

from ansible_collections.torchfleet.gpu.plugins.filter.package_changes import package_changes
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.driver_packages import (
    driver_objections,
    of_driver,
)

INSTALL = """\
Last metadata expiration check: 0:00:07 ago on Mon Nov 23 17:48:21 2026.
Dependencies resolved.
================================================================================
 Package                 Arch   Version                 Repository         Size
================================================================================
Installing:
 kernel-devel-matched    x86_64 5.14.0-611.5.1.el9_7    baseos            5.7 k
 kmod-nvidia-open-dkms   x86_64 3:580.178.04-1.el9      torchfleet-nvidia 6.6 k
Installing dependencies:
 dkms                    x86_64 3.2.2-1.el9             torchfleet-epel   8.4 k
 nvidia-driver-cuda-libs x86_64 3:580.178.04-1.el9      torchfleet-nvidia 6.5 k

Transaction Summary
================================================================================
Install  4 Packages

Total download size: 63 k
Installed size: 5.5 k
Operation aborted.
"""
EXCHANGE = """\
Package kernel-devel-matched-5.14.0-611.5.1.el9_7.x86_64 is already installed.
Dependencies resolved.
================================================================================
 Package                  Arch    Version             Repository           Size
================================================================================
Installing:
 kmod-nvidia-open-dkms    x86_64  3:595.71.05-1.el9   torchfleet-nvidia   6.6 k
Upgrading:
 nvidia-driver-cuda-libs-with-a-name-that-is-long
                          x86_64  3:595.71.05-1.el9   torchfleet-nvidia   6.4 k
Removing dependent packages:
 kmod-nvidia-latest-dkms  x86_64  3:580.178.04-1.el9  @torchfleet-nvidia   91
 nvidia-driver-cuda       x86_64  3:580.178.04-1.el9  @torchfleet-nvidia    0

Transaction Summary
================================================================================
Install  1 Package
"""
KERNEL = """\
Installing:
 dkms                  noarch  3.2.2-1.el9           epel               85 k
Installing dependencies:
 kernel-core           x86_64  5.14.0-611.11.1.el9_7 baseos             18 M
 kernel-devel          x86_64  5.14.0-611.11.1.el9_7 appstream          21 M

Transaction Summary
"""
ZYPPER = """\
<?xml version='1.0'?>
<stream>
<message type="info">Resolving package dependencies...</message>
<install-summary download-size="11420" space-usage-diff="0" packages-to-change="2">
<to-upgrade>
<solvable type="package" name="nvidia-compute-G06" edition="580.178.04-1" arch="x86_64" repository="n"\
 edition-old="580.126.09-1" arch-old="x86_64" summary="shaped, not real: a dummy of torchfleet&apos;s tests">
<description>shaped, not real: a dummy of torchfleet&apos;s tests</description></solvable>
</to-upgrade>
<to-install>
<solvable type="package" name="nvidia-open-580" edition="580.178.04-1" arch="x86_64" repository="n"/>
</to-install>
<to-remove>
<solvable type="package" name="cuda-drivers-580" edition="580.126.09-1" arch="x86_64"/>
</to-remove>
</install-summary>
<prompt id="0">
<text>Backend:  classic_rpmtrans --dry-run
Continue?</text>
</prompt>
</stream>
"""
NOTHING = "Dependencies resolved.\nNothing to do.\nComplete!\n"


def test_new_packages() -> None:
    assert package_changes(INSTALL, "dnf") == [
        {"name": "dkms", "from": None, "to": "3.2.2-1.el9"},
        {"name": "kernel-devel-matched", "from": None, "to": "5.14.0-611.5.1.el9_7"},
        {"name": "kmod-nvidia-open-dkms", "from": None, "to": "3:580.178.04-1.el9"},
        {"name": "nvidia-driver-cuda-libs", "from": None, "to": "3:580.178.04-1.el9"},
    ]
    assert driver_objections(package_changes(INSTALL, "dnf"), "580") == []
    assert of_driver(package_changes(INSTALL, "dnf")) == ["kmod-nvidia-open-dkms", "nvidia-driver-cuda-libs"]


def test_an_exchange_with_a_wrapped_row_and_a_size_of_nothing() -> None:
    rows = {row["name"]: (row["from"] is None, row["to"]) for row in package_changes(EXCHANGE, "dnf")}
    assert rows == {
        "kmod-nvidia-latest-dkms": (False, None),
        "kmod-nvidia-open-dkms": (True, "3:595.71.05-1.el9"),
        "nvidia-driver-cuda": (False, None),
        "nvidia-driver-cuda-libs-with-a-name-that-is-long": (False, "3:595.71.05-1.el9"),
    }


def test_a_kernel_is_objected_to() -> None:
    (said,) = driver_objections(package_changes(KERNEL, "dnf"), "580")
    assert "it would install a kernel, kernel-core 5.14.0-611.11.1.el9_7" in said


def test_nothing() -> None:
    assert package_changes(NOTHING, "dnf") == []


def test_zypper_tells_the_old_version_too() -> None:
    assert package_changes(ZYPPER, "zypper") == [
        {"name": "cuda-drivers-580", "from": "580.126.09-1", "to": None},
        {"name": "nvidia-compute-G06", "from": "580.126.09-1", "to": "580.178.04-1"},
        {"name": "nvidia-open-580", "from": None, "to": "580.178.04-1"},
    ]
    assert package_changes("<stream>\n</stream>\n", "zypper") == []
