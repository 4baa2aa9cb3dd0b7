"""What a package manager would do to a driver, from recorded output of apt on Debian 12 and 13."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.filter.openpgp_key import openpgp_key
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages as packages
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.openpgp import fingerprints

# Debian 12: the proprietary module has a security update, the open one does not.
POLICY = """\
nvidia-open-kernel-dkms:
  Installed: (none)
  Candidate: 535.261.03-1
  Version table:
     535.261.03-1 500
        500 http://deb.debian.org/debian bookworm/contrib amd64 Packages
libcuda1:
  Installed: (none)
  Candidate: 535.309.01-0+deb12u1
  Version table:
     535.309.01-0+deb12u1 500
        500 http://deb.debian.org/debian-security bookworm-security/non-free amd64 Packages
     535.261.03-1 500
        500 http://deb.debian.org/debian bookworm/non-free amd64 Packages
nvidia-persistenced:
  Installed: (none)
  Candidate: 535.171.04-1~deb12u1
  Version table:
     535.171.04-1~deb12u1 500
        500 http://deb.debian.org/debian bookworm/contrib amd64 Packages
linux-headers-6.1.0-9-amd64:
  Installed: (none)
  Candidate: (none)
  Version table:
"""
SIMULATED = """\
NOTE: This is only a simulation!
Remv nvidia-alternative [470.256.02-1~deb12u1]
Purg libnvidia-tesla-470-cuda1 [470.256.02-1~deb12u1]
Inst linux-headers-6.1.0-56-amd64 (6.1.192-2 Debian-Security:12/oldstable-security [amd64])
Inst nvidia-support (20220217+3~deb12u1 Debian:12.15/oldstable [amd64])
Inst libcuda1 [535.261.03-1] (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64]) []
Inst nvidia-kernel-dkms (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
Conf nvidia-kernel-dkms (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
"""


# apt 2.6 on Debian 12 with APT::Ignore-Hold, from the proprietary to the open module; libssl3 was put in.
HELD = """\
The following NEW packages will be installed:
  nvidia-open-kernel-dkms nvidia-open-kernel-support
The following held packages will be changed:
  firmware-nvidia-gsp libcuda1 libssl3
  nvidia-kernel-dkms
The following packages will be DOWNGRADED:
  firmware-nvidia-gsp libcuda1
0 upgraded, 2 newly installed, 9 downgraded, 2 to remove and 0 not upgraded.
Remv nvidia-kernel-dkms [535.309.01-0+deb12u1]
Inst libcuda1 [535.309.01-0+deb12u1] (535.261.03-1 Debian:12.15/oldstable [amd64]) []
Inst libssl3 [3.0.17-1] (3.0.18-1 Debian:12.15/oldstable [amd64])
Inst firmware-nvidia-gsp [535.309.01-0+deb12u1] (535.261.03-1 Debian:12.15/oldstable [amd64])
Inst nvidia-open-kernel-dkms (535.261.03-1 Debian:12.15/oldstable [amd64])
"""


def new(name: str, version: str) -> dict[str, Any]:
    return {"name": name, "from": None, "to": version}


def gone(name: str, version: str) -> dict[str, Any]:
    return {"name": name, "from": version, "to": None}


def test_the_simulation_of_apt_is_read() -> None:
    assert packages.apt_changes(SIMULATED) == [
        {"name": "libcuda1", "from": "535.261.03-1", "to": "535.309.01-0+deb12u1"},
        gone("libnvidia-tesla-470-cuda1", "470.256.02-1~deb12u1"),
        new("linux-headers-6.1.0-56-amd64", "6.1.192-2"),
        gone("nvidia-alternative", "470.256.02-1~deb12u1"),
        new("nvidia-kernel-dkms", "535.309.01-0+deb12u1"),
        new("nvidia-support", "20220217+3~deb12u1"),
    ]


def test_what_has_no_candidate_is_not_on_offer() -> None:
    assert "linux-headers-6.1.0-9-amd64" not in packages.apt_candidates(POLICY)


def test_all_parts_are_pinned_to_the_module_where_they_would_not_fit_it() -> None:
    assert packages.driver_pin(packages.apt_candidates(POLICY)) == "535.261.03"


def test_the_branch_is_enough_where_all_are_of_one_version() -> None:
    one = {
        "nvidia-kernel-dkms": "550.163.01-2",
        "libcuda1": "550.163.01-2",
        "nvidia-persistenced": "550.54.14-1",
    }
    assert packages.driver_pin(one) == ""


def test_the_planned_driver_meets_no_objection() -> None:
    assert packages.driver_objections(packages.apt_changes(SIMULATED), "535") == []


@pytest.mark.parametrize(
    ("change", "branch", "said"),
    [
        (new("nvidia-driver-535-server", "580.173.02-0ubuntu0.24.04.1"), "535", "transitional"),
        (new("linux-modules-nvidia-590-generic", "6.8.0-90.91+1"), "595", "of branch 590"),
        (new("linux-image-6.1.0-57-amd64", "6.1.200-1"), "535", "kernel"),
        (new("linux-generic-hwe-24.04", "6.14.0"), "535", "kernel"),
        (new("kernel-core", "5.14.0-700.el9"), "535", "kernel"),
        (gone("nvidia-cuda-toolkit", "11.8.89-1"), "535", "no part of the driver"),
        (gone("gdm3", "43.0-3"), "535", "no part of the driver"),
        # Debian 11's security archive went from 470 to 535 under the same names.
        (new("nvidia-kernel-dkms", "535.309.01-0+deb11u1"), "470", "of branch 535"),
        (new("libcuda1", "535.309.01-1"), "535", "does not fit the module 535.261.03"),
    ],
)
def test_what_is_not_the_planned_driver_is_refused(change: dict[str, Any], branch: str, said: str) -> None:
    changes = [new("nvidia-open-kernel-dkms", "535.261.03-1")] if branch == "535" else []
    objections = packages.driver_objections([*changes, change], branch)
    assert len(objections) == 1
    assert said in objections[0]
    assert change["name"] in objections[0]


def test_what_the_role_holds_may_change_and_nothing_else_that_is_held() -> None:
    changes = packages.apt_changes(HELD)
    assert [row["name"] for row in changes if row.get("held")] == [
        "firmware-nvidia-gsp",
        "libcuda1",
        "libssl3",
        "nvidia-kernel-dkms",
    ]
    (said,) = packages.driver_objections(changes, "535")
    assert "libssl3 3.0.17-1 -> 3.0.18-1, which is held and no part of the driver" in said


@pytest.mark.parametrize(
    "change",
    [
        new("nvidia-persistenced", "550.163.01-1"),  # Debian 13 has one for all branches
        new("linux-headers-6.1.0-57-amd64", "6.1.200-1"),
        new("linux-modules-nvidia-535-generic", "6.8.0-90.91+1"),
        new("nvidia-container-toolkit", "1.17.8-1"),
        gone("linux-modules-nvidia-470-generic", "6.8.0-90.91"),
        gone("nvidia-kernel-support", "550.163.01-2"),
    ],
)
def test_what_belongs_to_it_is_not(change: dict[str, Any]) -> None:
    assert packages.driver_objections([change], "535") == []


def test_another_version_than_the_one_asked_for_is_refused() -> None:
    change = new("nvidia-kernel-dkms", "535.309.01-0+deb12u1")
    assert packages.driver_objections([change], "535", "535.309.01") == []
    (objection,) = packages.driver_objections([change], "535", "535.261.03")
    assert "535.261.03" in objection


def installed(*names: str, branch: str) -> list[dict[str, Any]]:
    return [{"name": name, "version": f"{branch}.1-1", "branch": branch, "held": True} for name in names]


def test_packages_of_another_branch_are_left_over_unless_apt_takes_them_along() -> None:
    former = installed(
        "nvidia-kernel-dkms", "libcuda1", "nvidia-alternative", "nvidia-persistenced", branch="550"
    )
    driver = {"branch": "535", "flavour": "proprietary", "packages": ["nvidia-tesla-535-kernel-dkms"]}
    left = packages.driver_leftover(former, [gone("nvidia-alternative", "550.1-1")], driver)
    assert left == ["nvidia-kernel-dkms", "libcuda1"]


def test_the_module_of_the_other_flavour_is_left_over() -> None:
    former = installed("nvidia-kernel-dkms", "nvidia-kernel-support", "libcuda1", branch="535")
    driver = {"branch": "535", "flavour": "open", "packages": ["nvidia-open-kernel-dkms", "libcuda1"]}
    module, support = new("nvidia-open-kernel-dkms", "535.1-1"), new("nvidia-open-kernel-support", "535.1-1")
    assert packages.driver_leftover(former, [module], driver) == ["nvidia-kernel-dkms"]
    assert packages.driver_leftover(former, [module, support], driver) == [
        "nvidia-kernel-dkms",
        "nvidia-kernel-support",
    ]


def test_the_other_flavour_is_left_over_also_where_apt_brings_another_version_of_it() -> None:
    former = installed("nvidia-kernel-dkms", "nvidia-kernel-support", "libcuda1", branch="535")
    driver = {"branch": "535", "flavour": "open", "packages": ["nvidia-open-kernel-dkms", "libcuda1"]}
    changes = [
        new("nvidia-open-kernel-dkms", "535.1-1"),
        new("nvidia-open-kernel-support", "535.1-1"),
        *({"name": name, "from": "535.2-1", "to": "535.1-1"} for name in ("nvidia-kernel-dkms", "libcuda1")),
        {"name": "nvidia-kernel-support", "from": "535.2-1", "to": "535.1-1"},
    ]
    left = packages.driver_leftover(former, changes, driver)
    assert left == ["nvidia-kernel-dkms", "nvidia-kernel-support"]


def test_modules_for_several_kernels_that_are_upgraded_stay() -> None:
    name = "linux-modules-nvidia-580-6.8.0-88-generic"
    driver = {"branch": "580", "flavour": "proprietary", "packages": ["linux-modules-nvidia-580-generic"]}
    changes = [{"name": name, "from": "6.8.0-88.1", "to": "6.8.0-88.2"}]
    assert packages.driver_leftover(installed(name, branch="580"), changes, driver) == []


def test_nothing_of_the_planned_driver_is_left_over() -> None:
    there = installed(
        "nvidia-kernel-dkms", "nvidia-kernel-support", "libcuda1", "libnvidia-ml1", branch="535"
    )
    driver = {"branch": "535", "flavour": "proprietary", "packages": ["nvidia-kernel-dkms", "libcuda1"]}
    assert packages.driver_leftover(there, [], driver) == []


def test_container_tools_are_no_part_of_a_driver() -> None:
    rows = [
        gone("nvidia-container-toolkit", "1.17.8-1"),
        gone("nvidia-cuda-toolkit", "12.4.127-1"),
        gone("libcuda1", "550.163.01-2"),
        gone("glx-alternative-nvidia", "1.2.2"),
    ]
    assert packages.of_driver(rows) == ["libcuda1", "glx-alternative-nvidia"]


def test_two_architectures_of_a_library_are_no_duplicates_and_two_versions_are() -> None:
    def row(name: str, version: str, arch: str) -> dict[str, Any]:
        return {"name": name, "version": version, "arch": arch, "branch": "580", "held": True}

    there = [row("nvidia-driver-libs", "580.126.09-1.el9", arch) for arch in ("i686", "x86_64")]
    assert packages.driver_duplicates(there) == []
    former = row("nvidia-driver-libs", "580.95.05-1.el9", "x86_64")
    assert packages.driver_duplicates([*there, former]) == ["nvidia-driver-libs-580.95.05-1.el9.x86_64"]


KEYS = Path(__file__).parent / "fixtures" / "openpgp"
# As gpg --show-keys says, and https://ftp-master.debian.org/keys.html.
STABLE = "4D64FEC119C2029067D6E791F8D2585B8783D481"
AUTOMATIC = "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8"


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [("debian-archive-bookworm-stable.asc", STABLE), ("debian-archive-bookworm-automatic.asc", AUTOMATIC)],
)
def test_a_key_is_known_by_its_fingerprint(name: str, fingerprint: str) -> None:
    text = (KEYS / name).read_text()
    assert fingerprints(text) == [fingerprint]
    assert openpgp_key(text, fingerprint.lower()) == text
    assert openpgp_key(text) == text


def test_another_key_than_the_expected_one_is_refused() -> None:
    text = (KEYS / "debian-archive-bookworm-stable.asc").read_text()
    with pytest.raises(AnsibleFilterError, match=f"{STABLE}.*expected {AUTOMATIC}"):
        openpgp_key(text, AUTOMATIC)


def test_a_second_key_in_the_file_is_refused() -> None:
    text = "".join(path.read_text() for path in sorted(KEYS.glob("*.asc")))
    with pytest.raises(AnsibleFilterError, match=AUTOMATIC):
        openpgp_key(text, STABLE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>login</html>",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!!\n-----END PGP PUBLIC KEY BLOCK-----\n",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"
        + base64.b64encode(b"no packet").decode()
        + "\n-----END PGP PUBLIC KEY BLOCK-----\n",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="the key of the repository"):
        openpgp_key(text, STABLE)
