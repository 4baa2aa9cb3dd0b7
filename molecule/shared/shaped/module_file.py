"""Module files and libraries that can be read and never used: an ELF header, a few sections, no code.

Also installed on the shaped hosts, where the stand-in for dkms makes its modules with it.
"""

from __future__ import annotations

import struct

RELOCATABLE, SHARED = 1, 3


def elf(sections: dict[str, bytes], kind: int = RELOCATABLE) -> bytes:
    """Return a 64-bit ELF file of an x86-64 with these sections."""
    names = b"\0"
    offsets = {}
    for name in [*sections, ".shstrtab"]:
        offsets[name] = len(names)
        names += name.encode() + b"\0"
    body, headers = b"", [struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)]
    for name, content in [*sections.items(), (".shstrtab", names)]:
        entry = struct.pack("<IIQQQQIIQQ", offsets[name], 1, 0, 0, 64 + len(body), len(content), 0, 0, 1, 0)
        headers.append(entry)
        body += content
    start = 64 + len(body)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    fields = (kind, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, len(headers), len(headers) - 1)
    return ident + struct.pack("<HHIQQQIHHHHHH", *fields) + body + b"".join(headers)


def module(version: str, flavour: str, kernel: str) -> bytes:
    """Return an nvidia.ko: modinfo tells its version, licence and kernel."""
    fields = {
        "version": version,
        "license": "Dual MIT/GPL" if flavour == "open" else "NVIDIA",
        "description": "Shaped, not real: a stand-in of torchfleet's tests",
        "alias": "pci:v000010DEd*sv*sd*bc03sc02i00*",
        "name": "nvidia",
        "vermagic": f"{kernel} SMP preempt mod_unload modversions ",
    }
    info = b"\0" + b"".join(f"{key}={value}".encode() + b"\0" for key, value in fields.items())
    return elf({".modinfo": info})


def library(text: str) -> bytes:
    """Return what stands for a shared library."""
    return elf({".comment": text.encode() + b"\0"}, SHARED)
