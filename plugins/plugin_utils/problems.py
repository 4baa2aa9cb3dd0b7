"""How the planner says what is wrong, and how it reads input that may be of any shape."""

from __future__ import annotations

import difflib
import marshal
from collections.abc import Iterable
from typing import Any, TypedDict


class Problem(TypedDict):
    """One thing that stops a host before the first change."""

    code: str
    what: str
    found: str
    expected: str
    fix: str


def problem(code: str, what: str, found: object, expected: str, fix: str) -> Problem:
    return Problem(
        code=code,
        what=what,
        found=found if isinstance(found, str) and found.strip() else repr(found),
        expected=expected,
        fix=fix,
    )


class Note(TypedDict):
    """A reason or a warning of a plan; ``remedy`` says what would change it."""

    code: str
    text: str
    remedy: str | None


def note(code: str, text: str, remedy: str | None = None) -> Note:
    return Note(code=code, text=text, remedy=remedy)


def plain(value: Any) -> Any:
    """A copy of built-in types: Ansible hands over subclasses (tagged strings, lazy containers)."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)


def canonical(value: Any) -> bytes:
    """The value as bytes, equal where the values are; ``marshal.loads`` makes built-in types of them.

    Version 2 of the format keeps no references, which would depend on how often an object is used.
    """
    try:
        return marshal.dumps(value, 2)
    except ValueError:  # not of built-in types alone
        return marshal.dumps(plain(value), 2)


def builtin(value: Any) -> Any:
    """The value itself where it is of built-in types alone, else a copy that is."""
    try:
        marshal.dumps(value, 2)
    except ValueError:
        return plain(value)
    return value


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def number(value: Any) -> float:
    """0 for what is none: that its type is wrong is told elsewhere."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None
