"""What a kernel module file says of itself, without loading the module."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import struct
from pathlib import Path
from typing import IO, Any

from ansible_collections.torchfleet.gpu.plugins.module_utils.der import common_name, fields
from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Run

WANTED = ("version", "license")
SIGNED = b"~Module signature appended~\n"
# Before it: algorithm, hash, kind of id, the lengths of name and key id, padding, the signature's length.
SIGNATURE = struct.Struct(">BBBBB3xI")
PKCS7 = 2


def read_modinfo(path: Path, run: Run) -> dict[str, Any]:
    """``version``, ``license``, ``signed``, ``signer``, and ``serial`` of the signer's certificate in hex.

    What cannot be told is left out; ``signer`` and ``serial`` also where there is no signature.
    """
    try:
        if path.suffix == ".zst":  # the standard library has no zstd before Python 3.14; kmod brings its own
            return _by_command(path, run)
        # The section headers and the signature are at the end, so all of a compressed module is needed.
        if path.suffix == ".xz":
            return _by_content(io.BytesIO(lzma.decompress(path.read_bytes())))
        if path.suffix == ".gz":
            return _by_content(io.BytesIO(gzip.decompress(path.read_bytes())))
        with path.open("rb") as file:
            return _by_content(file)
    except (OSError, EOFError, lzma.LZMAError, struct.error, ValueError):
        return {}


def _by_command(path: Path, run: Run) -> dict[str, Any]:
    status, out, _err = run(["modinfo", str(path)])
    if status != 0:
        return {}
    pairs = {key: value.strip() for key, _colon, value in (line.partition(":") for line in out.splitlines())}
    found: dict[str, Any] = {key: pairs[key] for key in WANTED if key in pairs}
    found["signed"] = "sig_id" in pairs
    if found["signed"]:
        found["signer"] = pairs.get("signer") or None
        found["serial"] = pairs.get("sig_key", "").replace(":", "").lower() or None
    return found


def _by_content(file: IO[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = _section(file)
    return {**found, **_signature(file)} if found else {}


def _section(file: IO[bytes]) -> dict[str, str]:
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


def _signature(file: IO[bytes]) -> dict[str, Any]:
    """Who signed the module, by the signature that the kernel's sign-file appended to it."""
    tail = len(SIGNED) + SIGNATURE.size
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - tail))
    last = file.read()
    if not last.endswith(SIGNED) or len(last) < tail:
        return {"signed": False}
    found: dict[str, Any] = {"signed": True, "signer": None, "serial": None}
    _algorithm, _hash, kind, _name, _key, length = SIGNATURE.unpack(last[: SIGNATURE.size])
    if kind == PKCS7 and length <= end - tail:
        file.seek(end - tail - length)
        found["signer"], found["serial"] = _signer(file.read(length))
    return found


def _signer(message: bytes) -> tuple[str | None, str | None]:
    """Name and serial number of the certificate in the first signer's entry of a CMS message (RFC 5652)."""
    try:
        content = fields(message)[0].fields()[1].fields()[0].fields()
        signer = content[-1].fields()[0].fields()
        issuer, serial = signer[1].fields()[:2]
        return common_name(issuer), serial.value.hex()
    except (IndexError, ValueError):
        return None, None


def flavour(module_license: str) -> str | None:
    """The flavour of an nvidia.ko: the open one must declare a licence that the kernel knows."""
    if not module_license:
        return None
    return "open" if "GPL" in module_license else "proprietary"
