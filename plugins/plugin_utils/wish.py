"""Reads a wish (docs/contracts.md): what is sound becomes a ``Wish``, each fault a problem of its own."""

from __future__ import annotations

import marshal
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import tables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import (
    Problem,
    canonical,
    closest,
    plain,
    problem,
)
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

AUTO = "auto"
KINDS = ("pypi", "index", "find_links", "bundle")  # beside those of conda channels
PYTORCH_CHANNEL = "pytorch-channel"
LAYOUTS = ("nvidia", "distribution")
LOCAL = "local"
REPOSITORIES = (LOCAL, "distribution", "nvidia")  # of drivers, the preferred first
# How messages call the parts of the wish; a face whose users know them by other names passes those.
PATHS = {
    "driver": "driver.",
    "environments": "environments",
    "sources": "sources",
    "pypi_urls": "pypi_urls",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_PYTHON = re.compile(r"3\.\d+(\.\d+)?")
_PINNED = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*(\S+)\s*")
_DRIVER = re.compile(r"\d{3}(\.\d+){1,2}")
_URL = re.compile(r"(https?://[^\s/]+\S*|file:///\S+|/\S+)")


@dataclass(frozen=True)
class LocalDriver:
    """What the owner's own repository carries; its packages are named as those of another repository."""

    version: str
    layout: str


@dataclass(frozen=True)
class DriverWish:
    state: str = AUTO
    upgrade: bool = False
    branch: str = AUTO
    version: str = AUTO
    flavour: str = AUTO
    repository: str = AUTO
    modules: str = AUTO
    forward_compat: bool = False
    adopt: bool = False
    local: tuple[LocalDriver, ...] = ()
    allow_in_container: bool = False
    silent: tuple[str, ...] = ()  # repositories that do not answer
    prefix: str = PATHS["driver"]

    def path(self, key: str) -> str:
        return self.prefix + key


@dataclass(frozen=True)
class EnvironmentWish:
    path: str
    name: str
    python: str
    torch: str = AUTO
    range: SpecifierSet = field(default_factory=SpecifierSet, compare=False)  # what torch says
    variant: str = AUTO
    companions: tuple[
        tuple[str, str | None], ...
    ] = ()  # torchvision, torchaudio: a version or None for the fitting

    @property
    def packages(self) -> tuple[str, ...]:
        return ("torch", *(name for name, _version in self.companions))


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
    nvidia_urls: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        return "conda" if self.kind in tables.channel_kinds() else "pip"


@dataclass(frozen=True, eq=False)
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
                    f"{prefix}{key}" if str(key).strip() else f"a key of {path} without a name",
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


DRIVER_KEYS = (
    "state", "upgrade", "branch", "version", "flavour", "repository", "modules", "forward_compat", "adopt",
    "local", "allow_in_container",
)  # fmt: skip


def _driver(reader: _Reader, value: Any, prefix: str) -> DriverWish:
    row = reader.mapping({} if value is None else value, "driver", (*DRIVER_KEYS, "silent"), prefix)

    def choice(key: str, *choices: str) -> str:
        return reader.choice(row.get(key), prefix + key, (AUTO, *choices))

    def flag(key: str) -> bool:
        return reader.flag(row.get(key), prefix + key)

    wish = DriverWish(
        state=choice("state", "present", "keep", "none", "absent"),
        upgrade=flag("upgrade"),
        branch=choice("branch", *tables.branches()),
        version=_driver_version(reader, row.get("version"), f"{prefix}version"),
        flavour=choice("flavour", "open", "proprietary"),
        repository=choice("repository", *REPOSITORIES),
        modules=choice("modules", "dkms", "prebuilt"),
        forward_compat=flag("forward_compat"),
        adopt=flag("adopt"),
        local=tuple(_local(reader, row.get("local"), f"{prefix}local")),
        allow_in_container=flag("allow_in_container"),
        silent=tuple(
            reader.choice(item, f"{prefix}silent[{number}]", REPOSITORIES)
            for number, item in enumerate(reader.rows(row.get("silent"), f"{prefix}silent"))
        ),
        prefix=prefix,
    )
    if AUTO not in (wish.branch, wish.version) and wish.version.split(".")[0] != wish.branch:
        reader.fault(
            f"{prefix}version", wish.version, f"a version of the branch {wish.branch}",
            f"drop one of the two, or set {prefix}branch to {wish.version.split('.')[0]}", "contradiction",
        )  # fmt: skip
    if wish.repository == LOCAL and not wish.local:
        reader.fault(
            f"{prefix}repository", "local", f"what that repository carries in {prefix}local",
            f"list it there, as {{version: ..., layout: nvidia}}, or set {prefix}repository to auto",
            "contradiction",
        )  # fmt: skip
    return wish


def _driver_version(reader: _Reader, value: Any, path: str) -> str:
    if value is None or value == AUTO:
        return AUTO
    if isinstance(value, str) and _DRIVER.fullmatch(value):
        return value
    reader.fault(
        path, value, 'auto or a whole version in quotes such as "580.95.05"', "write all parts, quoted"
    )
    return AUTO


def _local(reader: _Reader, value: Any, path: str) -> Iterator[LocalDriver]:
    for number, item in enumerate(reader.rows(value, path)):
        here = f"{path}[{number}]"
        before = len(reader.problems)
        row = reader.mapping(item, here, ("version", "layout"), f"{here}.")
        version = _driver_version(reader, row.get("version"), f"{here}.version")
        layout = reader.choice(row.get("layout"), f"{here}.layout", LAYOUTS)
        if version == AUTO and len(reader.problems) == before:
            reader.fault(f"{here}.version", row.get("version"), "a whole version", "give it")
        if len(reader.problems) == before:
            yield LocalDriver(version, LAYOUTS[0] if layout == AUTO else layout)


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
            wanted = SpecifierSet(value)
        except InvalidSpecifier:
            wanted = SpecifierSet()
        if not len(wanted):
            reader.fault(path, value, expected, "write auto, one version, or a range")
            return AUTO, SpecifierSet(), None
        tagged = [item for item in wanted if "+" in item.version]
        if not tagged:
            return value, wanted, None
        if len(wanted) > 1 or tagged[0].operator not in ("==", "==="):
            reader.fault(path, value, expected, f'write a pin with a variant as "{tagged[0].version}"')
            return AUTO, SpecifierSet(), None
        return _torch(reader, tagged[0].version, path)
    if all(release.version != Version(version.public) for release in tables.releases()):
        names = [release.torch for release in tables.releases()]
        near = [name for name in names if Version(name).release[:2] == version.release[:2]] or names[:5]
        reader.fault(
            path,
            value,
            f"a release that the tables know, which are {names[-1]} to {names[0]}",
            f"take {' or '.join(near)}",
        )
        return AUTO, SpecifierSet(), None
    return value, SpecifierSet(f"=={version.public}"), version.local


def _companion(
    reader: _Reader, row: Mapping[str, Any], name: str, path: str
) -> Iterator[tuple[str, str | None]]:
    value = row.get(name)
    if value is True:
        yield name, None
    elif isinstance(value, str):
        try:
            yield name, Version(value).public
        except InvalidVersion:
            reader.fault(
                f"{path}.{name}", value, "true or false, or a version in quotes", "write one of them"
            )
    else:
        reader.flag(value, f"{path}.{name}")


def _environment(reader: _Reader, value: Any, path: str) -> EnvironmentWish | None:
    known = ("name", "python", "torch", "variant", "torchvision", "torchaudio")
    row = reader.mapping(value, path, known, f"{path}.")
    before = len(reader.problems)
    name, python = row.get("name"), row.get("python")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        reader.fault(
            f"{path}.name",
            name,
            "letters, digits, '.', '_', '+' and '-', with a letter or digit first",
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
    companions = tuple(
        item for key in ("torchvision", "torchaudio") for item in _companion(reader, row, key, path)
    )
    if len(reader.problems) > before:
        return None
    return EnvironmentWish(path, str(name), str(python), torch, wanted, variant, companions)


def _source(reader: _Reader, value: Any, path: str) -> Source | None:
    row = reader.mapping(
        value, path, ("name", "kind", "urls", "variants", "carries", "nvidia_urls"), f"{path}."
    )
    before = len(reader.problems)
    name, kind = row.get("name"), row.get("kind")
    if not isinstance(name, str) or not name:
        reader.fault(f"{path}.name", name, "a name", "name the source; reasons refer to it")
    kinds = (*KINDS, *tables.channel_kinds())
    if kind not in kinds:
        reader.fault(f"{path}.kind", kind, "one of " + ", ".join(kinds), "say what the URL serves")
    urls = reader.urls(row.get("urls"), f"{path}.urls")
    if not row.get("urls"):
        reader.fault(f"{path}.urls", row.get("urls"), "a list of one or more URLs", "give its URL")
    nvidia_urls = reader.urls(row.get("nvidia_urls"), f"{path}.nvidia_urls")
    if kind == PYTORCH_CHANNEL and not row.get("nvidia_urls"):
        reader.fault(
            f"{path}.nvidia_urls",
            row.get("nvidia_urls"),
            "the nvidia channel, from which pytorch-cuda takes CUDA itself",
            "give the URL of a mirror of it; TUNA has none",
        )
    variants = tuple(
        reader.choice(item, f"{path}.variants[{number}]", tables.variants())
        for number, item in enumerate(reader.rows(row.get("variants"), f"{path}.variants"))
    )
    carries = []
    for number, item in enumerate(reader.rows(row.get("carries"), f"{path}.carries")):
        try:
            carries.append(_wheel(item if isinstance(item, str) else ""))
        except InvalidVersion:
            reader.fault(
                f"{path}.carries[{number}]",
                item,
                f'a pinned build such as "torch=={tables.releases()[0].torch}+cpu"',
                "list each wheel as name==version, with +variant where its file name has one",
            )
    if len(reader.problems) > before:
        return None
    return Source(str(name), str(kind), urls, variants, tuple(carries) or None, nvidia_urls)


def _wheel(text: str) -> Wheel:
    """Reads ``name==version``; raises InvalidVersion when it is anything else."""
    match = _PINNED.fullmatch(text)
    version = Version(match[2] if match else "")
    return Wheel(canonicalize_name(match[1] if match else ""), version.public, version.local)


def read(value: Any, paths: Mapping[str, str] = PATHS) -> tuple[Wish, list[Problem]]:
    """The sound part of the wish, and every fault in the rest."""
    wish, problems = _read(canonical(value), tuple(paths.items()))
    return wish, [Problem(**item) for item in problems]


@lru_cache(maxsize=2048)
def _read(value: bytes, names: tuple[tuple[str, str], ...]) -> tuple[Wish, tuple[Problem, ...]]:
    """Many hosts of a fleet share one wish."""
    return _read_new(plain(marshal.loads(value)), dict(names))


def _read_new(value: Any, paths: Mapping[str, str]) -> tuple[Wish, tuple[Problem, ...]]:
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
    return wish, tuple(reader.problems)
