#!/usr/bin/env python3
"""Propose the row of a torch release for plugins/plugin_utils/data/torch.yml, from what PyPI has of it.

propose_torch.py 2.15.0                       prints the row; what PyPI cannot tell is marked FILL IN or check
propose_torch.py 2.15.0 --no-binary           reads metadata only: about 10 MB less for each machine

Where the tables have a row of the release already, its differences are named on standard error.
"""

from __future__ import annotations

import argparse
import datetime
import email
import io
import json
import os
import re
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

DATA = Path(__file__).resolve().parent.parent / "plugins" / "plugin_utils" / "data" / "torch.yml"
MACHINES = ("x86_64", "aarch64")
LEGACY = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}  # PEP 513, 571, 599
CUDA = re.compile(r"cuda-toolkit|nvidia-cuda-runtime(-cu\d+)?")
FLAGS = re.compile(rb"(?:sm_\d+[a-z]?[ ;,]?)+")
BINARY = "torch/lib/libtorch_python.so"
SOON = datetime.timedelta(days=7)  # a companion may be uploaded before torch itself
FILL_IN = "FILL IN"
Json = dict[str, Any]


class Missing(Exception):
    """What was looked for is not there."""


def fetch(url: str, **headers: str) -> tuple[bytes, str]:
    """The body, and the header Content-Range."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.read(), answer.headers.get("Content-Range") or ""
    except (urllib.error.URLError, TimeoutError) as error:
        raise Missing(f"{url}: {error}") from error


class Remote(io.RawIOBase):
    """A file at the other end, read in parts: a wheel of torch has hundreds of megabytes."""

    def __init__(self, url: str) -> None:
        self.url, self.place = url, 0
        size = fetch(url, Range="bytes=0-0")[1].rpartition("/")[2]
        if not size.isdecimal():
            raise Missing(f"{url}: the server does not deliver parts of a file")
        self.size = int(size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence] + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        end = min(self.size, self.place + len(buffer))
        if end <= self.place:
            return 0
        part = fetch(self.url, Range=f"bytes={self.place}-{end - 1}")[0]
        buffer[: len(part)] = part
        self.place += len(part)
        return len(part)


class File:
    """A wheel for Linux at an index."""

    def __init__(self, row: Json) -> None:
        name, self.version, _build, tags = parse_wheel_filename(row["filename"])
        self.name, self.url = str(name), str(row["url"])
        self.described = bool(row.get("core-metadata"))  # PEP 658
        self.uploaded = row.get("upload-time")
        self.platforms = sorted({tag.platform for tag in tags})
        self.python = {_python(tag.interpreter, tag.abi) for tag in tags}

    @property
    def machine(self) -> str | None:
        return next(
            (m for m in MACHINES if any("linux" in p and p.endswith(f"_{m}") for p in self.platforms)), None
        )

    @property
    def glibc(self) -> str | None:
        """The floor of its platform tag; the lowest of several."""
        found = []
        for platform in self.platforms:
            if match := re.match(r"manylinux_(\d+)_(\d+)_", platform):
                found.append(f"{match[1]}.{match[2]}")
            elif platform.partition("_")[0] in LEGACY:
                found.append(LEGACY[platform.partition("_")[0]])
        return min(found, key=Version, default=None)

    @property
    def day(self) -> datetime.date | None:
        return datetime.date.fromisoformat(self.uploaded[:10]) if self.uploaded else None

    def open(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BufferedReader(Remote(self.url), 1 << 21))

    def requirements(self) -> list[Requirement]:
        if self.described:
            text = fetch(f"{self.url}.metadata")[0]
        else:
            with self.open() as wheel:
                names = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
                text = wheel.read(names[0])
        lines = email.message_from_bytes(text).get_all("Requires-Dist") or []
        environment = {"platform_system": "Linux", "platform_machine": self.machine or "", "extra": ""}
        wanted = [Requirement(line) for line in lines]
        return [item for item in wanted if item.marker is None or item.marker.evaluate(environment)]


def _python(interpreter: str, abi: str) -> str:
    """cp313, cp313t: 3.13t."""
    return f"{interpreter[2]}.{interpreter[3:]}{'t' if abi.endswith('t') else ''}"


def _files(index: str, project: str) -> list[File]:
    accept = "application/vnd.pypi.simple.v1+json"
    body, _range = fetch(f"{index.rstrip('/')}/{project}/", Accept=accept)
    try:
        rows = json.loads(body)["files"]
    except ValueError as error:
        raise Missing(f"{index} does not answer in JSON (PEP 691): name an index that does") from error
    found = []
    for row in rows:
        try:
            found.append(File(row))
        except (InvalidWheelFilename, InvalidVersion):
            continue  # a source distribution
    return [item for item in found if item.machine]


def _companion(index: str, project: str, torch: Version, day: datetime.date | None) -> str | None:
    """The newest release of a package that pins this torch; else the newest that came with it and fits."""
    releases: dict[Version, File] = {}
    for item in _files(index, project):
        if item.machine == MACHINES[0] and not (day and item.day and item.day < day - SOON):
            releases.setdefault(item.version, item)
    pinned = with_it = None
    for version, item in sorted(releases.items()):
        near = bool(day and item.day and item.day <= day + SOON)
        if pinned and not near:
            break
        pins = [requirement.specifier for requirement in item.requirements() if requirement.name == "torch"]
        if all(torch in pin for pin in pins):
            if any(specifier.operator == "==" for pin in pins for specifier in pin):
                pinned = str(version)
            elif near:
                with_it = str(version)
    return pinned or with_it


def _variant(item: File) -> tuple[str, list[str] | None]:
    """The variant by what the wheel requires: the CUDA runtime, or nothing of the kind."""
    for requirement in item.requirements():
        if CUDA.fullmatch(requirement.name):
            version = Version(next(iter(requirement.specifier)).version)
            return f"cu{version.major}{version.minor}", None
    return "cpu", None


def _read(item: File) -> tuple[str, list[str]]:
    """The variant and the compute capabilities, by what is in the wheel."""
    with item.open() as wheel:
        local = re.search(r"__version__ = '[^'+]*\+?([^']*)'", wheel.read("torch/version.py").decode())
        flags = max(FLAGS.findall(wheel.read(BINARY)), key=len, default=b"").decode()
    codes = [int(code) for code in re.findall(r"sm_(\d+)", flags)]
    return (local[1] if local else "") or _variant(item)[0], [
        f"{c // 10}.{c % 10}" for c in sorted(set(codes))
    ]


def propose(index: str, version: str, binary: bool) -> Json:
    """The row, as torch.yml has it."""
    torch = Version(version)
    files = [item for item in _files(index, "torch") if item.version == torch]
    if not files:
        raise Missing(f"{index} has no wheel of torch {version} for Linux")
    machines = [machine for machine in MACHINES if any(item.machine == machine for item in files)]
    own = {machine: [item for item in files if item.machine == machine] for machine in machines}
    days = [item.day for item in files if item.day]
    pypi: dict[str, str] = {}
    capabilities: dict[str, list[str] | None] = {}
    for machine in machines:
        pypi[machine], capabilities[machine] = (_read if binary else _variant)(own[machine][0])
    since = min(days, default=None)
    return {
        "torch": version,
        "released": since.isoformat() if since else FILL_IN,
        "python": {
            m: sorted(set().union(*(i.python for i in own[m])), key=lambda t: (Version(t.rstrip("t")), t))
            for m in machines
        },
        "glibc": {
            m: min((i.glibc for i in own[m] if i.glibc), key=Version, default=FILL_IN) for m in machines
        },
        "torchvision": _companion(index, "torchvision", torch, since),
        "torchaudio": _companion(index, "torchaudio", torch, since),
        "pypi": pypi,
        "cpu_index": True,
        "builds": [
            {
                "variant": variant,
                "capabilities": {m: capabilities[m] or [FILL_IN] for m in machines if pypi[m] == variant},
            }
            for variant in dict.fromkeys(pypi.values())
            if variant != "cpu"
        ],
    }


def _flow(value: Any) -> str:
    """One line of YAML; a version stays a string."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None:
        return "null"
    return f'"{value}"' if value[0].isdecimal() or value == FILL_IN else str(value)


def lines(row: Json, index: str, binary: bool, today: datetime.date) -> Iterator[str]:
    """The row as text."""
    how = f"{BINARY} of the wheels at {index}" if binary else f"metadata of the wheels at {index}"
    yield f"  - torch: {_flow(row['torch'])}"
    yield f"    released: {_flow(row['released'])}"
    yield "    python:"
    yield from (f"      {machine}: {_flow(tags)}" for machine, tags in row["python"].items())
    for key in ("glibc", "torchvision", "torchaudio", "pypi"):
        yield f"    {key}: {_flow(row[key])}"
    yield "    cpu_index: true  # check: PyPI does not tell"
    yield "    builds:  # check: the variants beside PyPI's, in the release notes and at the wheel index"
    for build in row["builds"]:
        yield f"      - variant: {build['variant']}"
        yield "        capabilities:"
        yield from (f"          {machine}: {_flow(cc)}" for machine, cc in build["capabilities"].items())
        known = {m: "low" if FILL_IN in cc else "high" for m, cc in build["capabilities"].items()}
        yield f"        confidence: {_flow(known)}"
        yield f'        source: "{how} (read {today.isoformat()})"'


def differences(row: Json, known: Json) -> Iterator[str]:
    """Where the tables say something else."""
    for key in ("released", "python", "glibc", "torchvision", "torchaudio", "pypi", "cpu_index"):
        if row[key] != known.get(key):
            yield f"{key}: here {row[key]}, in the tables {known.get(key)}"
    builds = {build["variant"]: build["capabilities"] for build in known["builds"]}
    for build in row["builds"]:
        there = builds.pop(build["variant"], None)
        for machine, found in build["capabilities"].items():
            if there is None or found != there.get(machine):
                said = None if there is None else there.get(machine)
                yield f"{build['variant']} {machine}: here {found}, in the tables {said}"
    for variant in builds:
        yield f"{variant}: only in the tables"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", help="the release, such as 2.15.0")
    parser.add_argument(
        "--index",
        default=os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple"),
        help="PyPI or a mirror of it that answers in JSON (default: PIP_INDEX_URL, else pypi.org)",
    )
    parser.add_argument("--no-binary", action="store_true", help="read no compute capabilities")
    parser.add_argument("--data", type=Path, default=DATA, help="the torch.yml to compare with")
    args = parser.parse_args()
    try:
        row = propose(args.index, args.version, not args.no_binary)
    except Missing as error:
        print(f"propose_torch: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines(row, args.index, not args.no_binary, datetime.date.today())))
    known = yaml.safe_load(args.data.read_text(encoding="utf-8"))["releases"]
    for there in known:
        if there["torch"] == args.version:
            for text in differences(row, there) or ():
                print(f"differs: {text}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
