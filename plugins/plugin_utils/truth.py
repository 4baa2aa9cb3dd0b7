"""Reads a truth (docs/contracts.md), however odd, into a ``Host``; each fault becomes a problem."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import (
    Problem,
    mapping,
    problem,
    sequence,
    text,
)
from packaging.version import InvalidVersion, Version

_DEVICE = re.compile(r"(?:10de:|0x)?([0-9a-f]{4})", re.IGNORECASE)
_DRIVER = re.compile(r"(?:\d+:)?(\d{2,4}(?:\.\d+)+)")
_COLLECT = "collect the host's truth again with torchfleet.gpu.gpu_facts, or correct what was written by hand"


@dataclass(frozen=True)
class Installed:
    """The driver that runs after the next boot; ``module`` is false when there is only a package."""

    version: Version
    text: str
    flavour: str | None
    module: bool
    foreign: bool  # not put there by the package manager
    package: str | None

    @property
    def branch(self) -> str:
        return str(self.version.major)


@dataclass(frozen=True)
class Host:
    system: tables.System | None
    machine: str | None
    glibc: Version | None
    has_glibc: bool
    virtualization: str
    secure_boot: bool
    key_enrolled: bool  # the one that DKMS signs with
    kernels: tuple[str, ...]
    gpus: tuple[tables.Model, ...]
    all_known: bool  # false when a GPU could not be told
    nvswitches: bool
    driver: Installed | None
    unreadable: str | None  # a driver is there whose version cannot be read
    loaded: str | None
    verdict: str | None
    reason: str | None
    sources: tuple[tuple[str, str], ...]  # path and url of others' repositories that can bring a driver

    @property
    def models(self) -> tuple[tables.Model, ...]:
        """Each kind once."""
        return tuple(dict.fromkeys(self.gpus))


def _os(truth: dict[str, Any], problems: list[Problem]) -> tables.System | None:
    row = mapping(truth.get("os"))
    name, version = text(row.get("id")), text(row.get("version"))
    if name and version and (system := tables.system(name, version)):
        return system
    problems.append(
        problem(
            "unknown_os",
            "the operating system",
            text(row.get("name")) or f"{name} {version}",
            "one of " + tables.system_names(),
            "install one of those on the host, or take it out of the inventory",
        )
    )
    return None


def _machine(truth: dict[str, Any], problems: list[Problem]) -> str | None:
    known = tuple(tables.releases()[0].python)
    machine = text(truth.get("machine"))
    if machine in known:
        return machine
    problems.append(
        problem(
            "unknown_machine",
            "the machine architecture (uname -m)",
            truth.get("machine"),
            "one of " + ", ".join(known),
            "PyTorch's wheels exist for those only: take the host out of the inventory",
        )
    )
    return None


def _glibc(truth: dict[str, Any], problems: list[Problem]) -> Version | None:
    value = truth.get("glibc")
    if value is None:
        return None
    try:
        return _parsed(value if isinstance(value, str) else "")
    except InvalidVersion:
        problems.append(problem("bad_truth", "glibc", value, 'a version in quotes such as "2.36"', _COLLECT))
        return None


@lru_cache(maxsize=4096)
def _parsed(value: str) -> Version:
    return Version(value)


def _gpus(
    truth: dict[str, Any], problems: list[Problem]
) -> tuple[tuple[tables.Model, ...], tuple[str | None, ...], bool]:
    gpus = []
    slots = []
    known = isinstance(truth.get("gpus") or [], list)
    for number, item in enumerate(sequence(truth.get("gpus"))):
        row = mapping(item)
        slot = text(row.get("slot"))
        what = f"the GPU in slot {slot}" if slot else f"gpus[{number}]"
        match = _DEVICE.fullmatch(text(row.get("device")) or "")
        if not match:
            known = False
            expected = 'a PCI device id of four hex digits in quotes such as "2330"'
            problems.append(problem("bad_truth", what, row.get("device", item), expected, _COLLECT))
            continue
        device = match[1].lower()
        model = tables.model(device)
        if model is None:
            known = False
            problems.append(
                problem(
                    "unknown_gpu",
                    what,
                    f"PCI id 10de:{device}: {tables.id_range(device)}",
                    "an id of the tables, or one from a block of ids that they know",
                    "update the collection; or add the id, with its source, to "
                    "plugins/plugin_utils/data/pci_gpus.json",
                )
            )
            continue
        gpus.append(model)
        slots.append(slot)
    return tuple(gpus), tuple(slots), known


def _version(row: Any) -> tuple[Version, str] | None:
    match = _DRIVER.match(text(mapping(row).get("version")) or "")
    return (_parsed(match[1]), match[1]) if match else None


def _installed(driver: dict[str, Any]) -> tuple[Installed | None, str | None]:
    """The driver, and what is there but cannot be read."""
    unreadable = None
    for key in ("on_disk", "loaded", "package", "foreign"):
        row = mapping(driver.get(key))
        if found := _version(row):
            return Installed(
                *found,
                flavour=text(row.get("flavour")),
                module=key in ("on_disk", "loaded"),
                foreign=bool(driver.get("foreign")),
                package=text(mapping(driver.get("package")).get("name")),
            ), unreadable
        if row and not unreadable:
            unreadable = text(row.get("path")) or text(row.get("name")) or key
    return None, unreadable


def _kernels(truth: dict[str, Any]) -> tuple[str, ...]:
    row = mapping(truth.get("kernel"))
    names = (row.get("running"), row.get("next"), *sequence(row.get("installed")))
    return tuple(dict.fromkeys(name for name in map(text, names) if name))


def _sources(driver: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    rows = map(mapping, sequence(mapping(driver.get("leftovers")).get("sources")))
    found = ((text(row.get("path")), text(row.get("url"))) for row in rows if row.get("enabled"))
    return tuple((path, url or "?") for path, url in found if path)


def read(value: Any) -> tuple[Host, tuple[str | None, ...], list[Problem]]:
    """The host, the slots of its GPUs, and what is wrong with the truth."""
    problems: list[Problem] = []
    truth = mapping(value)
    if truth.get("schema") != 1:
        found = truth.get("schema", value)
        problems.append(problem("bad_truth", "the truth's schema", found, "1", _COLLECT))
    for key, kind, expected in (
        ("gpus", list, "a list"),
        ("driver", dict, "a mapping"),
        ("os", dict, "a mapping"),
    ):
        if not isinstance(truth.get(key) or kind(), kind):
            problems.append(problem("bad_truth", key, truth[key], expected, _COLLECT))
    driver = mapping(truth.get("driver"))
    gpus, slots, known = _gpus(truth, problems)
    installed, unreadable = _installed(driver)
    switches = truth.get("nvswitches")
    loaded = _version(driver.get("loaded"))
    host = Host(
        system=_os(truth, problems),
        machine=_machine(truth, problems),
        glibc=_glibc(truth, problems),
        has_glibc=truth.get("glibc", "") is not None,
        virtualization=text(mapping(truth.get("virtualization")).get("type")) or "none",
        secure_boot=truth.get("secure_boot") is True,
        key_enrolled=mapping(mapping(truth.get("mok")).get("key")).get("enrolled") is True,
        kernels=_kernels(truth),
        gpus=gpus,
        all_known=known,
        nvswitches=isinstance(switches, int) and switches > 0,
        driver=installed,
        unreadable=unreadable,
        loaded=loaded[1] if loaded else None,
        verdict=text(driver.get("verdict")),
        reason=text(driver.get("reason")),
        sources=_sources(driver),
    )
    return host, slots, problems
