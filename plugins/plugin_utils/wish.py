"""Reads a wish (docs/contracts.md): what is sound becomes a ``Wish``, each fault a problem of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import (
    Problem,
    closest,
    problem,
)
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

AUTO = "auto"
KINDS = ("pypi", "index", "find_links")
# How messages call the parts of the wish; a face whose users know them by other names passes those.
PATHS = {
    "driver": "driver.",
    "environments": "environments",
    "sources": "sources",
    "pypi_urls": "pypi_urls",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PYTHON = re.compile(r"3\.\d+(\.\d+)?")
_URL = re.compile(r"(https?://[^\s/]+\S*|file:///\S+|/\S+)")


@dataclass(frozen=True)
class DriverWish:
    state: str = AUTO
    branch: str = AUTO
    flavour: str = AUTO
    repository: str = AUTO
    allow_in_container: bool = False
    prefix: str = PATHS["driver"]

    def path(self, key: str) -> str:
        return self.prefix + key


@dataclass(frozen=True)
class EnvironmentWish:
    path: str
    name: str
    python: str
    torch: str = AUTO
    range: SpecifierSet = field(default_factory=SpecifierSet)
    variant: str = AUTO
    torchvision: bool = False
    torchaudio: bool = False


@dataclass(frozen=True)
class Wheel:
    """One entry of ``carries``: ``torch==2.13.0+cpu``."""

    package: str
    version: str
    local: str | None


@dataclass(frozen=True)
class Source:
    name: str
    kind: str
    urls: tuple[str, ...]
    variants: tuple[str, ...] = ()  # () = every variant
    carries: tuple[Wheel, ...] | None = None  # None = not narrowed


@dataclass(frozen=True)
class Wish:
    driver: DriverWish
    environments: tuple[EnvironmentWish, ...]
    sources: tuple[Source, ...]
    pypi_urls: tuple[str, ...]


class _Reader:
    """Reads single values out of a mapping; a fault is noted and the default taken."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def fault(self, path: str, found: object, expected: str, fix: str, code: str = "bad_wish") -> None:
        self.problems.append(problem(code, path, found, expected, fix))

    def mapping(self, value: Any, path: str, known: Collection[str], prefix: str = "") -> dict[str, Any]:
        """Every key must be known; ``prefix`` is what stands before a key in a message."""
        if not isinstance(value, dict):
            self.fault(
                path, value, "a mapping with the keys " + ", ".join(known), f"write {path} as a mapping"
            )
            return {}
        for key in value:
            if key not in known:
                guess = closest(str(key), known)
                self.fault(
                    f"{prefix}{key}",
                    value[key],
                    "one of the keys " + ", ".join(known),
                    f"did you mean {guess}?" if guess else f"remove {key}",
                    "unknown_key",
                )
        return value

    def rows(self, value: Any, path: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            self.fault(path, value, "a list", f"write {path} as a list")
            return []
        return value

    def choice(self, value: Any, path: str, choices: Collection[str]) -> str:
        if value is None:
            return AUTO
        if isinstance(value, str) and value in choices:
            return value
        fix = f"set it to {AUTO} or to one of those"
        if not isinstance(value, str):
            fix = "write it as a quoted string; " + fix
        elif value.isalpha() and (guess := closest(value, choices)):
            fix = f"did you mean {guess}?"
        self.fault(path, value, "one of " + ", ".join(choices), fix)
        return AUTO

    def flag(self, value: Any, path: str) -> bool:
        if value is not None and not isinstance(value, bool):
            self.fault(path, value, "true or false", "write true or false, without quotes")
            return False
        return bool(value)

    def urls(self, value: Any, path: str) -> tuple[str, ...]:
        good = []
        for number, url in enumerate(self.rows(value, path)):
            if isinstance(url, str) and _URL.fullmatch(url):
                good.append(url)
            else:
                self.fault(
                    f"{path}[{number}]",
                    url,
                    "an http(s):// or file:/// URL or an absolute path",
                    "give the whole URL, such as https://mirror.example.org/simple",
                )
        return tuple(good)

    def unique(self, name: str, path: str, seen: dict[str, str]) -> None:
        if name in seen:
            self.fault(path, name, f"a name of its own; {seen[name]} has it too", "rename one of the two")
        seen.setdefault(name, path)


def _driver(reader: _Reader, value: Any, prefix: str) -> DriverWish:
    known = ("state", "branch", "flavour", "repository", "allow_in_container")
    row = reader.mapping({} if value is None else value, "driver", known, prefix)
    return DriverWish(
        state=reader.choice(row.get("state"), f"{prefix}state", (AUTO, "present", "keep", "none")),
        branch=reader.choice(row.get("branch"), f"{prefix}branch", (AUTO, *tables.branches())),
        flavour=reader.choice(row.get("flavour"), f"{prefix}flavour", (AUTO, "open", "proprietary")),
        repository=reader.choice(
            row.get("repository"), f"{prefix}repository", (AUTO, "distribution", "nvidia")
        ),
        allow_in_container=reader.flag(row.get("allow_in_container"), f"{prefix}allow_in_container"),
        prefix=prefix,
    )


def _torch(reader: _Reader, value: Any, path: str) -> tuple[str, SpecifierSet, str | None]:
    """The wish as text, as a range, and the variant that a local version such as 2.7.1+cu126 pins."""
    if value is None or value == AUTO:
        return AUTO, SpecifierSet(), None
    newest = tables.releases()[0].torch
    expected = f'auto, a version such as "{newest}" or a PEP 440 range such as ">={newest}"'
    if not isinstance(value, str):
        reader.fault(path, value, expected, "quote it: YAML reads an unquoted 2.10 as the number 2.1")
        return AUTO, SpecifierSet(), None
    try:
        version = Version(value)
    except InvalidVersion:
        try:
            return value, SpecifierSet(value), None
        except InvalidSpecifier:
            reader.fault(path, value, expected, "write auto, one version, or a range")
            return AUTO, SpecifierSet(), None
    if all(release.version != Version(version.public) for release in tables.releases()):
        known = ", ".join(release.torch for release in tables.releases())
        reader.fault(path, value, f"a release that the tables know: {known}", "take one of those")
        return AUTO, SpecifierSet(), None
    return value, SpecifierSet(f"=={version.public}"), version.local


def _environment(reader: _Reader, value: Any, path: str) -> EnvironmentWish | None:
    known = ("name", "python", "torch", "variant", "torchvision", "torchaudio")
    row = reader.mapping(value, path, known, f"{path}.")
    before = len(reader.problems)
    name, python = row.get("name"), row.get("python")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        reader.fault(
            f"{path}.name",
            name,
            "letters, digits, '.', '_' and '-', with a letter or digit first",
            "rename the environment; it becomes a directory, so it holds no slash and no space",
        )
    if not isinstance(python, str) or not _PYTHON.fullmatch(python):
        newest = tables.releases()[0].python
        example = next(iter(newest.values()))[0]
        reader.fault(
            f"{path}.python",
            python,
            f'a Python version in quotes such as "{example}"',
            "quote it: YAML reads an unquoted 3.10 as the number 3.1",
        )
    torch, wanted, local = _torch(reader, row.get("torch"), f"{path}.torch")
    variant = reader.choice(row.get("variant"), f"{path}.variant", (AUTO, *tables.variants()))
    if local is not None:
        if local not in tables.variants():
            reader.fault(
                f"{path}.torch",
                torch,
                "+cpu or +cuXYZ after the version",
                "use one of " + ", ".join(tables.variants()),
            )
        elif variant not in (AUTO, local):
            reader.fault(
                f"{path}.variant", variant, f"the {local} that torch: {torch} names", "drop one of the two"
            )
        variant = local
    vision = reader.flag(row.get("torchvision"), f"{path}.torchvision")
    audio = reader.flag(row.get("torchaudio"), f"{path}.torchaudio")
    if len(reader.problems) > before:
        return None
    return EnvironmentWish(path, str(name), str(python), torch, wanted, variant, vision, audio)


def _source(reader: _Reader, value: Any, path: str) -> Source | None:
    row = reader.mapping(value, path, ("name", "kind", "urls", "variants", "carries"), f"{path}.")
    before = len(reader.problems)
    name, kind = row.get("name"), row.get("kind")
    if not isinstance(name, str) or not name:
        reader.fault(f"{path}.name", name, "a name", "name the source; reasons refer to it")
    if kind not in KINDS:
        reader.fault(f"{path}.kind", kind, "one of " + ", ".join(KINDS), "say what the URL serves")
    urls = reader.urls(row.get("urls"), f"{path}.urls")
    if not row.get("urls"):
        reader.fault(f"{path}.urls", row.get("urls"), "a list of one or more URLs", "give its URL")
    variants = tuple(
        reader.choice(item, f"{path}.variants[{number}]", tables.variants())
        for number, item in enumerate(reader.rows(row.get("variants"), f"{path}.variants"))
    )
    carries = []
    for number, item in enumerate(reader.rows(row.get("carries"), f"{path}.carries")):
        try:
            carries.append(_wheel(item if isinstance(item, str) else ""))
        except (InvalidRequirement, InvalidVersion):
            reader.fault(
                f"{path}.carries[{number}]",
                item,
                f'a pinned build such as "torch=={tables.releases()[0].torch}+cpu"',
                "list each wheel as name==version, with +variant where its file name has one",
            )
    if len(reader.problems) > before:
        return None
    return Source(str(name), str(kind), urls, variants, tuple(carries) if carries else None)


def _wheel(text: str) -> Wheel:
    """Reads ``name==version``; raises InvalidVersion when it is anything else."""
    requirement = Requirement(text)
    pins = [item.version for item in requirement.specifier if item.operator == "=="]
    version = Version(pins[0] if len(pins) == 1 == len(requirement.specifier) else "")
    return Wheel(canonicalize_name(requirement.name), version.public, version.local)


def read(value: Any, paths: Mapping[str, str] = PATHS) -> tuple[Wish, list[Problem]]:
    """The sound part of the wish, and every fault in the rest."""
    reader = _Reader()
    row = reader.mapping(value, "wish", tuple(PATHS))
    seen: dict[str, str] = {}
    environments = []
    for number, item in enumerate(reader.rows(row.get("environments"), paths["environments"])):
        path = f"{paths['environments']}[{number}]"
        if environment := _environment(reader, item, path):
            reader.unique(environment.name, f"{path}.name", seen)
            environments.append(environment)
    seen = {}
    sources = []
    for number, item in enumerate(reader.rows(row.get("sources"), paths["sources"])):
        path = f"{paths['sources']}[{number}]"
        if source := _source(reader, item, path):
            reader.unique(source.name, f"{path}.name", seen)
            sources.append(source)
    if environments and not row.get("sources"):
        reader.fault(
            paths["sources"],
            row.get("sources"),
            "at least one source of torch",
            "name a PyPI mirror or a wheel index",
        )
    wish = Wish(
        driver=_driver(reader, row.get("driver"), paths["driver"]),
        environments=tuple(environments),
        sources=tuple(sources),
        pypi_urls=reader.urls(row.get("pypi_urls"), paths["pypi_urls"]),
    )
    return wish, reader.problems
