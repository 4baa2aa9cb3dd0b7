#!/usr/bin/env python3
"""Offer the CPU builds of torch that this site keeps for pip to the fleet's mirror.

    site_wheels.py DIRECTORY

CPU builds are not on PyPI. Where pip here is configured with find-links, the wheels of torch, torchvision
and torchaudio with the local version "cpu" in those directories are linked into DIRECTORY. Prints one JSON
object: what changed, and what DIRECTORY then carries, as requirements.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

NAMES = {"torch", "torchvision", "torchaudio"}


def find_links(environ: Mapping[str, str], files: Sequence[Path]) -> Iterator[Path]:
    """Yield the directories among pip's find-links: of the environment, else of its configuration files."""
    values = [environ["PIP_FIND_LINKS"]] if environ.get("PIP_FIND_LINKS") else []
    for file in [] if values else files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except (configparser.Error, UnicodeDecodeError) as error:
            print(f"site_wheels.py: left out {file}: {error}", file=sys.stderr)
        values += [parser.get(section, "find-links", fallback="") for section in ("global", "install")]
    for item in " ".join(values).split():
        url = urlsplit(item)
        path = Path(unquote(url.path) if url.scheme == "file" else item).expanduser()
        if url.scheme in ("", "file") and path.is_dir():
            yield path


def cpu_builds(directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield each CPU build in a directory with its requirement, such as torch==2.13.0+cpu."""
    for wheel in sorted(directory.glob("*.whl")):
        try:
            name, version, _, _ = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            continue
        if name in NAMES and version.local == "cpu":
            yield wheel, f"{name}=={version}"


def offer(wheel: Path, target: Path) -> None:
    """Put a wheel where the web server's own user can read it, without a copy where a link does."""
    try:
        if not wheel.stat().st_mode & stat.S_IROTH:
            raise PermissionError(wheel)
        os.link(wheel.resolve(), target)
    except OSError:
        shutil.copyfile(wheel, target)
        target.chmod(0o644)


def main(directory: Path, environ: Mapping[str, str], files: Sequence[Path]) -> dict[str, object]:
    """Bring the directory in line with what the site has."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {wheel.name: wheel for source in find_links(environ, files) for wheel, _ in cpu_builds(source)}
    changed = False
    for name, wheel in wanted.items():
        target = directory / name
        if not target.exists() or target.stat().st_size != wheel.stat().st_size:
            target.unlink(missing_ok=True)
            offer(wheel, target)
            changed = True
    return {"changed": changed, "carries": sorted({requirement for _, requirement in cpu_builds(directory)})}


if __name__ == "__main__":
    home = Path.home()
    configurations = [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    if os.environ.get("PIP_CONFIG_FILE"):
        configurations = [Path(os.environ["PIP_CONFIG_FILE"])]
    print(json.dumps(main(Path(sys.argv[1]), os.environ, configurations)))
