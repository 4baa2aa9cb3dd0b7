"""What each source of a wish carries, and how a build is asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils.tables import WHEEL, Build
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.wish import Source


@dataclass(frozen=True)
class Carrier:
    """A source that has a build."""

    place: int  # in the order of preference
    source: Source
    tagged: frozenset[str]  # packages whose files have a local version there


def carriers(
    sources: Sequence[Source], build: Build, packages: Sequence[str], machine: str
) -> tuple[Carrier, ...]:
    found = []
    for place, source in enumerate(sources):
        tagged = _carried(source, build, packages, machine)
        if tagged is not None:
            found.append(Carrier(place, source, tagged))
    return tuple(found)


def _carried(source: Source, build: Build, packages: Sequence[str], machine: str) -> frozenset[str] | None:
    """Which packages of this build have a local version at the source; None when it lacks the build."""
    release = build.release
    if release.kind != (source.kind if source.method == "conda" else WHEEL):
        return None
    if source.variants and build.variant not in source.variants:
        return None
    default = release.pypi.get(machine)
    if source.kind == "pypi":
        return frozenset() if build.variant == default else None
    if source.carries is None:
        return frozenset(packages if source.method == "pip" else ())
    tagged = set()
    for package in packages:
        version = release.companion(package)
        locals_ = {
            wheel.local for wheel in source.carries if (wheel.package, wheel.version) == (package, version)
        }
        if build.variant in locals_:
            tagged.add(package)
        elif None not in locals_ or (source.method == "pip" and build.variant != default):
            return None
    return frozenset(tagged)


def names(sources: Iterable[Source]) -> str:
    """``tuna (pypi), nju (index, cpu)``: what each serves, and what it is narrowed to."""
    return ", ".join(f"{item.name} ({', '.join((item.kind, *item.variants))})" for item in sources)


def rows(
    build: Build, found: Iterable[Carrier], pypi_urls: Sequence[str], packages: Sequence[str]
) -> list[dict[str, Any]]:
    """Where to get the build; a source with several URLs gives several rows, to be tried in turn."""
    return [
        row
        for carrier in found
        for url in carrier.source.urls
        for row in _rows(carrier.source, url, build, pypi_urls, packages)
    ]


def _rows(
    source: Source, url: str, build: Build, pypi_urls: Sequence[str], packages: Sequence[str]
) -> list[dict[str, Any]]:
    start: dict[str, Any] = {"name": source.name, "kind": source.kind, "method": source.method}
    if source.method == "conda":
        specs = [*(build.specs[package] for package in packages), *build.beside]
        return [
            {**start, "channels": [url, *beside], "specs": specs, "cuda": build.cuda}
            for beside in ([[other] for other in source.nvidia_urls] or [[]])
        ]

    def pip(index: str | None, extra: Sequence[str] = (), links: Sequence[str] = ()) -> dict[str, Any]:
        return {**start, "index_url": index, "extra_index_urls": list(extra), "find_links": list(links)}

    if source.kind == "pypi":
        return [pip(url)]
    if source.kind == "bundle":
        return [pip(None, links=[url])]
    if source.kind == "index":
        index = f"{url.rstrip('/')}/{build.variant}"
        return [pip(index, [pypi]) for pypi in pypi_urls] or [pip(index)]
    return [pip(pypi, links=[url]) for pypi in pypi_urls] or [pip(None, links=[url])]


def requirements(build: Build, found: Iterable[Carrier], packages: Sequence[str]) -> list[str]:
    """Pins that another variant of the release does not meet: a plain ``==2.15.0`` takes 2.15.0+cpu."""
    if build.release.kind != WHEEL:
        return []
    carriers_, lines = list(found), []
    for package in packages:
        tagged = [package in carrier.tagged for carrier in carriers_]
        version = build.release.companion(package)
        if all(tagged):
            pin = f"=={version}+{build.variant}"
        elif any(tagged):  # the file has the local version at one source and not at another
            others = [other.variant for other in build.release.builds if other is not build]
            pin = ",".join([f"=={version}", *(f"!={version}+{other}" for other in others)])
        else:
            pin = f"==={version}"
        lines.append(package + pin)
    return lines
