"""The compatibility tables of ``data/``, read once per process. No other file reads them."""

from __future__ import annotations

import bisect
import calendar
import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import site_data
from packaging.version import Version

DATA = Path(__file__).resolve().parent / "data"
CPU = "cpu"
CONFIDENCE = ("high", "medium", "low")
WHEEL = "wheel"  # the kind of a build that pip installs; else it is the kind of a conda channel


def capability(text: str) -> tuple[int, int]:
    """``"8.6"`` as numbers."""
    major, minor = text.split(".")
    return int(major), int(minor)


@dataclass(frozen=True)
class Architecture:
    """What one or more compute capabilities ask of the driver, and of CUDA."""

    name: str
    first_driver: str | None  # as NVIDIA writes it
    last_branch: int | None
    flavours: tuple[str, ...]
    first_cuda: str | None
    last_cuda: str | None


@dataclass(frozen=True, eq=False)
class Model:
    """One kind of GPU. ``listed`` is false where the id was judged by its neighbours."""

    device: str
    name: str
    capability: str
    architecture: Architecture
    listed: bool
    data_centre: bool


@dataclass(frozen=True, eq=False)
class Build:
    """One variant of one release of torch. ``cuda`` is None for the CPU build."""

    release: Release
    variant: str
    cuda: str | None
    capabilities: Mapping[str, frozenset[str] | None]  # by machine; None: nobody has read them
    nominal: frozenset[str]
    confidence: Mapping[str, str]  # by machine
    ptx: frozenset[str] = frozenset()  # capabilities whose code the driver can compile for newer GPUs
    source: str = ""
    glibc: Mapping[str, Version] = field(default_factory=dict)  # by machine
    specs: Mapping[str, str] = field(default_factory=dict)  # conda's, by package
    beside: tuple[str, ...] = ()  # specs that go along

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
    kind: str = WHEEL
    builds: tuple[Build, ...] = ()

    def companion(self, package: str) -> str | None:
        version: str | None = getattr(self, package)
        return version


@dataclass(frozen=True, eq=False)
class Layout:
    """How a repository names the packages of a driver; {branch} and {kernel} are to be filled in."""

    packages: Mapping[str, Mapping[str, tuple[str, ...]]]  # by modules (dkms, prebuilt), by flavour
    stream: Mapping[str, str]  # dnf's, by flavour
    fabric_manager: tuple[str, ...]
    confidence: Mapping[str, str]  # by flavour


@dataclass(frozen=True, eq=False)
class Offer:
    """A driver that a repository of an operating system carries."""

    repository: str
    branch: str
    version: Version
    text: str
    machines: tuple[str, ...]
    layout: Layout
    confidence: str
    source: str
    moves_to: str | None = None  # the archive itself replaces the branch by this one

    @property
    def packages(self) -> Mapping[str, tuple[str, ...]]:
        """By flavour, for modules that are built on the host."""
        return self.layout.packages["dkms"]


@dataclass(frozen=True, eq=False)
class System:
    id: str
    version: str
    name: str
    glibc: str
    repositories: Mapping[str, tuple[Offer, ...]]
    layouts: Mapping[str, str]  # names, by repository
    index: str | None = None  # what tells of NVIDIA's repository, under one of its mirrors

    def nvidia_index(self, machine: str) -> str | None:
        directory = load("systems.yml")["machine_directories"].get(machine)
        return self.index.format(machine=directory) if self.index and directory else None

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(m for offers in self.repositories.values() for o in offers for m in o.machines)
        )


@dataclass(frozen=True)
class Compat:
    """A forward-compatibility package: a newer libcuda beside an older driver."""

    package: str
    cuda: str
    as_driver: Version
    branches: tuple[str, ...]
    confidence: str


@dataclass(frozen=True)
class Branch:
    kind: str | None
    eol: str | None  # a month

    @cached_property
    def end(self) -> datetime.date | None:
        if not self.eol:
            return None
        year, month = (int(part) for part in self.eol.split("-"))
        return datetime.date(year, month, calendar.monthrange(year, month)[1])


@cache
def _merged() -> dict[str, Any]:
    site = site_data.directory()
    return site_data.merged(DATA, site) if site else {}


@cache
def load(name: str) -> Any:
    """The table in the file of this name."""
    return _merged()[Path(name).stem] if site_data.directory() else site_data.parse(DATA / name)


def weakest(*confidence: str) -> str:
    return max(confidence, key=CONFIDENCE.index)


@cache
def architectures() -> dict[str, Architecture]:
    """By compute capability."""
    table: dict[str, Architecture] = {}
    for row in load("gpus.yml")["architectures"]:
        first, last = row["first_driver"], row["last_branch"]
        architecture = Architecture(
            name=row["name"],
            first_driver=first,
            last_branch=int(last) if last else None,
            flavours=tuple(row["flavours"]),
            first_cuda=row["first_cuda"],
            last_cuda=row["last_cuda"],
        )
        table.update(dict.fromkeys(row["capabilities"], architecture))
    return table


@cache
def _products() -> dict[str, tuple[str, ...]]:
    rows = load("gpus.yml")["products"]
    return {device: tuple(row["flavours"]) for row in rows for device in row["devices"]}


def _pci() -> dict[str, Any]:
    table: dict[str, Any] = load("pci_gpus.json")
    return table


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
        architecture = replace(architecture, flavours=_products()[device])
    centre = re.match("|".join(load("gpus.yml")["data_centre"]["names"]), name or "") is not None
    return Model(device, name or f"unnamed {chip}", cc, architecture, listed, centre)


@cache
def id_range(device: str) -> str:
    """What the range of an id tells where neither the id nor its block is known."""
    for row in load("gpus.yml")["ranges"]["rows"]:
        if row["first"] <= device <= row["last"]:
            return str(row["text"])
    return ""


@cache
def releases() -> tuple[Release, ...]:
    """Every release of torch, the newest first."""
    found = []
    for row in load("torch.yml")["releases"]:
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
                ptx=frozenset(item.get("ptx", ())),
                source=item["source"],
                glibc={**release.glibc, **{m: Version(text) for m, text in item.get("glibc", {}).items()}},
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
                    glibc=release.glibc,
                )
            )
        object.__setattr__(release, "builds", tuple(builds))  # the two refer to each other
        found.append(release)
    return tuple(sorted(found, key=lambda item: item.version, reverse=True))


def _filled(texts: Mapping[str, str], values: Mapping[str, str | None]) -> dict[str, str]:
    """Those of the templates whose own package has a version."""
    return {package: text.format(**values) for package, text in texts.items() if values[package]}


def _channel_builds(release: Release, wheels: Release, table: Any, row: Any) -> Iterator[Build]:
    versions = {name: release.companion(name) for name in ("torch", "torchvision", "torchaudio")}
    known = {build.cuda: build for build in wheels.builds}
    for cuda in [*row["cuda"], None]:
        values = {**versions, "cuda": cuda or "", "digits": (cuda or "").replace(".", "")}
        capabilities: dict[str, frozenset[str] | None] = dict.fromkeys(row["machines"], frozenset())
        if cuda and table["capabilities"] == "wheels":
            capabilities = {machine: known[cuda].capabilities[machine] for machine in row["machines"]}
        elif cuda:
            capabilities = dict.fromkeys(row["machines"], None)
        yield Build(
            release=release,
            variant=f"cu{values['digits']}" if cuda else CPU,
            cuda=cuda,
            capabilities=capabilities,
            nominal=known[cuda].nominal if cuda in known else frozenset(),
            confidence=dict.fromkeys(row["machines"], row["confidence"]),
            source=row.get("source", table["source"]),
            glibc=release.glibc,
            specs=_filled(table["specs" if cuda else "cpu_specs"], values),
            beside=tuple(text.format(**values) for text in table["beside" if cuda else "cpu_beside"]),
        )


@cache
def channel(kind: str) -> dict[Version, Release]:
    """The releases of a kind of conda channel."""
    (table,) = (table for table in load("channels.yml")["channels"] if table["kind"] == kind)
    wheels = {release.torch: release for release in releases()}
    found = {}
    for row in table["releases"]:
        like = wheels[row["torch"]]
        release = Release(
            torch=row["torch"],
            version=like.version,
            python={
                machine: tuple(tag for tag in like.python[machine] if not tag.endswith("t"))
                for machine in row["machines"]
            },
            glibc=like.glibc,
            torchvision=row.get("torchvision", like.torchvision) if "torchvision" in table["specs"] else None,
            torchaudio=row.get("torchaudio", like.torchaudio) if "torchaudio" in table["specs"] else None,
            pypi={},
            kind=kind,
        )
        object.__setattr__(release, "builds", tuple(_channel_builds(release, like, table, row)))
        found[release.version] = release
    return found


@cache
def channel_kinds() -> tuple[str, ...]:
    return tuple(table["kind"] for table in load("channels.yml")["channels"])


@cache
def highest_glibc() -> Version:
    """What every build is content with."""
    return max(text for release in releases() for build in release.builds for text in build.glibc.values())


@cache
def variants() -> tuple[str, ...]:
    return tuple(sorted({build.variant for release in releases() for build in release.builds}))


@cache
def runs(built: str, device: str, cuda: str) -> bool:
    """Whether code built for one compute capability runs on a device of another."""
    rule = load("torch.yml")["compatibility"]
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
    text = load("cuda.yml")["minimum_driver"]["linux"][cuda.split(".")[0]]
    return Version(text), text


@cache
def toolkit_driver(cuda: str) -> tuple[Version, str] | None:
    """The driver that compiles PTX of this CUDA version; None when the tables do not tell."""
    text = load("cuda.yml")["toolkit_driver"]["linux"].get(cuda)
    return (Version(text), text) if text else None


@cache
def forward_compat(branch: str) -> Compat | None:
    """The newest forward-compatibility package that a driver of this branch takes."""
    rows = [row for row in load("cuda.yml")["forward_compat"] if branch in row["branches"]]
    if not rows:
        return None
    row = max(rows, key=lambda item: capability(item["cuda"]))
    return Compat(
        row["package"], row["cuda"], Version(row["as_driver"]), tuple(row["branches"]), row["confidence"]
    )


@cache
def branches() -> dict[str, Branch]:
    """Driver branches: their kind, and the month ("2028-06") in which their support ends."""
    return {row["branch"]: Branch(row["kind"], row["eol"]) for row in load("drivers.yml")["branches"]}


@cache
def shipped_flavours(branch: int) -> tuple[str, ...]:
    """The kernel modules that NVIDIA ships in this branch, its default first."""
    best: tuple[str, ...] = ()
    for row in load("drivers.yml")["flavours"]["from"]:
        if int(row["branch"]) <= branch:
            best = tuple(row["ships"])
    return best


@cache
def layout(name: str, branch: int) -> Layout:
    """The packages of a branch in a repository of this layout."""
    row = [row for row in load("systems.yml")["layouts"][name] if int(row["from"]) <= branch][-1]
    return Layout(
        packages={
            modules: {flavour: tuple(names) for flavour, names in row[modules].items()}
            for modules in ("dkms", "prebuilt")
            if modules in row
        },
        stream=row.get("stream", {}),
        fabric_manager=tuple(row.get("fabric_manager", ())),
        confidence=row["confidence"]
        if isinstance(row["confidence"], dict)
        else dict.fromkeys(row["dkms"], row["confidence"]),
    )


def _offers(repository: str, table: Any, rows: Any) -> tuple[Offer, ...]:
    return tuple(
        Offer(
            repository=repository,
            branch=row["branch"],
            version=Version(row["version"]),
            text=row["version"],
            machines=tuple(
                machine
                for machine in row.get("machines", table["machines"])
                if int(row["branch"]) >= int(table.get("first_branch", {}).get(machine, 0))
            ),
            layout=layout(row.get("layout", table["layout"]), int(row["branch"])),
            confidence=weakest(row["confidence"], table.get("confidence", "high")),
            source=row["source"],
            moves_to=row.get("moves_to"),
        )
        for row in rows
    )


@cache
def keeps_older() -> tuple[str, ...]:
    """The repositories in which older versions of a branch stay."""
    return tuple(load("systems.yml")["keeps_older"]["repositories"])


@cache
def systems() -> tuple[System, ...]:
    data = load("systems.yml")
    found = []
    for row in data["systems"]:
        repositories = {}
        if row["distribution"]:
            repositories["distribution"] = _offers(
                "distribution", row["distribution"], row["distribution"]["offers"]
            )
        if row["nvidia"]:
            repositories["nvidia"] = _offers("nvidia", row["nvidia"], data["nvidia"])
        layouts = {name: row[name]["layout"] for name in repositories}
        found += [
            System(
                name,
                row["version"],
                f"{title} {row['version']}",
                row["glibc"]["version"],
                repositories,
                layouts,
                (row["nvidia"] or {}).get("index"),
            )
            for name, title in row["ids"].items()
        ]
    return tuple(found)


@cache
def system(name: str, version: str) -> System | None:
    """By ID and VERSION_ID of os-release; 9.4 is a 9."""
    for item in systems():
        if name == item.id and (version == item.version or version.startswith(item.version + ".")):
            return item
    return None


def system_names() -> str:
    """Debian 11, 12, 13; Ubuntu 20.04..."""
    found: dict[str, list[str]] = {}
    for item in systems():
        found.setdefault(item.name.removesuffix(f" {item.version}"), []).append(item.version)
    return "; ".join(f"{title} {', '.join(versions)}" for title, versions in found.items())
