"""As much of DER (X.690) as certificates and signatures of kernel modules need."""

from __future__ import annotations

from typing import NamedTuple

COMMON_NAME = b"\x55\x04\x03"  # the object identifier 2.5.4.3


class Field(NamedTuple):
    """One element: its tag, and what is in it."""

    tag: int
    value: bytes

    def fields(self) -> list[Field]:
        return fields(self.value)


def fields(data: bytes) -> list[Field]:
    """The elements in ``data``, one after the other; ValueError where it is none."""
    found, at = [], 0
    while at < len(data):
        if at + 2 > len(data):
            raise ValueError("the data ends in an element's header")
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, start = int.from_bytes(data[start : start + size], "big"), start + size
        if start + length > len(data):
            raise ValueError("the data ends in an element")
        found.append(Field(tag, data[start : start + length]))
        at = start + length
    return found


def common_name(name: Field) -> str | None:
    """The common name in a distinguished name; the last one, as the most specific."""
    found = None
    for part in name.fields():
        for pair in part.fields():
            kind, value = pair.fields()
            if kind.value == COMMON_NAME:
                found = value.value.decode("utf-16-be" if value.tag == 0x1E else "utf-8", "replace")
    return found


class Certificate(NamedTuple):
    """Of a certificate, what a signature names it by."""

    name: str | None
    serial: str


def certificate(data: bytes) -> Certificate | None:
    """Name and serial number of an X.509 certificate in DER; None when it is none."""
    try:
        inside = fields(data)[0].fields()[0].fields()
        inside = inside[1:] if inside[0].tag == 0xA0 else inside  # the version
        return Certificate(common_name(inside[4]), inside[0].value.hex())
    except (IndexError, ValueError):
        return None
