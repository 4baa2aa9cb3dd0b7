"""Secure Boot: whether it is on, and whose keys this machine trusts."""

from __future__ import annotations

import base64
import re
import struct
from typing import Any, Dict

from ansible_collections.torchfleet.gpu.plugins.module_utils.der import Certificate, certificate
from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host

Json = Dict[str, Any]

VARIABLES = "/sys/firmware/efi/efivars"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
IMAGE_SECURITY = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
X509 = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")  # EFI_CERT_X509_GUID as it lies in memory
# What DKMS signs with: its own default, and the one that Ubuntu configures.
SIGNING_KEYS = ("/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der")


class Keys:
    """The certificates that the firmware, shim and the kernel know."""

    def __init__(self, host: Host) -> None:
        lists = [_variable(host, f"MokListRT-{SHIM}")]
        # The kernel's own copy; shim splits a list that the firmware finds too long.
        lists += [host.raw(path) for path in host.glob("/sys/firmware/efi/mok-variables/MokListRT*")]
        self.readable = any(lists)
        self.enrolled = _unique(lists)
        self.pending = _unique([_variable(host, f"MokNew-{SHIM}")])
        self.firmware = _unique([_variable(host, f"db-{IMAGE_SECURITY}")])
        # Names only, but with the keys that were built into the kernel.
        rows = host.text("/proc/keys").splitlines()
        self.kernel = {
            match.group(1)
            for match in (re.search(r"\sasymmetri\s+(.*): [0-9a-f]+: X509", row) for row in rows)
            if match
        }

    def trusts(self, name: str | None, serial: str | None) -> bool | None:
        """Whether the signer with this name and serial number is known; None when that cannot be told."""
        known = [*self.enrolled, *self.firmware]
        if serial and any(item.serial == serial and item.name == name for item in known):
            return True
        # DKMS gives all its keys one name: a namesake of another machine or time is no proof.
        if name in self.kernel and (serial is None or all(item.name != name for item in known)):
            return True
        return False if name and (self.readable or self.kernel) else None

    def report(self, host: Host) -> Json | None:
        """The Truth's ``mok``."""
        if not self.readable:
            return None
        return {
            "enrolled": [item.name for item in self.enrolled],
            "pending": [item.name for item in self.pending],
            "key": self._signing_key(host),
        }

    def _signing_key(self, host: Host) -> Json | None:
        for path in SIGNING_KEYS:
            found = certificate(_from_pem(host.raw(path)))
            if found:
                return {"path": path, "name": found.name, "enrolled": found in self.enrolled}
        return None


def secure_boot(host: Host) -> bool | None:
    """Whether modules must be signed; shim can be told to look away, and a kernel then takes it as off."""
    value = _variable(host, f"SecureBoot-{GLOBAL}")
    if value is None or len(value) != 1:
        return None
    return value == b"\x01" and _variable(host, f"MokSBStateRT-{SHIM}") != b"\x01"


def _variable(host: Host, name: str) -> bytes | None:
    value = host.raw(f"{VARIABLES}/{name}")
    return value[4:] if len(value) > 4 else None  # four bytes of attributes come first


def _unique(lists: list[bytes | None]) -> list[Certificate]:
    return list(dict.fromkeys(item for data in lists if data for item in signature_lists(data)))


def signature_lists(data: bytes) -> list[Certificate]:
    """The certificates of one or more EFI_SIGNATURE_LIST; hashes and what is cut off are left out."""
    found, at = [], 0
    while at + 28 <= len(data):
        kind = data[at : at + 16]
        total, header, size = struct.unpack_from("<III", data, at + 16)
        if total < 28 or at + total > len(data):
            break
        if kind == X509 and size > 16:
            for start in range(at + 28 + header, at + total - size + 1, size):
                item = certificate(data[start + 16 : start + size])  # after its owner's GUID
                found += [item] if item else []
        at += total
    return found


def _from_pem(data: bytes) -> bytes:
    body = re.search(rb"-----BEGIN CERTIFICATE-----(.*?)-----END", data, re.S)
    try:
        return base64.b64decode(body.group(1)) if body else data
    except ValueError:
        return b""
