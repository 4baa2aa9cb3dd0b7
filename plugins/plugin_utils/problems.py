"""How the planner says what is wrong, and how it reads input that may be of any shape."""

from __future__ import annotations

import difflib
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
        found=found if isinstance(found, str) else repr(found),
        expected=expected,
        fix=fix,
    )


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


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None
