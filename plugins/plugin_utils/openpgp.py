"""The fingerprint of an OpenPGP public key, so that a key that was fetched can be told from another."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

ARMOUR = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\n]+\n)*?\r?\n(.*?)\r?\n(?:=\S{4}\r?\n)?-----END PGP",
    re.S,
)
PUBLIC_KEY = 6


def fingerprints(text: str) -> list[str]:
    """The fingerprints of the primary keys (version 4) in an armoured file."""
    blocks = ARMOUR.findall(text.replace("\r\n", "\n"))
    if not blocks:
        raise ValueError("it is no ASCII-armoured public key (-----BEGIN PGP PUBLIC KEY BLOCK-----)")
    found = []
    for block in blocks:
        try:
            data = base64.b64decode("".join(block.split()), validate=True)
        except binascii.Error as error:
            raise ValueError(f"it is damaged ({error})") from None
        for tag, body in _packets(data):
            if tag == PUBLIC_KEY and body[:1] == b"\x04":
                frame = b"\x99" + len(body).to_bytes(2, "big") + body
                found.append(hashlib.sha1(frame, usedforsecurity=False).hexdigest().upper())
    return found


def _packets(data: bytes) -> list[tuple[int, bytes]]:
    packets = []
    at = 0
    while at < len(data):
        head = data[at]
        at += 1
        if not head & 0x80:
            raise ValueError("it is damaged (no OpenPGP packet where one should begin)")
        if head & 0x40:
            tag, first = head & 0x3F, data[at]
            if first < 192:
                size, at = first, at + 1
            elif first < 224:
                size, at = ((first - 192) << 8) + data[at + 1] + 192, at + 2
            elif first == 255:
                size, at = int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
            else:
                raise ValueError("it is damaged (a key packet in parts)")
        else:
            tag, width = head >> 2 & 0x0F, 1 << (head & 3)
            if width == 8:
                size = len(data) - at
            else:
                size, at = int.from_bytes(data[at : at + width], "big"), at + width
        packets.append((tag, data[at : at + size]))
        at += size
    return packets
