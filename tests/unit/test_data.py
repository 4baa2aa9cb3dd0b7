"""The planner's tables: whole, founded, and of one mind. A fault that is put in is found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.data_checks import CHECKS, faults, load

DATA = load(tables.DATA)


def test_the_tables_have_no_fault() -> None:
    assert faults(DATA) == []


def test_every_file_is_checked() -> None:
    assert {name.partition(".")[0] for name in CHECKS} - {"every file"} == set(DATA)


def release(data: Any, torch: str) -> Any:
    return next(row for row in data["torch"]["releases"] if row["torch"] == torch)


def debian(data: Any) -> Any:
    return next(
        row for row in data["systems"]["systems"] if "debian" in row["ids"] and row["version"] == "12"
    )


def change(place: str, value: Any) -> Any:
    """Sets data at a path such as "drivers/branches/0/eol"."""

    def apply(data: Any) -> None:
        *path, last = place.split("/")
        for part in path:
            data = data[int(part) if isinstance(data, list) else part]
        data[int(last) if isinstance(data, list) else last] = value

    return apply


# What is done to the tables, and what must be said of it.
BROKEN: dict[str, tuple[Any, str]] = {
    "no date": (change("gpus/asof", "2026"), "gpus: asof is no date"),
    "no source": (lambda d: d["drivers"]["branches"][0].pop("source"), "390: no source"),
    "a source that is not there": (change("drivers/branches/0/source", "hearsay"), "hearsay is not among"),
    "no confidence": (
        lambda d: d["cuda"]["minimum_driver"].pop("confidence"),
        "minimum_driver: confidence is None",
    ),
    "confidence of another kind": (change("gpus/architectures/0/confidence", "sure"), "confidence is sure"),
    "the same branch twice": (
        lambda d: d["drivers"]["branches"].append(d["drivers"]["branches"][-1]),
        "is there twice",
    ),
    "a month that is none": (change("drivers/branches/0/eol", "2026-13"), "eol 2026-13 is no month"),
    "a floor above the ceiling": (
        lambda d: next(r for r in d["gpus"]["architectures"] if r["name"] == "Volta").update(
            first_driver="590"
        ),
        "its first driver 590 is newer than its last branch 580",
    ),
    "a capability twice": (lambda d: d["gpus"]["architectures"][0]["capabilities"].append("7.5"), "twice"),
    "a gap between the ranges": (change("gpus/ranges/rows/1/first", "1400"), "a gap or overlap"),
    "a product that is no device": (change("gpus/products/0/devices", ["zzzz"]), "zzzz is not known"),
    "a chip that is not known": (change("pci_gpus/devices/2330/0", "GX999"), "2330: GX999 is not known"),
    "a chip of two minds": (
        change("pci_gpus/chips/GH100/architecture", "Ada"),
        "Ada here, Hopper in gpus.yml",
    ),
    "CUDA that its own driver cannot run": (
        change("cuda/toolkit_driver/linux/13.0", "570.1"),
        "older than the floor",
    ),
    "the same release twice": (
        lambda d: d["torch"]["releases"].append(d["torch"]["releases"][-1]),
        "releases: one of",
    ),
    "releases out of order": (lambda d: d["torch"]["releases"].reverse(), "not in order"),
    "a release after its successor": (
        lambda d: release(d, "2.7.0").update(released="2026-01-01"),
        "not in order",
    ),
    "a release of tomorrow": (
        lambda d: release(d, "2.15.0").update(released="2099-01-01"),
        "released 2099-01-01",
    ),
    "PyPI has what is not built": (
        lambda d: release(d, "2.15.0")["pypi"].update(x86_64="cu126"),
        "cu126 is not among",
    ),
    "a build twice": (
        lambda d: release(d, "2.15.0")["builds"].append(release(d, "2.15.0")["builds"][-1]),
        "twice",
    ),
    "code for a GPU that no one knows": (
        lambda d: release(d, "2.15.0")["builds"][0]["capabilities"]["x86_64"].append("19.0"),
        "the capability 19.0 is not in gpus.yml",
    ),
    "code that this CUDA cannot hold": (
        lambda d: release(d, "2.15.0")["builds"][0]["capabilities"]["x86_64"].insert(0, "7.0"),
        "CUDA 13.0 holds no code for Volta (7.0)",
    ),
    "torchaudio after its last": (
        lambda d: release(d, "2.15.0").update(torchaudio="2.15.0"),
        "torchaudio: ends and",
    ),
    "an older torchvision": (
        lambda d: release(d, "2.15.0").update(torchvision="0.20.0"),
        "torchvision: an older one",
    ),
    "a Python that was dropped": (
        lambda d: release(d, "2.15.0")["python"]["x86_64"].insert(0, "3.8"),
        "a version that was dropped comes back",
    ),
    "an offer of another branch": (
        lambda d: debian(d)["distribution"]["offers"][0].update(version="550.1"),
        "550.1 is not of branch 535",
    ),
    "an offer of no branch": (
        lambda d: debian(d)["distribution"]["offers"][0].update(branch="536", version="536.1"),
        "Debian 12: 536 is not known",
    ),
    "a layout that is not there": (
        lambda d: debian(d)["distribution"].update(layout="arch"),
        "arch is not known",
    ),
    "a system twice": (lambda d: d["systems"]["systems"].append(debian(d)), "debian 12: twice"),
    "a placeholder that nobody fills": (
        lambda d: d["systems"]["layouts"]["debian"][0]["dkms"].update(open=["nvidia-{flavor}"]),
        "flavor is not known",
    ),
    "a channel with a release of no wheel": (
        lambda d: d["channels"]["channels"][0]["releases"].append(
            {"torch": "9.0", "cuda": ["13.0"], "machines": ["x86_64"], "confidence": "low"}
        ),
        "conda-forge: 9.0 is not known",
    ),
    "a default source without a URL": (change("command/sources/pypi/urls", ["pypi"]), "pypi is no URL"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_is_found(name: str) -> None:
    breaks, said = BROKEN[name]
    data = copy.deepcopy(DATA)
    breaks(data)
    found = faults(data)
    assert found
    assert any(said in line for line in found), found
