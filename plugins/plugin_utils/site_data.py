"""Data of a site, merged over the collection's tables: a new GPU, driver or system needs no other collection.

The directory that the environment variable TORCHFLEET_DATA names has files of the names of ``data/``, each
with no more than what is new or differs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.data_checks import faults
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import closest
from packaging.version import Version

VARIABLE = "TORCHFLEET_DATA"
SUFFIXES = (".yml", ".yaml", ".json")
ROLES = ("mirrors", "nvidia_driver")  # directories with variables of operating systems, for these roles
# What a row of a list goes by: the first of these that it has whole.
NAMES = (
    ("torch",),
    ("variant",),
    ("branch",),
    ("from",),
    ("ids", "version"),
    ("capabilities",),
    ("devices",),
    ("first", "last"),
    ("package",),
    ("built", "device"),
    ("kind",),
)
# Mappings by machine, variant and the like, whose keys are not fixed.
FREE = {
    "aliases", "capabilities", "chips", "confidence", "cpu_specs", "devices", "dkms", "first_branch", "ids",
    "layouts", "linux", "machine_directories", "prebuilt", "pypi", "python", "sources", "specs", "stream",
}  # fmt: skip
ADDED = {"data_centre.names"}  # lists to which the site's are added; another list is replaced
TYPES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping",
         list: "a list", type(None): "null"}  # fmt: skip
Json = dict[str, Any]


class SiteDataError(ValueError):
    """All that is wrong with the data of the site."""


def directory() -> Path | None:
    """Where the data of the site are."""
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else None


def parse(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def merged(data: Path, site: Path) -> dict[str, Any]:
    """Every table of ``data``, by the stem of its file, with those of the site merged over it."""
    tables = {path.stem: parse(path) for path in sorted(data.iterdir()) if path.suffix in SUFFIXES}
    wrong: list[str] = []
    for path in _files(site, tables, wrong):
        try:
            given = parse(path)
        except (OSError, ValueError, yaml.YAMLError) as error:
            wrong.append(f"{path.name}: neither YAML nor JSON: {' '.join(str(error).split())}")
            continue
        free = FREE | ({"glibc"} if path.stem == "torch" else set())
        merge = _Merge(path.name, free, wrong)
        tables[path.stem] = merge.value(tables[path.stem], given, [tables[path.stem]], "")
    # The rest looks at what the rows say, and takes their shape for granted.
    wrong = wrong or faults(tables)
    if wrong:
        raise SiteDataError(
            f"{VARIABLE}: the data in {site} are wrong; mend them there:\n  " + "\n  ".join(wrong)
        )
    return tables


def _files(site: Path, tables: Json, wrong: list[str]) -> Iterator[Path]:
    if not site.is_dir():
        wrong.append(f"found no such directory, expected one with files such as {', '.join(sorted(tables))}")
        return
    for path in sorted(site.iterdir()):
        if path.name in ROLES or path.name.startswith((".", "README")):
            continue
        if path.suffix in SUFFIXES and path.stem in tables:
            yield path
        else:
            guess = closest(path.stem, tables)
            meant = f"; did you mean {guess}.yml?" if guess else ""
            wrong.append(f"{path.name}: no table has this name, expected {', '.join(sorted(tables))}{meant}")


class _Merge:
    """One file over its table. What the table has at the same place tells what can be there."""

    def __init__(self, file: str, free: set[str], wrong: list[str]) -> None:
        self.file = file
        self.free = free
        self.wrong = wrong

    def _say(self, where: str, text: str) -> None:
        self.wrong.append(f"{self.file}: {where + ': ' if where else ''}{text}")

    def value(self, old: Any, new: Any, like: list[Any], where: str, whole: bool = False) -> Any:
        """``whole``: there is nothing of this name yet, so nothing may be left out."""
        kinds = {type(item) for item in like}
        if kinds and type(new) not in kinds:
            expected = " or ".join(sorted(TYPES.get(kind, kind.__name__) for kind in kinds))
            self._say(where, f"found {new!r}, expected {expected}" + (" (quote it)" if str in kinds else ""))
        elif isinstance(new, dict):
            like = [item for item in like if isinstance(item, dict)]
            return self._mapping(old if isinstance(old, dict) else {}, new, like, where, whole)
        elif isinstance(new, list):
            like = [item for rows in like if isinstance(rows, list) for item in rows]
            if any(isinstance(item, dict) for item in [*new, *like]):
                return self._rows(old if isinstance(old, list) else [], new, like, where)
            for number, item in enumerate(new):
                self.value(None, item, like, f"{where}[{number}]")
            if where in ADDED:
                return [*old, *(item for item in new if item not in old)]
        return new

    def _mapping(self, old: Json, new: Json, like: list[Json], where: str, whole: bool) -> Json:
        free = where.rsplit(".", 1)[-1] in self.free
        known = {key for item in like for key in item}
        result = dict(old)
        for key, item in new.items():
            path = f"{where}.{key}" if where else str(key)
            if not isinstance(key, str):
                self._say(where, f"found the key {key!r}, expected a text (quote it)")
            elif known and not free and key not in known:
                guess = closest(key, known)
                meant = f"; did you mean {guess}?" if guess else ""
                self._say(path, f"no such key, expected {', '.join(sorted(known))}{meant}")
            else:
                examples = [v for row in like for k, v in row.items() if free or k == key]
                result[key] = self.value(old.get(key), item, examples, path, whole or key not in old)
        if whole and not free and like:
            needed = set.intersection(*(set(item) for item in like))
            for key in sorted(needed - set(result)):
                self._say(f"{where}.{key}", "missing")
        return dict(sorted(result.items())) if where == "devices" else result

    def _rows(self, old: list[Any], new: list[Any], like: list[Any], where: str) -> list[Any]:
        result = list(old)
        for number, row in enumerate(new):
            named = _name(row)
            if named is None:
                self._say(f"{where}[{number}]", f"found {row!r}, which lacks what rows here go by")
                continue
            label = (
                f"{where}[{' '.join(part if isinstance(part, str) else ','.join(part) for part in named[1])}]"
            )
            there = next((index for index, item in enumerate(result) if _name(item) == named), None)
            if there is None:
                result.append(self.value({}, row, like, label, whole=True))
            else:
                result[there] = self.value(result[there], row, like, label)
        order = [_order(row) for row in old]
        if order and None not in order and order == sorted(order):  # type: ignore[type-var]
            result.sort(key=lambda row: _order(row) or Version("0"))
        return result


def _name(row: Any) -> tuple[tuple[str, ...], list[Any]] | None:
    if isinstance(row, dict):
        for keys in NAMES:
            if all(key in row for key in keys):
                return keys, [row[key] for key in keys]
    return None


def _order(row: Any) -> Version | None:
    """The version that a list of rows may be in the order of."""
    named = _name(row)
    if named and named[0] in (("torch",), ("branch",), ("from",)):
        try:
            return Version(str(named[1][0]))
        except ValueError:
            return None
    return None
