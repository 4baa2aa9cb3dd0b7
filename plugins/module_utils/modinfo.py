"""The .modinfo of a kernel module file, without loading the module."""

from __future__ import annotations

import gzip
import lzma
import re
import struct
from pathlib import Path
from typing import IO, Any, Callable, List, Tuple, cast

Run = Callable[[List[str]], Tuple[int, str, str]]
"""Runs a command; gives (exit status, stdout, stderr), status 127 when there is no such command."""

WANTED = ("version", "license")
CHUNK = 1 << 20


def read_modinfo(path: Path, run: Run) -> dict[str, str]:
    """``version`` and ``license`` of the module in ``path``; what cannot be told is left out."""
    try:
        if path.suffix == ".zst":  # the standard library has no zstd
            return _by_command(path, run)
        if path.suffix == ".xz":
            with lzma.open(path) as stream:
                return _by_scan(cast("IO[bytes]", stream))
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                return _by_scan(cast("IO[bytes]", stream))
        with path.open("rb") as file:
            return _by_section(file)
    except (OSError, EOFError, lzma.LZMAError, struct.error):
        return {}


def _by_command(path: Path, run: Run) -> dict[str, str]:
    status, out, _err = run(["modinfo", str(path)])
    pairs = [line.partition(":") for line in out.splitlines()] if status == 0 else []
    return {key: value.strip() for key, _colon, value in pairs if key in WANTED}


def _by_section(file: IO[bytes]) -> dict[str, str]:
    """Read the one section by the ELF headers: a module of 90 MB costs a few kilobytes."""
    head = file.read(64)
    if head[:4] != b"\x7fELF" or head[4] != 2:
        return {}
    order = "<" if head[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", head, 40)
    size, count, names = struct.unpack_from(order + "HHH", head, 58)
    file.seek(table)
    raw = file.read(size * count)
    sections = [struct.unpack_from(order + "IIQQQQ", raw, size * i) for i in range(count)]
    if names >= count:
        return {}

    def content(section: tuple[Any, ...]) -> bytes:
        file.seek(section[4])
        return file.read(section[5])

    labels = content(sections[names])
    for section in sections:
        if labels[section[0] :].startswith(b".modinfo\0"):
            return _fields(b"\0" + content(section))
    return {}


def _by_scan(stream: IO[bytes]) -> dict[str, str]:
    """A compressed module cannot be read from its end, so stop as soon as everything was seen."""
    found: dict[str, str] = {}
    tail = b""
    while len(found) < len(WANTED):
        chunk = stream.read(CHUNK)
        if not chunk:
            break
        found.update(_fields(tail + chunk))
        tail = chunk[-256:]
    return found


def _fields(data: bytes) -> dict[str, str]:
    # A lookahead for the closing NUL: it opens the next field too.
    pairs = re.findall(rb"\0(version|license)=([ -~]{1,128})(?=\0)", data)
    return {key.decode(): value.decode() for key, value in pairs}


def flavour(module_license: str) -> str | None:
    """The flavour of an nvidia.ko: the open one must declare a licence that the kernel knows."""
    if not module_license:
        return None
    return "open" if "GPL" in module_license else "proprietary"
