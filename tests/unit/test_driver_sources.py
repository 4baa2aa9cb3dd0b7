"""Others' repositories that can bring a driver: planned, and switched off only when told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host
from ansible_collections.torchfleet.gpu.plugins.module_utils.installation import sources
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.driver_sources import switched_off
from plan_hosts import codes, plan, truth, wish

CUDA = "https://developer.download.nvidia.com/compute/cuda/repos"
LIST = f"deb https://mirror.example/debian x main\ndeb [signed-by=/k.gpg] {CUDA}/debian12/x86_64/ /\n"
DEB822 = (
    f"# the driver\nTypes: deb\nURIs: {CUDA}/debian12/x86_64/\nSuites: /\n\n"
    "Types: deb\nURIs: https://mirror.example/debian\nSuites: x\n\n"
    f"Types: deb\nEnabled: yes\nURIs: {CUDA}/debian11/x86_64/\nSuites: /\n"
)
REPO = (
    f"[cuda-rhel9]\nname=cuda\nbaseurl={CUDA}/rhel9/x86_64\nenabled = 1\ngpgcheck=1\n\n"
    "# of the lab\n[lab]\nname=lab\nbaseurl=https://mirror.example/lab\nenabled=1\n\n"
    f"[cuda-old]\nname=cuda\nbaseurl={CUDA}/rhel8/x86_64\n"
)
FILES = {
    "/etc/apt/sources.list.d/cuda.list": (LIST, 1),
    "/etc/apt/sources.list.d/cuda.sources": (DEB822, 2),
    "/etc/yum.repos.d/cuda.repo": (REPO, 2),
    "/etc/zypp/repos.d/cuda.repo": (REPO, 2),
}


@pytest.mark.parametrize("path", FILES)
def test_what_brings_a_driver_is_switched_off_and_the_rest_stays(tmp_path: Path, path: str) -> None:
    content, count = FILES[path]
    file = tmp_path / path.lstrip("/")
    file.parent.mkdir(parents=True)
    host = Host(lambda _argv: (1, "", ""), root=str(tmp_path), machine="x86_64")
    file.write_text(content)
    assert [row["enabled"] for row in sources(host)] == [True] * count
    after = switched_off(content, path)
    file.write_text(after)
    assert [row for row in sources(host) if row["enabled"]] == []
    assert switched_off(after, path) == after
    lab = [line for line in content.splitlines() if "mirror.example" in line]
    assert [line for line in after.splitlines() if "mirror.example" in line] == lab
    # Whoever reads the file finds all that was in it, and can switch it on again.
    assert after.count(CUDA) == content.count(CUDA)


def test_other_repositories_of_the_file_stay_on() -> None:
    after = switched_off(DEB822, "/etc/apt/sources.list.d/cuda.sources")
    first, other, last = after.split("\n\n")
    assert first.splitlines()[:2] == ["# the driver", "Enabled: no"]
    assert "Enabled" not in other
    assert last.splitlines()[0] == "Enabled: no"
    assert last.count("Enabled") == 1
    after = switched_off(REPO, "/etc/yum.repos.d/cuda.repo")
    assert after.count("enabled=0") == 2
    assert "[lab]\nname=lab\nbaseurl=https://mirror.example/lab\nenabled=1\n" in after


def test_a_password_of_a_repository_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "etc/apt/sources.list"
    path.parent.mkdir(parents=True)
    path.write_text("deb https://lab:secret@mirror.example/compute/cuda/repos/debian12/x86_64/ /\n")
    (row,) = sources(Host(lambda _argv: (1, "", ""), root=str(tmp_path), machine="x86_64"))
    assert row["url"] == "https://mirror.example/compute/cuda/repos/debian12/x86_64/"


def found(driver: str | None) -> dict[str, Any]:
    facts = truth(["H100"], driver)
    rows = [
        {"path": "/etc/apt/sources.list.d/cuda.list", "url": f"{CUDA}/debian12/x86_64/", "enabled": True},
        {"path": "/etc/apt/sources.list.d/old.list", "url": f"{CUDA}/debian11/x86_64/", "enabled": False},
    ]
    facts["driver"]["leftovers"] = {"packages": [], "sources": rows, "files": []}
    return facts


@pytest.mark.parametrize("driver", [None, "580.178.04"])
def test_without_leave_they_are_told(driver: str | None) -> None:
    planned = plan(found(driver), wish())
    assert planned["driver"]["sources_off"] == []
    (row,) = (row for row in planned["warnings"] if row["code"] == "other_sources")
    assert f"{CUDA}/debian12/x86_64/ (/etc/apt/sources.list.d/cuda.list)" in row["text"]
    assert "old.list" not in row["text"]
    assert "driver.adopt to true" in row["remedy"]


@pytest.mark.parametrize("driver", [None, "580.178.04"])
def test_with_leave_they_are_to_be_switched_off(driver: str | None) -> None:
    planned = plan(found(driver), wish(driver={"adopt": True}))
    assert planned["driver"]["sources_off"] == ["/etc/apt/sources.list.d/cuda.list"]
    assert "other_sources" in codes(planned["reasons"])
    assert "other_sources" not in codes(planned["warnings"])


@pytest.mark.parametrize("state", ["keep", "none", "absent"])
def test_where_no_driver_is_managed_they_are_left_alone(state: str) -> None:
    planned = plan(found("580.178.04"), wish(driver={"adopt": True, "state": state}))
    assert planned["driver"]["sources_off"] == []
    assert "other_sources" not in codes(planned["reasons"] + planned["warnings"])
