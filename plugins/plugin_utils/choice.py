"""Which build of torch: all that come into question, the best first, and what speaks against each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import sources, tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.offers import Driver
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import Note, Problem, note, problem
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.tables import CPU, WHEEL, Build, Model, Release
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.wish import AUTO, EnvironmentWish, Source
from packaging.version import Version

LOW = "low"
HIGH = "high"
Floor = tuple[Version, str]
LATE = ("source", "confidence")  # the faults that are told last


@dataclass(frozen=True)
class Fault:
    """Why a build is out: the rule, and the text that follows the build's name."""

    rule: str
    tail: str


UNSURE = Fault("confidence", "is not known for certain to be published: only taken when it is named")


@dataclass(frozen=True, eq=False)
class Candidate:
    build: Build
    faults: tuple[Fault, ...]  # but for the driver's
    carriers: tuple[sources.Carrier, ...]
    floor: Floor | None  # the oldest driver
    care: bool  # nobody has read what code it carries
    age: int  # of the release: how many are newer

    @property
    def place(self) -> int:
        """Of its earliest source."""
        return self.carriers[0].place if self.carriers else 0

    @property
    def name(self) -> str:
        kind = self.build.release.kind
        return self.build.name + ("" if kind == WHEEL else f" ({kind})")

    def fault(self, driver: Driver) -> Fault | None:
        version = driver.stands_for
        if self.floor is None or version is None or version >= self.floor[0]:
            return None
        return Fault("driver", f"needs driver >= {self.floor[1]}; {driver.holds}")

    def fits(self, driver: Driver) -> bool:
        return not self.faults and self.fault(driver) is None

    def against(self, driver: Driver) -> tuple[Fault, ...]:
        fault = self.fault(driver)
        if fault is None:
            return self.faults
        # What the host cannot run matters before where it could be had.
        found = [item for item in self.faults if item.rule not in LATE]
        return (*found, fault, *self.faults[len(found) :])


@dataclass(frozen=True)
class Query:
    """What the choice depends on, but for the driver."""

    environment: EnvironmentWish
    sources: tuple[Source, ...]
    machine: str
    glibc: Version | None
    has_glibc: bool
    models: tuple[Model, ...]  # of the GPUs; empty where none is used

    @property
    def on_gpu(self) -> bool:
        return bool(self.models)


class Candidates:
    """The builds in the order of preference, worked out as far as they are asked for."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self._known: list[Candidate] = []
        self._best: dict[Version | None, tuple[int, Candidate] | None] = {}  # by what CUDA sees of the driver
        self._more = _candidates(query)

    def __iter__(self) -> Iterator[Candidate]:
        number = 0
        while True:
            if number == len(self._known):
                following = next(self._more, None)
                if following is None:
                    return
                self._known.append(following)
            yield self._known[number]
            number += 1

    def best(self, driver: Driver) -> tuple[int, Candidate] | None:
        """The first that fits; one that asks for care only when nothing else does."""
        version = driver.stands_for
        if version not in self._best:
            self._best[version] = self._first(driver)
        return self._best[version]

    def _first(self, driver: Driver) -> tuple[int, Candidate] | None:
        spare = None
        for number, candidate in enumerate(self):
            if candidate.fits(driver):
                if not candidate.care:
                    return number, candidate
                spare = spare or (number, candidate)
        return spare

    def before(self, chosen: Candidate) -> list[Candidate]:
        """Those that the chosen one was preferred to for their faults."""
        found = []
        for candidate in self:
            if candidate is chosen:
                if not chosen.care:
                    break
            elif not candidate.care or not chosen.care:
                found.append(candidate)
        return found


@lru_cache(maxsize=4096)
def candidates(query: Query) -> Candidates:
    return Candidates(query)


class Host:
    """What a kind of host has against each build, and the oldest driver that runs the build there."""

    def __init__(
        self, machine: str, python: str, glibc: str | None, has_glibc: bool, models: tuple[Model, ...]
    ):
        self._machine, self._python, self._code = machine, python, _code(machine, models)
        self._glibc, self._has_glibc = Version(glibc) if glibc else None, has_glibc
        self._known: dict[Build, tuple[tuple[Fault, ...], Floor | None]] = {}

    def against(self, build: Build) -> tuple[tuple[Fault, ...], Floor | None]:
        if build not in self._known:
            code, floor = self._code.against(build)
            self._known[build] = ((*self._faults(build), *code), floor)
        return self._known[build]

    def _faults(self, build: Build) -> Iterator[Fault]:
        machine, tags = self._machine, build.release.python[self._machine]
        if self._python not in tags:
            yield Fault("python", f"is not built for Python {self._python} (but for {', '.join(tags)})")
        if not self._has_glibc:
            yield Fault("glibc", "needs glibc; the host has another C library")
        elif self._glibc and self._glibc < build.glibc[machine]:
            yield Fault("glibc", f"needs glibc >= {build.glibc[machine]}; the host has {self._glibc}")
        if build.cuda and machine not in build.capabilities:
            yield Fault("machine", f"is not built for {machine}")


_host = lru_cache(maxsize=1024)(Host)


class Shelf:
    """Which of the sources carry each build."""

    def __init__(self, allowed: tuple[Source, ...], packages: tuple[str, ...], machine: str):
        self._sources, self._packages, self._machine = allowed, packages, machine
        self._known: dict[Build, tuple[sources.Carrier, ...]] = {}
        kinds = tuple(sorted({item.kind for item in allowed if item.method == "conda"}))
        self.releases = _releases(kinds)
        self.nowhere = Fault("source", f"is carried by none of the sources allowed: {sources.names(allowed)}")

    def carriers(self, build: Build) -> tuple[sources.Carrier, ...]:
        if build not in self._known:
            self._known[build] = sources.carriers(self._sources, build, self._packages, self._machine)
        return self._known[build]


_shelf = lru_cache(maxsize=1024)(Shelf)


@lru_cache(maxsize=8)
def _releases(kinds: tuple[str, ...]) -> tuple[tuple[Build, ...], ...]:
    """The builds of each release, the newest first."""
    found: dict[Version, list[Build]] = {item.version: list(item.builds) for item in tables.releases()}
    for kind in kinds:
        for version, release in tables.channel(kind).items():
            found.setdefault(version, []).extend(release.builds)
    return tuple(tuple(found[version]) for version in sorted(found, reverse=True))


def _candidates(query: Query) -> Iterator[Candidate]:
    environment = query.environment
    python = ".".join(environment.python.split(".")[:2])
    glibc = str(query.glibc) if query.glibc else None
    host = _host(query.machine, python, glibc, query.has_glibc, query.models)
    shelf = _shelf(query.sources, environment.packages, query.machine)
    other = Fault("torch", f"is not the {environment.torch} of {environment.path}.torch")
    for age, builds in enumerate(shelf.releases):
        wanted = () if environment.range.contains(builds[0].release.version) else (other,)
        row = [_candidate(build, query, age, wanted, host, shelf) for build in builds]
        default = builds[0].release.pypi.get(query.machine)
        yield from sorted((item for item in row if item), key=lambda item: _order(item, default))


def _candidate(
    build: Build, query: Query, age: int, wanted: tuple[Fault, ...], host: Host, shelf: Shelf
) -> Candidate | None:
    """None when the build is not of the kind that is looked for at all."""
    environment, release = query.environment, build.release
    if query.machine not in release.python:
        return None
    asked = environment.variant
    if (build.cuda is not None) != (query.on_gpu if asked == AUTO else asked != CPU):
        return None
    faults = wanted
    if asked not in (AUTO, build.variant):
        faults = (Fault("variant", f"is not the {asked} of {environment.path}.variant"), *wanted)
    if environment.companions:
        faults += tuple(_companions(release, environment))
    against, floor = host.against(build)
    faults += against
    found = shelf.carriers(build)
    if not found:
        faults += (shelf.nowhere,)
    if build.confidence.get(query.machine) == LOW and asked == AUTO:
        faults += (UNSURE,)
    care = bool(build.cuda) and build.capabilities.get(query.machine, ()) is None
    return Candidate(build, faults, found, floor, care, age)


def _companions(release: Release, environment: EnvironmentWish) -> Iterator[Fault]:
    for package, wanted in environment.companions:
        version = release.companion(package)
        if version is None:
            yield Fault("packages", f"has no {package} that goes with it")
        elif wanted not in (None, version):
            where = f"{environment.path}.{package}"
            yield Fault("packages", f"goes with {package} {version}, not the {wanted} of {where}")


def _order(candidate: Candidate, default: str | None) -> tuple[bool, bool, int, bool, tuple[int, int]]:
    """Within a release: the earliest source, PyPI's default variant, the newest CUDA; small is better."""
    build = candidate.build
    major, minor = build.version
    return (
        not candidate.carriers,
        candidate.care,
        candidate.place,
        build.variant != default,
        (-major, -minor),
    )


class Code:
    """What speaks against the code of each build on some GPUs, and the oldest driver that runs it there."""

    def __init__(self, machine: str, models: tuple[Model, ...]):
        self._machine = machine
        self._models = tuple({(model.name, model.capability): model for model in models}.values())
        self._known: dict[Build, tuple[tuple[Fault, ...], Floor | None]] = {}

    def against(self, build: Build) -> tuple[tuple[Fault, ...], Floor | None]:
        if build not in self._known:
            self._known[build] = self._against(build)
        return self._known[build]

    def _against(self, build: Build) -> tuple[tuple[Fault, ...], Floor | None]:
        if not build.cuda or not self._models:
            return (), None
        floor, faults = tables.minimum_driver(build.cuda), []
        for model in self._models if self._machine in build.capabilities else ():
            if has_code(build, self._machine, model):
                continue
            compiles = tables.toolkit_driver(build.cuda) if _compiles(build, model.capability) else None
            if compiles:
                floor = max(floor, compiles)
            else:
                text = f"has no code for {model.name} (compute capability {model.capability})"
                faults.append(Fault("capability", text))
        return tuple(faults), floor


_code = lru_cache(maxsize=1024)(Code)


@lru_cache(maxsize=16384)
def has_code(build: Build, machine: str, model: Model) -> bool:
    """True also where nobody has read the build's list, and the CUDA version at least can hold such code."""
    codes = build.capabilities.get(machine, frozenset())
    if codes is None:
        first, last = model.architecture.first_cuda, model.architecture.last_cuda
        old = first is not None and build.version < tables.capability(first)
        new = last is not None and build.version > tables.capability(last)
        return not (old or new)
    return any(tables.runs(code, model.capability, build.cuda or "") for code in codes - build.nominal)


def _compiles(build: Build, capability: str) -> bool:
    device = tables.capability(capability)
    return any(tables.capability(code) <= device for code in build.ptx)


@lru_cache(maxsize=1024)
def last_release(model: Model, machine: str) -> str | None:
    """The last release with a wheel whose code runs on a GPU, whatever the source."""
    for release in tables.releases():
        if any(has_code(build, machine, model) for build in release.builds if build.cuda):
            return release.torch
    return None


def losers(found: Sequence[Candidate], query: Query, driver: Driver, upgrade: str) -> list[Note]:
    """One line for each reason that took builds out, with the newest build that it took."""
    groups: dict[Fault, list[Candidate]] = {}
    for item in found:
        faults = item.against(driver)
        if faults and faults[0].rule not in ("torch", "variant"):
            groups.setdefault(faults[0], []).append(item)
    lines = []
    for fault, row in groups.items():
        more = f" (likewise {len(row) - 1} more, down to {row[-1].name})" if len(row) > 1 else ""
        # What only another build helps is no advice beside a plan that has one.
        remedy = None if fault.rule in ("capability", "machine") else _way_out(fault, row[0], query, upgrade)
        lines.append(note(fault.rule, f"torch {row[0].name} {fault.tail}{more}", remedy))
    return lines


def _way_out(fault: Fault, item: Candidate, query: Query, upgrade: str) -> str:
    machine, path, build = query.machine, query.environment.path, item.build
    if fault.rule == "driver" and item.floor:
        return f"a driver >= {item.floor[1]} would allow torch {item.name}{upgrade}"
    if fault.rule == "source":
        return f"add a source that carries torch {item.name} (a wheel index, or find_links)"
    if fault.rule == "python":
        tags = [tag for tag in build.release.python[machine] if not tag.endswith("t")]
        return f"set {path}.python to one of {', '.join(tags)} for torch {item.name}"
    if fault.rule == "torch":
        return f"let {path}.torch allow {build.release.torch}: torch {item.name} would do"
    if fault.rule in ("variant", "confidence"):
        return f"set {path}.variant to {build.variant}: torch {item.name} would do"
    if fault.rule == "packages":
        return f"torch {item.name} would do without that companion, or with the one that goes with it"
    if fault.rule == "glibc":
        return f"a host with glibc >= {build.glibc[machine]} would do for torch {item.name}"
    return f"no setting makes torch {item.name} run there: leave these GPUs out, or set {path}.variant to cpu"


def no_build(found: Candidates, driver: Driver, upgrade: str) -> Problem:
    """That nothing fits: the nearest misses, and what would let each in."""
    query = found.query
    environment, path = query.environment, query.environment.path
    orphans = [model for model in query.models if last_release(model, query.machine) is None]
    wanted = f"torch {environment.torch}, variant {environment.variant}, Python {environment.python}"
    if query.on_gpu:
        gpus = ", ".join(dict.fromkeys(model.name for model in query.models))
        wanted += f", for {gpus} with driver {driver.text}"
    else:
        wanted += ", without a GPU"
    what = f"{path} ({environment.name})"
    if orphans:
        gpus = ", ".join(f"{model.name} (compute capability {model.capability})" for model in orphans)
        return problem(
            "no_build",
            what,
            f"no release of torch for {query.machine} has code for {gpus}; no driver changes that",
            wanted,
            f"set {path}.variant to cpu, or move these GPUs to a host of their own",
        )
    rows = [(item, item.against(driver)) for item in found]
    fewest = min((len(faults) for _item, faults in rows), default=0)
    nearest: dict[tuple[str, ...], tuple[Candidate, tuple[Fault, ...]]] = {}
    for item, faults in rows:
        if len(faults) == fewest:
            nearest.setdefault(tuple(fault.rule for fault in faults), (item, faults))
    misses = [
        f"torch {item.name} " + " and ".join(fault.tail for fault in faults)
        for item, faults in nearest.values()
    ]
    fixes = [
        " and ".join(dict.fromkeys(_way_out(fault, item, query, upgrade) for fault in faults))
        for item, faults in nearest.values()
    ]
    if not query.on_gpu and environment.variant == AUTO:
        default = tables.releases()[0].pypi[query.machine]
        if default != CPU:
            fixes.append(
                f"set {path}.variant to {default}, which PyPI carries: it runs without a GPU, but is some "
                "gigabytes larger"
            )
    return problem(
        "no_build",
        what,
        "no build of torch fits; the nearest: " + "; ".join(misses),
        wanted,
        "; or ".join(dict.fromkeys(fixes)),
    )
