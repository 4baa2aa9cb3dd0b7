"""Decides what a host gets, and says why: (truth, wish) -> plan, as docs/contracts.md has them.

Pure: no network, no host, no clock but ``today``. The rules are here, every number is in ``data/``.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import drivers, tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import truth as truths
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import wish as wishes
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import Problem, plain, problem
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.tables import CPU, Build, Release
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.truth import Host
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.wish import AUTO, EnvironmentWish, Source, Wish
from packaging.specifiers import SpecifierSet
from packaging.version import Version

SCHEMA = 1
LOW = "low"


@dataclass(frozen=True)
class Fault:
    """Why a build is out: the rule, and the text that follows the build's name."""

    rule: str
    tail: str


@dataclass(frozen=True)
class Candidate:
    build: Build
    faults: tuple[Fault, ...]
    carriers: tuple[tuple[int, Source, frozenset[str]], ...]  # place, source, packages with a local version


@dataclass(frozen=True)
class Situation:
    """What the rules look at: one environment on one host."""

    host: Host
    machine: str
    driver: drivers.Driver
    environment: EnvironmentWish
    sources: tuple[Source, ...]
    on_gpu: bool

    @property
    def packages(self) -> tuple[str, ...]:
        extra = (self.environment.torchvision and "torchvision", self.environment.torchaudio and "torchaudio")
        return ("torch", *(name for name in extra if name))

    def version(self, package: str, release: Release) -> str | None:
        return {
            "torch": release.torch,
            "torchvision": release.torchvision,
            "torchaudio": release.torchaudio,
        }[package]


@lru_cache(maxsize=4096)
def _within(version: Version, wanted: SpecifierSet) -> bool:
    return wanted.contains(version)


def _carried(item: Source, build: Build, situation: Situation) -> frozenset[str] | None:
    """Which packages of this build carry a local version at the source; None when it lacks the build."""
    default = build.release.pypi[situation.machine]
    if item.variants and build.variant not in item.variants:
        return None
    if item.kind == "pypi":
        return frozenset() if build.variant == default else None
    if item.carries is None:
        return frozenset(situation.packages)
    local = set()
    for package in situation.packages:
        version = situation.version(package, build.release)
        if version is None:
            return None
        for wheel in item.carries:
            if wheel.package != package or wheel.version != version:
                continue
            if wheel.local == build.variant:
                local.add(package)
                break
            if wheel.local is None and build.variant == default:
                break
        else:
            return None
    return frozenset(local)


def _host_faults(build: Build, situation: Situation) -> Iterator[Fault]:
    """What the host itself has against a build."""
    release, machine, host = build.release, situation.machine, situation.host
    python = ".".join(situation.environment.python.split(".")[:2])
    tags = release.python[machine]
    if python not in tags:
        yield Fault("python", f"is not built for Python {python} (but for {', '.join(tags)})")
    if not host.has_glibc:
        yield Fault("glibc", "needs glibc; the host has another C library")
    elif host.glibc and host.glibc < release.glibc[machine]:
        yield Fault("glibc", f"needs glibc >= {release.glibc[machine]}; the host has {host.glibc}")
    if build.cuda is None:
        return
    if machine not in build.capabilities:
        yield Fault("machine", f"is not built for {machine}")
        return
    if not situation.on_gpu:
        return
    for name, capability in dict.fromkeys((gpu.model.name, gpu.model.capability) for gpu in host.gpus):
        if not _has_code(build, machine, capability):
            yield Fault("capability", f"has no code for {name} (compute capability {capability})")
    floor, text = tables.minimum_driver(build.cuda)
    if situation.driver.version and situation.driver.version < floor:
        yield Fault("driver", f"needs driver >= {text}; {situation.driver.holds}")


@lru_cache(maxsize=65536)
def _has_code(build: Build, machine: str, capability: str) -> bool:
    usable = build.capabilities.get(machine, frozenset()) - build.nominal
    return any(tables.runs(code, capability, build.cuda or "") for code in usable)


def _candidate(build: Build, situation: Situation) -> Candidate | None:
    """None when the build is not of the kind that is looked for at all."""
    environment, release = situation.environment, build.release
    faults = []
    if environment.variant == AUTO:
        if (build.cuda is not None) != situation.on_gpu:
            return None
    elif build.variant != environment.variant:
        if (build.cuda is None) != (environment.variant == CPU):
            return None
        faults.append(Fault("variant", f"is not the {environment.variant} of {environment.path}.variant"))
    if not _within(release.version, environment.range):
        faults.append(Fault("torch", f"is not the {environment.torch} of {environment.path}.torch"))
    for package in situation.packages:
        if situation.version(package, release) is None:
            faults.append(Fault("packages", f"has no {package} that goes with it"))
    faults.extend(_host_faults(build, situation))
    carriers = []
    for place, item in enumerate(situation.sources):
        local = _carried(item, build, situation)
        if local is not None:
            carriers.append((place, item, local))
    if not carriers:
        faults.append(
            Fault("source", f"is carried by none of the sources allowed: {_names(situation.sources)}")
        )
    if build.confidence.get(situation.machine) == LOW and environment.variant == AUTO:
        faults.append(
            Fault("confidence", "is not known for certain to be published: only taken when it is named")
        )
    return Candidate(build, tuple(faults), tuple(carriers))


def _names(sources: Iterable[Source]) -> str:
    """``tuna (pypi), nju (index, cpu)``: what each serves, and what it is narrowed to."""
    return ", ".join(f"{item.name} ({', '.join((item.kind, *item.variants))})" for item in sources)


def _order(candidate: Candidate, machine: str) -> tuple[bool, int, bool, tuple[int, int]]:
    """Within a release: the earliest source, its default variant, the newest CUDA; small is better."""
    build = candidate.build
    place = candidate.carriers[0][0] if candidate.carriers else 0
    major, minor = build.version
    return (not candidate.carriers, place, build.variant != build.release.pypi[machine], (-major, -minor))


def _candidates(situation: Situation) -> list[Candidate]:
    """Every build that comes into question, the best first."""
    found = []
    for release in tables.releases():
        row = [_candidate(build, situation) for build in release.builds]
        found.extend(sorted((item for item in row if item), key=lambda item: _order(item, situation.machine)))
    return found


def _losers(candidates: Iterable[Candidate]) -> list[str]:
    """One line for each reason that took builds out, with the newest build that it took."""
    groups: dict[str, list[Build]] = {}
    for item in candidates:
        if item.faults and item.faults[0].rule not in ("torch", "variant"):
            groups.setdefault(item.faults[0].tail, []).append(item.build)
    lines = []
    for tail, builds in groups.items():
        more = f" (likewise {len(builds) - 1} more, down to {builds[-1].name})" if len(builds) > 1 else ""
        lines.append(f"torch {builds[0].name} {tail}{more}")
    return lines


def _ways_out(rule: str, build: Build, situation: Situation) -> str:
    machine, path = situation.machine, situation.environment.path
    if rule == "driver" and build.cuda:
        return f"a driver >= {tables.minimum_driver(build.cuda)[1]} would allow torch {build.name}"
    if rule == "source":
        return f"add a source that carries torch {build.name} (a wheel index, or find_links)"
    if rule == "python":
        tags = [tag for tag in build.release.python[machine] if not tag.endswith("t")]
        return f"set {path}.python to one of {', '.join(tags)} for torch {build.name}"
    if rule == "torch":
        return f"let {path}.torch allow {build.release.torch}: torch {build.name} would do"
    if rule in ("variant", "confidence"):
        return f"set {path}.variant to {build.variant}: torch {build.name} would do"
    if rule == "packages":
        return f"torch {build.name} would do without torchvision or torchaudio"
    if rule == "glibc":
        return f"a host with glibc >= {build.release.glibc[machine]} would do for torch {build.name}"
    return (
        f"no setting makes torch {build.name} run there: leave these GPUs out, or set {path}.variant to cpu"
    )


def _no_build(candidates: list[Candidate], situation: Situation) -> Problem:
    environment = situation.environment
    fewest = min((len(item.faults) for item in candidates), default=0)
    nearest: dict[tuple[str, ...], Candidate] = {}
    for item in candidates:
        if len(item.faults) == fewest:
            nearest.setdefault(tuple(fault.rule for fault in item.faults), item)
    misses = [
        f"torch {item.build.name} " + " and ".join(fault.tail for fault in item.faults)
        for item in nearest.values()
    ]
    fixes = [
        " and ".join(dict.fromkeys(_ways_out(fault.rule, item.build, situation) for fault in item.faults))
        for item in nearest.values()
    ]
    if not situation.on_gpu and environment.variant == AUTO:
        default = tables.releases()[0].pypi[situation.machine]
        if default != CPU:
            fixes.append(
                f"set {environment.path}.variant to {default}, which PyPI carries: it runs without a GPU, "
                "but is some gigabytes larger"
            )
    wanted = f"torch {environment.torch}, variant {environment.variant}, Python {environment.python}"
    if situation.on_gpu:
        gpus = ", ".join(dict.fromkeys(gpu.model.name for gpu in situation.host.gpus))
        wanted += f", for {gpus} with driver {situation.driver.text}"
    else:
        wanted += ", without a GPU"
    return problem(
        "no_build",
        f"{environment.path} ({environment.name})",
        "no build of torch fits; the nearest: " + "; ".join(misses),
        wanted,
        "; or ".join(dict.fromkeys(fixes)),
    )


def _source_rows(candidate: Candidate, wish: Wish) -> list[dict[str, Any]]:
    """Where to get the build; a source with several URLs gives several rows, to be tried in turn."""
    rows: list[dict[str, Any]] = []
    for _place, item, _local in candidate.carriers:
        for url in item.urls:
            if item.kind == "pypi":
                rows.append({"name": item.name, "index_url": url, "extra_index_urls": [], "find_links": []})
            elif item.kind == "index":
                index = f"{url.rstrip('/')}/{candidate.build.variant}"
                extras = [[pypi] for pypi in wish.pypi_urls] or [[]]
                rows += [
                    {"name": item.name, "index_url": index, "extra_index_urls": extra, "find_links": []}
                    for extra in extras
                ]
            else:
                rows += [
                    {"name": item.name, "index_url": pypi, "extra_index_urls": [], "find_links": [url]}
                    for pypi in (wish.pypi_urls or (None,))
                ]
    return rows


def _requirements(candidate: Candidate, situation: Situation) -> list[str]:
    """Pins that another variant of the release does not meet: a plain ``==2.15.0`` takes 2.15.0+cpu."""
    build = candidate.build
    lines = []
    for package in situation.packages:
        tagged = [package in local for _place, _item, local in candidate.carriers]
        version = situation.version(package, build.release)
        if all(tagged):
            pin = f"=={version}+{build.variant}"
        elif any(tagged):  # the file has the local version at one source and not at another
            others = [other.variant for other in build.release.builds if other is not build]
            pin = ",".join([f"=={version}", *(f"!={version}+{other}" for other in others)])
        else:
            pin = f"==={version}"
        lines.append(package + pin)
    return lines


def _empty(environment: EnvironmentWish) -> dict[str, Any]:
    return {
        "name": environment.name,
        "python": environment.python,
        "torch": None,
        "variant": None,
        "cuda": None,
        "requirements": [],
        "sources": [],
    }


def _last_of_its_kind(build: Build, situation: Situation, notes: drivers.Notes) -> None:
    """Warns when no newer release has code for a GPU of the host, whatever the source."""
    for name, capability in dict.fromkeys(
        (gpu.model.name, gpu.model.capability) for gpu in situation.host.gpus
    ):
        last = _last_release(capability, situation.machine)
        if last and last == build.release.torch and last != tables.releases()[0].torch:
            notes.warnings.append(
                f"torch {last} is the last release with code for {name} (capability {capability})"
            )


@lru_cache(maxsize=256)
def _last_release(capability: str, machine: str) -> str | None:
    for release in tables.releases():
        if any(_has_code(build, machine, capability) for build in release.builds if build.cuda):
            return release.torch
    return None


def _environment(situation: Situation, wish: Wish, notes: drivers.Notes) -> dict[str, Any]:
    environment = situation.environment
    candidates = _candidates(situation)
    chosen = next((item for item in candidates if not item.faults), None)
    label = f"{environment.name}: " if len(wish.environments) > 1 else ""
    if chosen is None:
        notes.problems.append(_no_build(candidates, situation))
        return _empty(environment)
    build = chosen.build
    notes.reasons += [label + line for line in _losers(candidates[: candidates.index(chosen)])]
    source = chosen.carriers[0][1]
    notes.reasons.append(
        f"{label}torch {build.name} from {source.name} is the newest that fits "
        + (
            f"the GPU and the driver ({situation.driver.holds})"
            if situation.on_gpu and build.cuda
            else "the host"
        )
    )
    if situation.on_gpu and build.cuda:
        _last_of_its_kind(build, situation, notes)
    elif build.cuda:
        notes.warnings.append(
            f"{label}{build.variant} is wished, but no GPU can be used: cuda_available is False"
        )
    if build.confidence.get(situation.machine) == LOW:
        notes.warnings.append(
            f"{label}torch {build.name} is a build of low confidence, taken because it is named"
        )
    return {
        **_empty(environment),
        "torch": build.release.torch,
        "variant": build.variant,
        "cuda": build.cuda,
        "requirements": _requirements(chosen, situation),
        "sources": _source_rows(chosen, wish),
    }


def _unknown_carried(wish: Wish, notes: drivers.Notes) -> None:
    known = {release.torch for release in tables.releases()}
    for item in wish.sources:
        for wheel in item.carries or ():
            if wheel.package == "torch" and wheel.version not in known:
                notes.warnings.append(
                    f"source {item.name}: torch {wheel.version} is not in the tables and is left out"
                )


def plan(
    truth: Any,
    wish: Any,
    host: str | None = None,
    today: datetime.date | None = None,
    paths: Mapping[str, str] = wishes.PATHS,
) -> dict[str, Any]:
    """The plan of one host. Never raises: all that is wrong with the input is in ``problems``, at once."""
    facts, problems = truths.read(plain(truth))
    wanted, faults = wishes.read(plain(wish), paths)
    notes = drivers.Notes(reasons=[], warnings=[], problems=[*problems, *faults])
    for gpu in facts.gpus:
        if not gpu.model.listed:
            model = gpu.model
            notes.warnings.append(
                f"10de:{model.device} in slot {gpu.slot} is not in the tables; by its block of ids it is "
                f"{model.architecture.name}, compute capability {model.capability}"
            )
    driver = drivers.decide(facts, wanted, today or datetime.date.today(), notes)
    _unknown_carried(wanted, notes)

    on_gpu = bool(facts.gpus) and driver.version is not None
    environments = []
    for environment in wanted.environments:
        uses_gpu = on_gpu and environment.variant != CPU
        waits = driver.undecided and environment.variant != CPU
        if facts.machine is None or waits or not wanted.sources:
            environments.append(_empty(environment))
            continue
        situation = Situation(facts, facts.machine, driver, environment, wanted.sources, uses_gpu)
        environments.append(_environment(situation, wanted, notes))

    available = on_gpu and any(row["cuda"] for row in environments)
    capabilities = sorted({gpu.model.capability for gpu in facts.gpus}, key=tables.capability)
    return {
        "schema": SCHEMA,
        "host": plain(host),
        "gpus": [
            {
                "slot": gpu.slot,
                "device": gpu.model.device,
                "name": gpu.model.name,
                "architecture": gpu.model.architecture.name,
                "capability": gpu.model.capability,
            }
            for gpu in facts.gpus
        ],
        "driver": {
            "action": driver.action,
            "branch": driver.branch,
            "version": driver.text,
            "flavour": driver.flavour,
            "repository": driver.repository,
            "packages": list(driver.packages),
        },
        "environments": environments,
        "expect": {
            "cuda_available": available,
            "device_count": len(facts.gpus) if available else 0,
            "capabilities": capabilities if available else [],
        },
        "reasons": notes.reasons,
        "warnings": notes.warnings,
        "problems": [dict(item) for item in notes.problems],
    }
