# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""A bundle: a directory with every file that a fleet needs, in the layout of the mirrors that it stands for.

C(manifest.json) tells what is in it and for which requests; pip's, conda's and apt's indexes are made of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import html
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, Container, Iterable, Iterator, Mapping, NamedTuple, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import write_whole
from ansible_collections.torchfleet.gpu.plugins.module_utils.download import CHUNK
from ansible_collections.torchfleet.gpu.plugins.module_utils.pip_spec import normalise

FORMAT = 1
MANIFEST = "manifest.json"
WHEELS, INSTALLERS, CONDA, SIMPLE, APT = "wheels", "installers", "anaconda", "pypi/simple", "apt"
_TOPS = sorted(top.split("/")[0] for top in (WHEELS, INSTALLERS, CONDA, SIMPLE, APT))
APT_CONFIGURATION = f"{APT}/apt.conf"
# The driver's repository alone, by a list and a cache of its own: what else the host has is out of reach.
_APT = """\
Dir::Etc::sourcelist "/etc/apt/sources.list.d/torchfleet-nvidia.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "lists-torchfleet/";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""
# FAT32 has no larger files.
_PIECE = (4 << 30) - 1
_PIECES = re.compile(r"(.+)\.piece-(\d+)-of-(\d+)\Z")


class BundleError(Exception):
    """The directory is no bundle that can be used; says why and what to do."""


class Fault(NamedTuple):
    path: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}, expected {self.expected}"


@contextlib.contextmanager
def alone(directory: str) -> Iterator[None]:
    """While it lasts no other run changes the bundle; BundleError where one does already."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(
                f"Another run is making the bundle in {directory}; one whose controller was killed goes on. "
                "Wait until it has ended, and run again: nothing is fetched twice"
            ) from None
        yield
    finally:
        os.close(handle)


def empty() -> dict[str, Any]:
    return {"torchfleet_bundle": FORMAT, "complete": False, "requests": {}, "channels": [], "files": {}}


def parse(text: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        version = found["torchfleet_bundle"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{place} is no manifest of a bundle ({error!r})") from error
    if version != FORMAT:
        raise BundleError(f"{place} is of the format {version}, expected {FORMAT}: make the bundle again")
    for path in found["files"]:
        if path.startswith("/") or ".." in path.split("/"):
            raise BundleError(f"{place} names {path!r}, expected a path within the bundle")
    return dict(found)


def read(directory: str) -> dict[str, Any]:
    path = Path(directory, MANIFEST)
    try:
        return parse(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise BundleError(
            f"{error}: expected a bundle in {directory} (playbooks/bundle.yml makes one)"
        ) from error


def write(directory: str, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    write_whole(Path(directory, MANIFEST), text, 0o644)


def needed(manifest: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """The files of these requests, each once."""
    requests = manifest["requests"]
    return sorted({path for key in keys if key in requests for path in requests[key]["files"]})


def narrowed(manifest: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The manifest of what these requests need."""
    return {
        **manifest,
        "requests": {key: manifest["requests"][key] for key in keys if key in manifest["requests"]},
        "files": {path: manifest["files"][path] for path in needed(manifest, keys)},
    }


# -- indexes


def indexes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The indexes of what is in the manifest, by path."""
    return {**_simple(manifest), **_repodata(manifest), **_packages(manifest)}


def write_indexes(directory: str, manifest: Mapping[str, Any]) -> bool:
    """Whether one of them was not as it should be."""
    changed = False
    for name, text in indexes(manifest).items():
        path = Path(directory, name)
        if not path.is_file() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text, 0o644)
            changed = True
    return changed


def _simple(manifest: Mapping[str, Any]) -> dict[str, str]:
    """As PEP 503 wants it."""
    pages: dict[str, list[str]] = {}
    for path, row in sorted(manifest["files"].items()):
        if path.startswith(f"{WHEELS}/"):
            file = path.rpartition("/")[2]
            link = f"../../../{WHEELS}/{file.replace('+', '%2B')}#sha256={row['sha256']}"
            pages.setdefault(normalise(file.partition("-")[0]), []).append(
                f'<a href="{html.escape(link)}">{html.escape(file)}</a><br>\n'
            )
    body = "<!DOCTYPE html>\n<html><body>\n{}</body></html>\n"
    names = "".join(f'<a href="{name}/index.html">{name}</a><br>\n' for name in pages)
    return {
        **{f"{SIMPLE}/{name}/index.html": body.format("".join(lines)) for name, lines in pages.items()},
        f"{SIMPLE}/index.html": body.format(names),
    }


def _repodata(manifest: Mapping[str, Any]) -> dict[str, str]:
    tables: dict[tuple[str, str], dict[str, Any]] = {
        (channel, "noarch"): {} for channel in manifest["channels"]
    }
    subdirs = {path.split("/")[-2] for path in manifest["files"] if path.startswith(f"{CONDA}/")}
    for channel in manifest["channels"]:
        tables.update({(channel, subdir): {} for subdir in subdirs})
    for path, row in manifest["files"].items():
        if path.startswith(f"{CONDA}/"):
            channel, subdir, file = path[len(CONDA) + 1 :].rsplit("/", 2)
            table = tables.setdefault((channel, subdir), {})
            tables.setdefault((channel, "noarch"), {})
            if row.get("record"):
                table[file] = row["record"]
    found = {}
    for (channel, subdir), table in tables.items():
        parts = {
            kind: {file: record for file, record in table.items() if file.endswith(end)}
            for kind, end in (("packages", ".tar.bz2"), ("packages.conda", ".conda"))
        }
        document = {"info": {"subdir": subdir}, **parts, "removed": [], "repodata_version": 1}
        found[f"{CONDA}/{channel}/{subdir}/repodata.json"] = json.dumps(document, sort_keys=True) + "\n"
    return found


def _packages(manifest: Mapping[str, Any]) -> dict[str, str]:
    """A flat repository for each system; nothing signs it, the manifest has the hash of each package."""
    lists: dict[str, list[str]] = {}
    for path, row in sorted(manifest["files"].items()):
        if path.startswith(f"{APT}/"):
            directory, _, file = path.rpartition("/")
            lists.setdefault(directory, []).append(
                re.sub(r"(?m)^Filename: .*$", f"Filename: ./{file}", row["control"])
            )
    found = {APT_CONFIGURATION: _APT} if lists else {}
    for directory, stanzas in lists.items():
        text = "".join(stanza.strip() + "\n\n" for stanza in stanzas)
        data = text.encode()
        found[f"{directory}/Packages"] = text
        found[f"{directory}/Release"] = (
            "Origin: torchfleet-bundle\nLabel: torchfleet-bundle\nDate: Thu, 01 Jan 1970 00:00:00 UTC\n"
            f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} Packages\n"
        )
    return found


# -- what is there


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(CHUNK), b""):
            found.update(chunk)
    return found.hexdigest()


def lacking(directory: str, files: Mapping[str, Any]) -> list[str]:
    """Those that are not there in their size; a look, no proof."""
    found = []
    for path, row in sorted(files.items()):
        try:
            whole = Path(directory, path).stat().st_size == row["size"]
        except OSError:
            whole = False
        if not whole:
            found.append(path)
    return found


def verify(directory: str, manifest: Mapping[str, Any]) -> list[Fault]:
    """Every file that is missing or not as the manifest has it."""
    faults = []
    for name, row in sorted(manifest["files"].items()):
        path = Path(directory, name)
        expected = f"{row['size']} bytes with sha256 {row['sha256']}"
        if not path.is_file():
            faults.append(Fault(name, "missing", expected))
        elif path.stat().st_size != row["size"]:
            faults.append(Fault(name, f"{path.stat().st_size} bytes", expected))
        else:
            found = digest(path)
            if found != row["sha256"]:
                faults.append(Fault(name, f"sha256 {found}", expected))
    for name, text in sorted(indexes(manifest).items()):
        path = Path(directory, name)
        if not path.is_file() or path.read_text("utf-8", "replace") != text:
            faults.append(Fault(name, "missing or changed", "the index that the manifest gives"))
    return faults


def strays(directory: str, manifest: Mapping[str, Any]) -> list[str]:
    """Files below the bundle's own directories that nothing needs."""
    known = {*manifest["files"], *indexes(manifest)}
    found = []
    for top in _TOPS:
        for path in sorted(Path(directory, top).rglob("*")):
            name = str(path.relative_to(directory))
            if path.is_file() and name not in known:
                found.append(name)
    return found


def licence_of_wheel(path: Path) -> str:
    """What the wheel says of its licence."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(one for one in archive.namelist() if re.match(r"[^/]+\.dist-info/METADATA\Z", one))
            head = archive.read(name).decode("utf-8", "replace").partition("\n\n")[0]
    except (OSError, zipfile.BadZipFile, StopIteration):
        return "not told"
    for field in ("License-Expression", "License"):
        match = re.search(rf"^{field}: (.+)$", head, re.M)
        if match:
            return match.group(1).strip()[:200]
    classifiers = re.findall(r"^Classifier: License :: (.+)$", head, re.M)
    return "; ".join(one.rpartition(":: ")[2] for one in classifiers)[:200] or "not told"


# -- volumes


def split(directory: str, target: str, size: int, piece: int = _PIECE) -> list[str]:
    """Lays the bundle into C(target)/1, 2, ... of at most C(size) bytes each; one manifest in each.

    What an earlier split left there goes first, for it would take the room.
    """
    manifest = read(directory)
    overhead = Path(directory, MANIFEST).stat().st_size
    room = size - overhead
    if room < 1 << 20:
        raise BundleError(f"volumes of {size} bytes hold nothing beside the manifest of {overhead} bytes")
    piece = min(piece, room)
    volumes: list[list[tuple[str, int, int, int, int]]] = [[]]  # path, offset, length, number, count
    for path, row in sorted(manifest["files"].items(), key=lambda item: -item[1]["size"]):
        count = max(1, -(-row["size"] // piece))
        for number in range(count):
            length = min(piece, row["size"] - number * piece)
            place = next((one for one in volumes if sum(part[2] for part in one) + length <= room), None)
            if place is None:
                place = []
                volumes.append(place)
            place.append((path, number * piece, length, number, count))
    for path in Path(target).glob(f"[0-9]*/{MANIFEST}"):
        if path.parent.name.isdigit() and int(path.parent.name) > len(volumes):
            _clear(path.parent, ())
            path.unlink()
            with contextlib.suppress(OSError):  # there is more in it, which is not ours
                path.parent.rmdir()
    made = []
    for number, parts in enumerate(volumes, 1):
        volume = Path(target, str(number))
        volume.mkdir(parents=True, exist_ok=True)
        named = {
            part[0] if part[4] == 1 else f"{part[0]}.piece-{part[3] + 1}-of-{part[4]}": part for part in parts
        }
        _clear(volume, named)
        write(str(volume), manifest)
        for name, (path, offset, length, _, _) in named.items():
            _lay(Path(directory, path), volume / name, offset, length)
        made.append(str(volume))
    return made


def _clear(volume: Path, keep: Container[str]) -> None:
    for top in _TOPS:
        for path in [*sorted(Path(volume, top).rglob("*"), reverse=True), Path(volume, top)]:
            if path.is_dir():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif path.is_file() and str(path.relative_to(volume)) not in keep:
                path.unlink()


def _lay(source: Path, dest: Path, offset: int, length: int) -> None:
    """A link where the whole file goes and the file system allows it, else a copy.

    What is there with the time of its source stays; size alone would keep another version.
    """
    was = source.stat()
    if dest.is_file():
        found = dest.stat()
        if (found.st_size, found.st_mtime_ns) == (length, was.st_mtime_ns):
            return
        dest.unlink()
    dest.parent.mkdir(parents=True, exist_ok=True)
    if offset == 0 and length == was.st_size:
        try:
            os.link(str(source), str(dest))
            return
        except OSError:
            pass  # another file system
    with source.open("rb") as reader, Path(f"{dest}.part").open("wb") as writer:
        reader.seek(offset)
        _copy(reader, writer, length)
    os.utime(f"{dest}.part", ns=(was.st_atime_ns, was.st_mtime_ns))
    Path(f"{dest}.part").replace(dest)


def _copy(reader: Any, writer: Any, length: int) -> None:
    while length:
        chunk = reader.read(min(CHUNK, length))
        if not chunk:
            raise BundleError(f"{reader.name} is too short: {length} bytes are missing (verify the bundle)")
        writer.write(chunk)
        length -= len(chunk)


def join(directory: str, volumes: Sequence[str]) -> list[str]:
    """Takes what the volumes have, now or by several calls; returns what is still missing."""
    manifest = read(volumes[0])
    have = Path(directory, MANIFEST)
    if have.is_file() and read(directory)["files"] != manifest["files"]:
        raise BundleError(
            f"{volumes[0]} is of another bundle than the one in {directory}: join into a new directory"
        )
    Path(directory).mkdir(parents=True, exist_ok=True)
    for volume in volumes:
        if read(volume)["files"] != manifest["files"]:
            raise BundleError(f"{volume} is of another bundle than {volumes[0]}")
        for source in sorted(path for path in Path(volume).rglob("*") if path.is_file()):
            name = str(source.relative_to(volume))
            match = _PIECES.match(name)
            path = match.group(1) if match else name
            if path in manifest["files"] and not _there(directory, path, manifest):
                _lay(source, Path(directory, name), 0, source.stat().st_size)
    for path in manifest["files"]:
        if not _there(directory, path, manifest):
            _assemble(Path(directory, path), manifest["files"][path]["size"])
    write(directory, manifest)
    write_indexes(directory, manifest)
    return lacking(directory, manifest["files"])


def _there(directory: str, path: str, manifest: Mapping[str, Any]) -> bool:
    return not lacking(directory, {path: manifest["files"][path]})


def _assemble(dest: Path, size: int) -> None:
    pieces = {}
    for path in dest.parent.glob("*.piece-*"):
        match = _PIECES.match(path.name)
        if match and match.group(1) == dest.name:
            pieces[int(match.group(2))] = (path, int(match.group(3)))
    if not pieces or len(pieces) != next(iter(pieces.values()))[1]:
        return
    with Path(f"{dest}.part").open("wb") as writer:
        for number in sorted(pieces):
            with pieces[number][0].open("rb") as reader:
                shutil.copyfileobj(reader, writer, CHUNK)
    if Path(f"{dest}.part").stat().st_size == size:
        Path(f"{dest}.part").replace(dest)
        for path, _ in pieces.values():
            path.unlink()
