"""The .modinfo of a kernel module file, without loading the module."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
from pathlib import Path
from typing import IO, Any, Callable, List, Tuple

Run = Callable[[List[str]], Tuple[int, str, str]]
"""Runs a command; gives (exit status, stdout, stderr), status 127 when there is no such command."""

WANTED = ("version", "license")


def read_modinfo(path: Path, run: Run) -> dict[str, str]:
    """``version`` and ``license`` of the module in ``path``; what cannot be told is left out."""
    try:
        if path.suffix == ".zst":  # the standard library has no zstd
            return _by_command(path, run)
        # The section headers are at the end, so all of a compressed module is needed.
        if path.suffix == ".xz":
            return _by_section(io.BytesIO(lzma.decompress(path.read_bytes())))
        if path.suffix == ".gz":
            return _by_section(io.BytesIO(gzip.decompress(path.read_bytes())))
        with path.open("rb") as file:
            return _by_section(file)
    except (OSError, EOFError, lzma.LZMAError, struct.error, ValueError):
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
            pairs = [entry.partition(b"=") for entry in content(section).split(b"\0")]
            found = {key.decode("latin-1"): value.decode("latin-1") for key, _sign, value in pairs}
            return {key: found[key] for key in WANTED if key in found}
    return {}


def flavour(module_license: str) -> str | None:
    """The flavour of an nvidia.ko: the open one must declare a licence that the kernel knows."""
    if not module_license:
        return None
    return "open" if "GPL" in module_license else "proprietary"
