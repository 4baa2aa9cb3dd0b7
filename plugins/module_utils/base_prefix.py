"""What lies in a base prefix of conda, read from its files in milliseconds; conda takes a second to start."""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
from pathlib import Path
from typing import Any, Iterable, Iterator, NamedTuple

RECORD = re.compile(r"conda-(\d+\.\d+\.\d+)-[^-]+\.json\Z")
PYTHON = re.compile(r"python-3\.(\d+)\.[^-]*-[^-]+\.json\Z")
# Where people put a conda of their own, below their home and below these.
TOPS = ("/opt", "/usr/local", "/srv")
NAMES = ("miniconda3", "miniconda", "anaconda3", "anaconda", "miniforge3", "miniforge", "mambaforge", "conda")
# conda reads these below each of its places: condarc, .condarc and *.yml in condarc.d.
SYSTEM_PLACES = ("/etc/conda", "/var/lib/conda")
USER_PLACES = (".conda", ".config/conda")
ORIGIN = re.compile(r"^[^#\n]*\b(repo\.anaconda\.com|conda\.anaconda\.org)\b", re.M)


class Base(NamedTuple):
    version: str | None  # of conda, as recorded
    python: str | None  # the minor version of its Python
    damage: str | None  # why conda cannot work


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(str(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def look(prefix: Path) -> Base:
    meta = _names(prefix / "conda-meta")
    records = [name for name in meta if RECORD.match(name)]
    pythons = [match[1] for match in map(PYTHON.match, meta) if match]
    version = None
    if len(records) == 1:
        version = RECORD.sub(r"\1", records[0])
    return Base(version, pythons[0] if pythons else None, _damage(prefix, meta, records))


def _damage(prefix: Path, meta: list[str], records: list[str]) -> str | None:
    if "history" not in meta:
        return "conda-meta/history is missing"
    if len(records) != 1:
        return f"conda-meta has {len(records)} records of conda, expected one"
    conda = prefix / "bin" / "conda"
    if not os.access(str(conda), os.X_OK):
        return "bin/conda is missing or not executable"
    with conda.open("rb") as handle:
        shebang = re.match(rb"#!\s*(/\S+)", handle.readline(512))
    if shebang and not os.access(os.fsdecode(shebang[1]), os.X_OK):
        return f"the interpreter of bin/conda, {os.fsdecode(shebang[1])}, is missing"
    try:
        record = json.loads((prefix / "conda-meta" / records[0]).read_text(encoding="utf-8"))
    except ValueError:
        return f"conda-meta/{records[0]} is no JSON"
    files = [name for name in record.get("files", []) if not name.endswith(".pyc")]
    gone = [name for name in files if not os.path.lexists(str(prefix / name))]
    return f"{len(gone)} files of conda are missing, {gone[0]} the first" if gone else None


def environments(prefix: Path) -> list[str]:
    envs = prefix / "envs"
    return [str(envs / name) for name in _names(envs) if not name.startswith(".")]


def local_homes() -> list[str]:
    """Homes of the people in the host's own list: a directory service may have thousands, on file servers."""
    rows = (line.split(":") for line in Path("/etc/passwd").read_text(encoding="utf-8").splitlines())
    people = (row for row in rows if len(row) == 7 and row[2].isdigit())
    people = (row for row in people if row[2] == "0" or 1000 <= int(row[2]) < 60000)
    return sorted({row[5] for row in people if row[5].startswith("/") and row[5] != "/"})


def elsewhere(homes: Iterable[str], prefix: Path) -> list[dict[str, Any]]:
    """The installations of conda that are none of ours."""
    found = []
    for path in (Path(top, name) for top in (*homes, *TOPS) for name in NAMES):
        try:
            if path == prefix or not (path / "conda-meta" / "history").is_file():
                continue
            found.append(
                {
                    "prefix": str(path),
                    "version": look(path).version,
                    "owner": _owner(path.stat().st_uid),
                    "environments": len(environments(path)),
                }
            )
        except OSError:  # a home that root may not read
            continue
    return found


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _condarcs(place: Path) -> Iterator[Path]:
    yield from (place / ".condarc", place / "condarc")
    names = (name for name in _names(place / "condarc.d") if name.endswith((".yml", ".yaml", "condarc")))
    yield from (place / "condarc.d" / name for name in names)


def naming_the_origin(prefix: Path, homes: Iterable[str]) -> list[str]:
    """Configuration of conda that names Anaconda's own servers, of the system and of these homes."""
    places = [
        *map(Path, SYSTEM_PLACES),
        prefix,
        *(Path(home, place) for home in homes for place in USER_PLACES),
    ]
    paths = [path for place in places for path in _condarcs(place)]
    paths += [Path(home, ".condarc") for home in homes]
    return [str(path) for path in paths if _names_the_origin(path)]


def _names_the_origin(path: Path) -> bool:
    try:
        status = path.stat()
        # A home is its owner's: what lies there may be a pipe, or endless.
        if not stat.S_ISREG(status.st_mode) or status.st_size > 1 << 20:
            return False
        return bool(ORIGIN.search(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False
