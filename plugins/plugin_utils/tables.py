"""The compatibility tables of ``data/``, parsed once per process. No other file reads them."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

DATA = Path(__file__).resolve().parent / "data"
CPU = "cpu"


def capability(text: str) -> tuple[int, int]:
    """``"8.6"`` as numbers."""
    major, minor = text.split(".")
    return int(major), int(minor)


@dataclass(frozen=True)
class Architecture:
    """What one or more compute capabilities ask of the driver."""

    name: str
    first_driver: str | None  # as NVIDIA writes it
    last_branch: int | None
    flavours: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """One kind of GPU. ``listed`` is false where the id was judged by its neighbours."""

    device: str
    name: str
    capability: str
    architecture: Architecture
    listed: bool


@dataclass(frozen=True, eq=False)
class Build:
    """One variant of one release of torch. ``cuda`` is None for the CPU build."""

    release: Release
    variant: str
    cuda: str | None
    capabilities: Mapping[str, frozenset[str]]  # by machine
    nominal: frozenset[str]
    confidence: Mapping[str, str]  # by machine

    @property
    def name(self) -> str:
        return f"{self.release.torch} {self.variant}"

    @cached_property
    def version(self) -> tuple[int, int]:
        return capability(self.cuda) if self.cuda else (0, 0)


@dataclass(frozen=True, eq=False)
class Release:
    torch: str
    version: Version
    python: Mapping[str, tuple[str, ...]]  # by machine
    glibc: Mapping[str, Version]  # by machine
    torchvision: str | None
    torchaudio: str | None
    pypi: Mapping[str, str]  # the variant on PyPI, by machine
    builds: tuple[Build, ...] = ()


@dataclass(frozen=True)
class Offer:
    """A driver that a repository of an operating system carries."""

    branch: str
    version: Version
    text: str
    machines: tuple[str, ...]
    packages: Mapping[str, tuple[str, ...]]  # by flavour


@dataclass(frozen=True)
class System:
    id: str
    version: str
    name: str
    repositories: Mapping[str, tuple[Offer, ...]]


@cache
def _load(name: str) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((DATA / name).read_text(encoding="utf-8"), Loader=loader)


@cache
def architectures() -> dict[str, Architecture]:
    """By compute capability."""
    table: dict[str, Architecture] = {}
    for row in _load("gpus.yml")["architectures"]:
        first, last = row["first_driver"], row["last_branch"]
        architecture = Architecture(
            name=row["name"],
            first_driver=first,
            last_branch=int(last) if last else None,
            flavours=tuple(row["flavours"]),
        )
        table.update(dict.fromkeys(row["capabilities"], architecture))
    return table


@cache
def _products() -> dict[str, tuple[str, ...]]:
    rows = _load("gpus.yml")["products"]
    return {device: tuple(row["flavours"]) for row in rows for device in row["devices"]}


@cache
def _pci() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((DATA / "pci_gpus.json").read_text(encoding="utf-8"))
    return data


@cache
def _pci_order() -> list[int]:
    return sorted(int(device, 16) for device in _pci()["devices"])


@cache
def model(device: str) -> Model | None:
    """The GPU with this PCI device id (four lower-case hex digits); None when nothing tells what it is."""
    devices, chips = _pci()["devices"], _pci()["chips"]
    row = devices.get(device)
    listed = row is not None
    if row is None:
        # NVIDIA allots ids to chips in blocks: where a whole block agrees, a newcomer is of the same kind.
        first = int(device, 16) // _pci()["block"] * _pci()["block"]
        order = _pci_order()
        near = order[bisect.bisect_left(order, first) : bisect.bisect_left(order, first + _pci()["block"])]
        rows = [devices[f"{number:04x}"] for number in near]
        if len({chips[chip]["capability"] for chip, _name, _nvidia in rows}) != 1:
            return None
        row = (rows[0][0], None, 0)
    chip, name, _nvidia = row
    cc = chips[chip]["capability"]
    architecture = architectures()[cc]
    if device in _products():
        architecture = Architecture(
            architecture.name, architecture.first_driver, architecture.last_branch, _products()[device]
        )
    return Model(device, name or f"unnamed {chip}", cc, architecture, listed)


@cache
def releases() -> tuple[Release, ...]:
    """Every release of torch, the newest first."""
    found = []
    for row in _load("torch.yml")["releases"]:
        machines = tuple(row["python"])
        release = Release(
            torch=row["torch"],
            version=Version(row["torch"]),
            python={machine: tuple(tags) for machine, tags in row["python"].items()},
            glibc={machine: Version(text) for machine, text in row["glibc"].items()},
            torchvision=row["torchvision"],
            torchaudio=row["torchaudio"],
            pypi=row["pypi"],
        )
        builds = [
            Build(
                release=release,
                variant=item["variant"],
                cuda=f"{item['variant'][2:-1]}.{item['variant'][-1]}",
                capabilities={m: frozenset(cc) for m, cc in item["capabilities"].items()},
                nominal=frozenset(item.get("nominal", ())),
                confidence=item["confidence"],
            )
            for item in row["builds"]
        ]
        if row["cpu_index"]:
            builds.append(
                Build(
                    release=release,
                    variant=CPU,
                    cuda=None,
                    capabilities=dict.fromkeys(machines, frozenset()),
                    nominal=frozenset(),
                    confidence=dict.fromkeys(machines, "high"),
                )
            )
        object.__setattr__(release, "builds", tuple(builds))  # the two refer to each other
        found.append(release)
    return tuple(sorted(found, key=lambda item: item.version, reverse=True))


@cache
def variants() -> tuple[str, ...]:
    return tuple(sorted({build.variant for release in releases() for build in release.builds}))


@cache
def runs(built: str, device: str, cuda: str) -> bool:
    """Whether code built for one compute capability runs on a device of another."""
    rule = _load("torch.yml")["compatibility"]
    for row in rule["excluded"]:
        lifted = "until_cuda" in row and capability(cuda) >= capability(row["until_cuda"])
        if built in row["built"] and device == row["device"] and not lifted:
            return False
    built_major, built_minor = capability(rule["aliases"].get(built, built))
    major, minor = capability(rule["aliases"].get(device, device))
    return built_major == major and built_minor <= minor


@cache
def minimum_driver(cuda: str) -> tuple[Version, str]:
    """The oldest driver that runs a prebuilt wheel of this CUDA version, and NVIDIA's way to write it."""
    text = _load("cuda.yml")["minimum_driver"]["linux"][cuda.split(".")[0]]
    return Version(text), text


@cache
def branches() -> dict[str, str | None]:
    """Driver branches with the month ("2028-06") in which their support ends; None when unknown."""
    return {row["branch"]: row["eol"] for row in _load("drivers.yml")["branches"]}


@cache
def shipped_flavours(branch: int) -> tuple[str, ...]:
    """The kernel modules that NVIDIA ships in this branch, its default first."""
    best: tuple[str, ...] = ()
    for row in _load("drivers.yml")["flavours"]["from"]:
        if int(row["branch"]) <= branch:
            best = tuple(row["ships"])
    return best


@cache
def systems() -> tuple[System, ...]:
    return tuple(
        System(
            id=row["id"],
            version=row["version"],
            name=row["name"],
            repositories={
                name: tuple(
                    Offer(
                        branch=offer["branch"],
                        version=Version(offer["version"]),
                        text=offer["version"],
                        machines=tuple(offer["machines"]),
                        packages={flavour: tuple(names) for flavour, names in offer["packages"].items()},
                    )
                    for offer in offers
                )
                for name, offers in row["repositories"].items()
            },
        )
        for row in _load("systems.yml")["systems"]
    )
