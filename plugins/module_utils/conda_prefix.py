# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""What an environment holds, read from its files without starting conda; its lock and its journal."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils import pip_marker, pip_spec
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_spec import Record
from ansible_collections.torchfleet.gpu.plugins.module_utils.pip_spec import normalise

# The kernel reads 127 characters of a shebang, and scripts start with #!PREFIX/bin/python3.12.
SHEBANG_MAX = 127
_LONGEST_INTERPRETER = "#!/bin/python3.12"
# What conda writes for a variable that it shall unset.
UNSET = "***unset***"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\Z")
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_.+@%=,-]+)+\Z")


class PrefixError(Exception):
    """The prefix cannot be what was asked for; the text says why and what to do."""


class Busy(Exception):
    """Another process holds the lock; the text says which."""


def resolve_prefix(name: str | None, prefix: str | None, conda_prefix: str, directory: str) -> str:
    """The absolute path of the environment; PrefixError for one that conda could or should not make."""
    _check_path("conda_prefix", conda_prefix)
    if name is not None:
        if name in ("base", "root"):
            raise PrefixError(
                f"name '{name}' is the base installation, which this module never changes; name another"
            )
        if not _NAME.match(name) or ".." in name:
            raise PrefixError(
                f"name '{name}' is no environment name: expected letters, digits and _ . + -, not starting "
                "with . + or - and without '..'; use prefix for a path"
            )
        path = f"{directory}/{name}"
    else:
        path = prefix or ""
        _check_path("prefix", path)
    path = os.path.normpath(path)
    longest = SHEBANG_MAX - len(_LONGEST_INTERPRETER)
    if len(path) > longest:
        raise PrefixError(
            f"prefix {path} has {len(path)} characters, at most {longest} are possible: the kernel cuts "
            "longer interpreter lines and every script of the environment would fail"
        )
    base, real = os.path.realpath(conda_prefix), os.path.realpath(path)
    if real == base or base.startswith(real.rstrip("/") + "/"):
        raise PrefixError(f"prefix {path} is or holds the base installation {conda_prefix}; name another")
    if Path(path, "condabin").exists() and Path(path, "envs").is_dir():
        raise PrefixError(f"prefix {path} is a base installation of conda, not an environment; name another")
    return path


def _check_path(option: str, path: str) -> None:
    if not path.startswith("/"):
        raise PrefixError(f"{option} '{path}' is not an absolute path")
    if ".." in path.split("/") or not _PLAIN_PATH.match(os.path.normpath(path)):
        raise PrefixError(
            f"{option} '{path}' holds '..', blanks or other characters that break the scripts of an "
            "environment; expected letters, digits and _ . + @ % = , -"
        )


class Dist(NamedTuple):
    """An installed Python distribution."""

    name: str  # normalised
    version: str
    path: Path  # its dist-info or egg-info

    def url(self) -> str | None:
        try:
            return str(json.loads(self._text("direct_url.json"))["url"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def requires(self) -> list[str] | None:
        """The lines Requires-Dist of its metadata; None for a form without them."""
        if self.path.suffix != ".dist-info":
            return None
        try:
            head = self._text("METADATA").partition("\n\n")[0]
        except (OSError, ValueError):
            return None
        return re.findall(r"^Requires-Dist:\s*(.+?)\s*$", head, re.M)

    def of_conda(self) -> bool:
        try:
            return self._text("INSTALLER").strip() == "conda"
        except (OSError, ValueError):
            # Only conda packages still come with egg-info.
            return self.path.suffix == ".egg-info"

    def complete(self) -> bool:
        """Whether every file is there that has a digest; byte code has none and comes and goes."""
        try:
            return all(os.path.lexists(self.path.parent / name) for name in self.files())
        except (OSError, ValueError):
            return False

    def files(self) -> list[str]:
        """Those that have a digest, relative to its directory's; OSError or ValueError without RECORD."""
        lines = self._text("RECORD").splitlines()
        names = []
        for line in lines:
            name, _, rest = line.rpartition(",")[0].rpartition(",")
            if rest:
                names.append(name.strip('"').replace('""', '"'))
        return names

    def _text(self, name: str) -> str:
        return (self.path / name).read_text("utf-8")


class Orphans(NamedTuple):
    conda: list[str]
    pip: list[str]


class Prefix:
    """One environment on disk. What it holds is read once; make another to see what changed."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.exists = os.path.lexists(path)
        self.whole = (self.path / "conda-meta" / "history").is_file()
        self.conda: dict[str, Record] = {}
        self.broken_records: list[Path] = []
        self.dists: dict[str, Dist] = {}
        self.broken_dists: list[Dist] = []
        if self.whole:
            self._read_conda_meta()
            self._read_dists()

    def satisfied(
        self, requirement: pip_spec.Requirement, seen: frozenset[tuple[Any, ...]] = frozenset()
    ) -> bool | None:
        """Judges extras and markers too; None means that only pip can tell."""
        if requirement.marker is not None:
            try:
                if not pip_marker.evaluate(requirement.marker, self.marker_values()):
                    return True
            except pip_marker.MarkerError:
                return None
        dist = self.dists.get(requirement.name)
        url = dist.url() if dist and requirement.url else None
        plain = requirement._replace(marker=None, extras=())
        verdict = plain.satisfied(dist.version if dist else None, url)
        if verdict is not True or dist is None or not requirement.extras:
            return verdict
        key = (dist.name, requirement.extras)
        if key in seen:
            return True
        needed = self.requirements_of(dist, requirement.extras)
        if needed is None:
            return None
        verdicts = [self.satisfied(one, seen | {key}) for one in needed]
        return False if False in verdicts else None if None in verdicts else True

    def marker_values(self) -> dict[str, str]:
        record = self.conda.get("python")
        return pip_marker.environment(record.version if record else "")

    def requirements_of(self, dist: Dist, extras: Sequence[str] = ()) -> list[pip_spec.Requirement] | None:
        """What the distribution requires here, with the extras; None where it cannot be read."""
        lines = dist.requires()
        if lines is None:
            return None
        values = self.marker_values()
        result = []
        for line in lines:
            try:
                one = pip_spec.parse(line)
                wanted = one.marker is None or any(
                    pip_marker.evaluate(one.marker, values, extra) for extra in ("", *extras)
                )
            except (pip_spec.RequirementError, pip_marker.MarkerError):
                return None
            if wanted:
                result.append(one._replace(marker=None))
        return result

    def meta(self, record: Record) -> dict[str, Any]:
        return _load(self.path / "conda-meta" / "{}-{}-{}.json".format(*record[:3]))

    def variables(self) -> dict[str, str]:
        """What conda sets upon activation."""
        content = _load(self.path / "conda-meta" / "state").get("env_vars")
        return {str(key): str(value) for key, value in (content or {}).items() if value != UNSET}

    def orphans(self, packages: Iterable[str], requirements: Sequence[pip_spec.Requirement]) -> Orphans:
        """What neither the packages nor the requirements need, by what each says it depends on."""
        metas = {name: self.meta(record) for name, record in self.conda.items()}
        owners = {
            name.rsplit("/", 2)[-2]: package
            for package, meta in metas.items()
            for name in meta.get("files") or []
            if name.endswith((".dist-info/METADATA", ".egg-info/PKG-INFO"))
        }
        seen: set[tuple[Any, ...]] = set()
        queue = list(requirements)
        while queue:
            requirement = queue.pop()
            dist = self.dists.get(requirement.name)
            if dist is None or (dist.name, requirement.extras) in seen:
                continue
            seen.add((dist.name, requirement.extras))
            needed = self.requirements_of(dist, requirement.extras)
            if needed is None:
                return Orphans([], [])  # who cannot tell keeps all
            queue += needed
        kept_dists = {name for name, _ in seen}
        names = {*packages, *(owners.get(self.dists[one].path.name, one) for one in kept_dists)}
        kept: set[str] = set()
        while names:
            name = names.pop()
            if name not in kept and name in metas:
                kept.add(name)
                names.update(str(one).split()[0].lower() for one in metas[name].get("depends") or [])
        return Orphans(
            conda=sorted(set(self.conda) - kept),
            pip=sorted(dist.name for dist in self.pip_dists() if dist.name not in kept_dists),
        )

    @property
    def python(self) -> str:
        return str(self.path / "bin" / "python")

    def is_empty(self) -> bool:
        """Whether it holds nothing, or what a killed create of conda leaves: an empty conda-meta."""
        if self.path.is_symlink() or not self.path.is_dir():
            return False
        entries = list(self.path.iterdir())
        return not entries or (
            entries == [self.path / "conda-meta"] and entries[0].is_dir() and not any(entries[0].iterdir())
        )

    def _read_conda_meta(self) -> None:
        with os.scandir(self.path / "conda-meta") as entries:
            for entry in entries:
                # The file name is name-version-build: conda itself refuses a record where it is not.
                parts = entry.name[: -len(".json")].rsplit("-", 2)
                if not entry.name.endswith(".json") or len(parts) != 3:
                    continue
                path = Path(entry.path)
                if _ends_with_brace(path):
                    self.conda[parts[0]] = Record(parts[0], parts[1], parts[2], _channel_reader(path))
                else:
                    self.broken_records.append(path)

    def _read_dists(self) -> None:
        record = self.conda.get("python")
        if record is None:
            return
        short = ".".join(record.version.split(".")[:2])
        for suffix in ("", "t"):  # 3.13t: free-threaded
            directory = self.path / "lib" / f"python{short}{suffix}" / "site-packages"
            if directory.is_dir():
                break
        else:
            return
        with os.scandir(directory) as entries:
            for entry in entries:
                self._read_dist(entry)

    def _read_dist(self, entry: os.DirEntry[str]) -> None:
        stem, _, kind = entry.name.rpartition(".")
        if kind not in ("dist-info", "egg-info"):
            return
        if kind == "egg-info":
            stem = re.sub(r"-py[0-9.]+\Z", "", stem)
        name, dash, version = stem.partition("-")
        # pip renames to ~ame-version.dist-info what it is about to replace.
        if not dash or not name or name.startswith("~"):
            return
        dist = Dist(normalise(name), version, Path(entry.path))
        has_metadata = os.access(f"{entry.path}/METADATA", os.F_OK)
        # Some conda packages come without RECORD; pip and uv write it, so theirs was cut short.
        if kind == "egg-info" or (
            has_metadata and (os.access(f"{entry.path}/RECORD", os.F_OK) or dist.of_conda())
        ):
            self.dists[dist.name] = dist
        else:
            self.broken_dists.append(dist)

    def missing_files(self) -> tuple[list[Record], list[Dist]]:
        """The packages that lack files of theirs: a look at every file, for an environment in doubt."""
        records = []
        for record in self.conda.values():
            content = _load(self.path / "conda-meta" / "{}-{}-{}.json".format(*record[:3]))
            if not all(os.path.lexists(self.path / name) for name in content.get("files") or []):
                records.append(record)
        dists = [dist for dist in self.pip_dists() if not dist.complete()]
        return records, self.broken_dists + dists

    def pip_dists(self) -> list[Dist]:
        return [dist for dist in self.dists.values() if not dist.of_conda()]

    def listing(self) -> list[str]:
        """Every package as one line, for people and for the diff."""
        lines = ["conda {} {} {}".format(*record[:3]) for record in self.conda.values()]
        return sorted(lines + [f"pip {dist.name} {dist.version}" for dist in self.pip_dists()])


def _ends_with_brace(path: Path) -> bool:
    # A power loss leaves empty or cut records; the last byte tells without parsing a megabyte.
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16))
            return file.read().rstrip().endswith(b"}")
    except OSError:
        return False


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _channel_reader(path: Path) -> Callable[[], str]:
    def read() -> str:
        record = _load(path)
        return str(record.get("url") or "").rpartition("/")[0] or str(record.get("channel") or "")

    return read


class Journal:
    """Says, beside the prefix, that a change is under way; one that is left tells of an interruption."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.path = Path(prefix).parent / f".torchfleet-{Path(prefix).name}.json"

    def read(self) -> str | None:
        """The operation that was interrupted: create, install or pip."""
        try:
            owner = self.path.lstat().st_uid
        except (FileNotFoundError, NotADirectoryError):
            return None
        if owner not in (0, os.geteuid()):
            raise PrefixError(f"{self.path} belongs to user {owner}: remove it after a look")
        # A journal that a power loss cut still tells that something was under way.
        return str(_load(self.path).get("operation") or "install")

    def write(self, operation: str) -> None:
        content = {"operation": operation, "prefix": self.prefix, "pid": os.getpid(), "since": time.time()}
        write_whole(self.path, json.dumps(content), 0o600)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def write_whole(path: Path, text: str, mode: int) -> None:
    """The file is there as it was or with the whole text, whatever happens."""
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise


@contextlib.contextmanager
def locked(prefix: str, wait: float) -> Iterator[int]:
    """Holds the lock of the prefix and yields its descriptor.

    Give the descriptor to every child that changes the environment: should this process be killed, the
    lock stays until the child has ended as well, and no second conda meets the first one's work.
    """
    path = Path(prefix).parent / f".torchfleet-{Path(prefix).name}.lock"
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() >= deadline:
                    raise Busy(_holder(descriptor, path, wait)) from error
            time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {int(time.time())}".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _holder(descriptor: int, path: Path, wait: float) -> str:
    fields = os.pread(descriptor, 64, 0).decode("ascii", "replace").split()
    who = "another process"
    if len(fields) == 2 and fields[1].isdigit():
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(fields[1])))
        who = f"process {fields[0]} (or a conda, pip or uv that it started) since {since}"
    return f"{path} is held by {who}; waited {wait:.0f} s"
