# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""The wheels of a build: which they are, how large, and how they get into the store of a host."""

from __future__ import annotations

import hashlib
import html
import os
import re
import urllib.parse
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Iterable, Mapping, NamedTuple, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils.download import (
    Web,
    available,
    download,
    peek,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.pip_spec import normalise

# More connections take a mirror's bandwidth from other hosts and bring no more.
PARALLEL = 4
_PAGE = 32 << 20
_MARK = "unpacked"


class Wheel(NamedTuple):
    name: str  # normalised
    version: str
    url: str  # http(s), or the path of a file
    sha256: str  # empty where the source gives none
    size: int | None = None

    @property
    def file(self) -> str:
        return file_of(self.url)

    @property
    def remote(self) -> bool:
        return not self.url.startswith("/")


class Need(NamedTuple):
    """Bytes that a change needs."""

    fetch: int  # wheels that are not in the store yet
    cache: int  # on the file system of the cache, the wheels among them
    environment: int  # on the file system of the environment


def file_of(url: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])


def path_of(url: str) -> str:
    """The path that a file:// URL stands for; anything else as it is."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path) if url.startswith("file:") else url


def read_pylock(text: str) -> list[Wheel]:
    """What ``uv pip compile --format pylock.toml`` says for one platform."""
    found = []
    for entry in text.split("[[packages]]")[1:]:
        name, version = (re.search(rf'^{key} = "([^"]+)"', entry, re.M) for key in ("name", "version"))
        # Of several that fit the first is as good as any: uv has left out what does not.
        wheel = re.search(r'^wheels = \[\s*\{ (?:url|path) = "([^"]+)"(.*)\}', entry, re.M)
        if not (name and version and wheel):
            continue
        size = re.search(r"\bsize = (\d+)", wheel.group(2))
        digest = re.search(r'\bsha256 = "([0-9a-f]{64})"', wheel.group(2))
        found.append(
            Wheel(
                normalise(name.group(1)),
                version.group(1),
                path_of(wheel.group(1)),
                digest.group(1) if digest else "",
                int(size.group(1)) if size else None,
            )
        )
    return found


def links(web: Web, place: str) -> list[str]:
    """The wheels that a directory or a flat page of links offers, as paths or URLs."""
    place = path_of(place)
    if place.startswith("/"):
        if place.endswith(".whl"):
            return [place]
        return sorted(str(path) for path in Path(place).glob("*.whl"))
    page = peek(web, place, _PAGE).decode("utf-8", "replace")
    hrefs = re.findall(r"<a\s[^>]*?href\s*=\s*[\"']([^\"']+)[\"']", page, re.I)
    urls = [urllib.parse.urljoin(place, html.unescape(href)) for href in hrefs]
    return [url for url in urls if file_of(url).endswith(".whl")]


def fits(file: str, name: str, version: str, python: str, machine: str) -> bool:
    """Whether the file is that release for CPython ``python`` (3.11) on Linux."""
    parts = file[: -len(".whl")].split("-")
    if len(parts) not in (5, 6) or normalise(parts[0]) != name or parts[1].lower() != version.lower():
        return False
    minor = int(python.split(".")[1])
    abis, platforms = parts[-2].split("."), parts[-1].split(".")
    for tag in parts[-3].split("."):
        match = re.match(r"(cp|py)3(\d*)\Z", tag)
        if not match:
            continue
        kind, number = match.group(1), int(match.group(2) or 0)
        own = {f"cp3{minor}", "none"} & set(abis)
        if (number == minor and own) or (number <= minor and (kind == "py" or "abi3" in abis)):
            break
    else:
        return False
    return any(one == "any" or (one.endswith("_" + machine) and "linux" in one) for one in platforms)


def among(offered: Iterable[str], name: str, version: str, python: str, machine: str) -> Wheel | None:
    """The offered wheel that is that release; of several the last, whose platform is the newest."""
    fitting = sorted(
        (url for url in offered if fits(file_of(url), name, version, python, machine)), key=file_of
    )
    if not fitting:
        return None
    url, _, fragment = fitting[-1].partition("#") if "://" in fitting[-1] else (fitting[-1], "", "")
    digest = re.match(r"sha256=([0-9a-f]{64})\Z", fragment)
    return Wheel(name, version, url, digest.group(1) if digest else "")


class Store:
    """Wheels by the hash of their content, for root alone; what is there is never fetched again."""

    def __init__(self, cache_dir: str) -> None:
        self.root = Path(cache_dir, "wheels")

    def directory(self, wheel: Wheel) -> Path:
        if not wheel.remote:
            return Path(wheel.url).parent
        return self.root / (wheel.sha256 or "url-" + hashlib.sha256(wheel.url.encode()).hexdigest())

    def path(self, wheel: Wheel) -> Path:
        return self.directory(wheel) / wheel.file

    def has(self, wheel: Wheel) -> bool:
        try:
            size = self.path(wheel).stat().st_size
        except OSError:
            return False
        return wheel.size is None or not wheel.remote or size == wheel.size

    def arrived(self, wheel: Wheel) -> int:
        """The bytes of it that are here, those of a transfer that is under way among them."""
        for path in (self.path(wheel), Path(f"{self.path(wheel)}.part")):
            try:
                return path.stat().st_size
            except OSError:
                continue
        return 0

    def is_unpacked(self, wheel: Wheel) -> bool:
        """Whether the installer has it unpacked in its cache already."""
        return wheel.remote and (self.directory(wheel) / _MARK).exists()

    def unpacked(self, wheels: Iterable[Wheel]) -> None:
        for wheel in wheels:
            if wheel.remote:
                (self.directory(wheel) / _MARK).touch()

    def need(self, wheels: Sequence[Wheel], ratio: Mapping[str, float], linked: bool) -> Need:
        """``ratio``: how much larger a wheel is unpacked, by name or name+local; "other" for all else."""
        fetch = sum((wheel.size or 0) - self.arrived(wheel) for wheel in wheels if not self.has(wheel))
        unpacked = {wheel: int((wheel.size or 0) * _ratio_of(wheel, ratio)) for wheel in wheels}
        cached = sum(size for wheel, size in unpacked.items() if not self.is_unpacked(wheel))
        return Need(fetch, fetch + cached, 0 if linked else sum(unpacked.values()))

    def fetch(self, web: Web, wheels: Sequence[Wheel]) -> None:
        """All that are missing, some at a time; raises for the first that cannot be had."""
        missing = [wheel for wheel in wheels if not self.has(wheel)]
        if not missing:
            return
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The largest first, so that none of those is left alone at the end.
        missing.sort(key=lambda wheel: -(wheel.size or 0))
        with ThreadPoolExecutor(PARALLEL) as pool:
            waiting = [pool.submit(self._fetch, web, wheel) for wheel in missing]
            done, rest = wait(waiting, return_when=FIRST_EXCEPTION)
            for future in rest:
                future.cancel()
        for future in done:
            _raise(future)

    def _fetch(self, web: Web, wheel: Wheel) -> None:
        directory = self.directory(wheel)
        directory.mkdir(mode=0o700, exist_ok=True)
        download(web, [wheel.url], str(self.path(wheel)), wheel.sha256)


def _raise(future: Future[None]) -> None:
    error = future.exception()
    if error:
        raise error


def _ratio_of(wheel: Wheel, ratio: Mapping[str, float]) -> float:
    local = wheel.name + "+" + wheel.version.partition("+")[2]
    return float(ratio.get(local, ratio.get(wheel.name, ratio.get("other", 1))))


def measured(web: Web, wheels: Iterable[Wheel]) -> list[Wheel]:
    """With their sizes, of those that the source left out by asking its server."""
    found = []
    for wheel in wheels:
        if wheel.size is not None:
            found.append(wheel)
        elif wheel.remote:
            found.append(wheel._replace(size=available(web, [wheel.url]).size))
        else:
            found.append(wheel._replace(size=Path(wheel.url).stat().st_size))
    return found


def same_file_system(one: str, other: str) -> bool:
    return Path(existing(one)).stat().st_dev == Path(existing(other)).stat().st_dev


def existing(path: str) -> str:
    """The path, or the nearest directory above it that is there."""
    while not os.path.lexists(path):
        path = str(Path(path).parent)
    return path


def free(path: str) -> int:
    disk = os.statvfs(existing(path))
    return disk.f_bavail * disk.f_frsize
