# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Environment markers of PEP 508, evaluated for an environment without starting its Python."""

from __future__ import annotations

import os
import re
from typing import List, Mapping, Tuple

from ansible_collections.torchfleet.gpu.plugins.module_utils import pip_spec

_TOKEN = re.compile(
    r"\s*(?:(?P<paren>[()])|(?P<text>'[^']*'|\"[^\"]*\")|(?P<operator>===|==|!=|<=|>=|~=|<|>)|(?P<word>[a-z_.]+))"
)
_VERSIONS = ("python_version", "python_full_version", "implementation_version", "platform_release")
Tokens = List[Tuple[str, str]]


class MarkerError(ValueError):
    """The text is no marker that can be evaluated here."""


def environment(python: str) -> dict[str, str]:
    """The values for CPython C(python) on this machine."""
    system = os.uname()
    return {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": system.machine,
        "platform_python_implementation": "CPython",
        "platform_release": system.release,
        "platform_system": "Linux",
        "platform_version": system.version,
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
    }


def evaluate(marker: str, values: Mapping[str, str], extra: str = "") -> bool:
    tokens = _tokens(marker)
    result, rest = _any(tokens, {**values, "extra": extra})
    if rest:
        raise MarkerError(f"cannot read '{marker}' from '{rest[0][1]}' on")
    return result


def _tokens(marker: str) -> Tokens:
    tokens: Tokens = []
    position = 0
    marker = marker.strip()
    while position < len(marker):
        match = _TOKEN.match(marker, position)
        if not match or match.lastgroup is None:
            raise MarkerError(f"cannot read '{marker[position:]}'")
        tokens.append((match.lastgroup, match.group(match.lastgroup)))
        position = match.end()
    return tokens


def _any(tokens: Tokens, values: Mapping[str, str]) -> tuple[bool, Tokens]:
    result, tokens = _all(tokens, values)
    while tokens[:1] == [("word", "or")]:
        one, tokens = _all(tokens[1:], values)
        result = result or one
    return result, tokens


def _all(tokens: Tokens, values: Mapping[str, str]) -> tuple[bool, Tokens]:
    result, tokens = _term(tokens, values)
    while tokens[:1] == [("word", "and")]:
        one, tokens = _term(tokens[1:], values)
        result = result and one
    return result, tokens


def _term(tokens: Tokens, values: Mapping[str, str]) -> tuple[bool, Tokens]:
    if tokens[:1] == [("paren", "(")]:
        result, tokens = _any(tokens[1:], values)
        if tokens[:1] != [("paren", ")")]:
            raise MarkerError("a parenthesis is not closed")
        return result, tokens[1:]
    if len(tokens) < 3:
        raise MarkerError("a comparison is not complete")
    operator, rest = tokens[1], tokens[2:]
    if tokens[1:3] == [("word", "not"), ("word", "in")] and len(tokens) > 3:
        operator, rest = ("operator", "not in"), tokens[3:]
    name = tokens[0][1] if tokens[0][0] == "word" else rest[0][1]
    return _compare(_value(tokens[0], values), operator[1], _value(rest[0], values), name), rest[1:]


def _value(token: tuple[str, str], values: Mapping[str, str]) -> str:
    kind, text = token
    if kind == "text":
        return text[1:-1]
    if kind == "word" and text in values:
        return values[text]
    raise MarkerError(f"'{text}' is no variable of PEP 508")


def _compare(left: str, operator: str, right: str, name: str) -> bool:
    if operator in ("in", "not in"):
        return (left in right) == (operator == "in")
    if name == "extra":
        left, right = pip_spec.normalise(left), pip_spec.normalise(right)
    if name in _VERSIONS:
        try:
            return pip_spec.accepts(operator, right, left)
        except pip_spec.RequirementError:
            pass  # such as a kernel's release: compared as text
    if operator in ("==", "==="):
        return left == right
    if operator == "!=":
        return left != right
    if operator in ("<", "<=", ">", ">="):
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]
    raise MarkerError(f"'{operator}' does not compare texts")
