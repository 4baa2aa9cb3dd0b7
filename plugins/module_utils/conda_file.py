# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""environment.yml, read with the standard library: hosts have no YAML parser for their Python.

Reads the form that conda documents and C(conda env export) writes. Anything else is an error that names the
line; nothing is guessed.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)\s*:(?:\s+(.*)|)\Z")
_ITEM = re.compile(r"""\s*('[^']*'|"[^"]*"|[^\s,'"\[\]][^,'"\[\]]*?)\s*(?:,|\Z)""")
_KNOWN = ("name", "prefix", "channels", "dependencies", "variables")
_PIP_OPTION = re.compile(r"(--index-url|-i|--extra-index-url|--find-links|-f|--no-index)(?:[ =]\s*(\S+))?\Z")


class FileError(ValueError):
    """The text is no environment.yml that can be read; says which line and what was expected."""


class EnvironmentFile(NamedTuple):
    channels: list[str]
    packages: list[str]
    pip: list[str]
    index_url: str | None
    extra_index_urls: list[str]
    find_links: list[str]
    no_index: bool
    variables: dict[str, str]


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def parse(text: str) -> EnvironmentFile:
    lines = _lines(text)
    values: dict[str, Any] = {}
    while lines:
        line = lines[0]
        match = _KEY.match(line.text)
        if line.indent or not match:
            raise _error(line, "expected a key such as dependencies:")
        key, inline = match.groups()
        if key not in _KNOWN:
            raise _error(line, f"'{key}' is none of {', '.join(_KNOWN)}")
        if key in values:
            raise _error(line, f"'{key}' is there twice")
        lines = lines[1:]
        if inline:
            values[key] = _inline(line, inline)
        else:
            values[key], lines = (_mapping if key == "variables" else _list)(line, lines)
    return _environment(values)


def _environment(values: dict[str, Any]) -> EnvironmentFile:
    def of_kind(key: str, kind: type, empty: Any) -> Any:
        value = values.get(key, empty)
        if not isinstance(value, kind):
            raise FileError(f"{key} is no {'list' if kind is list else 'mapping'}")
        return value

    dependencies = of_kind("dependencies", list, [])
    nested = [one for one in dependencies if isinstance(one, list)]
    if len(nested) > 1:
        raise FileError("dependencies has pip: twice")
    channels = of_kind("channels", list, [])
    if any(isinstance(one, list) for one in channels):
        raise FileError("channels holds a list")
    if channels and "nodefaults" not in channels and "defaults" not in channels:
        channels = [*channels, "defaults"]  # as conda reads it
    requirements: list[str] = []
    options: dict[str, list[str]] = {}
    for one in nested[0] if nested else []:
        match = _PIP_OPTION.match(one)
        if one.startswith("-") and (
            not match or (match.group(2) is None) != (match.group(1) == "--no-index")
        ):
            raise FileError(
                f"pip: '{one}': expected a requirement, --index-url, --extra-index-url or --find-links"
            )
        if match:
            option = {"-i": "--index-url", "-f": "--find-links"}.get(match.group(1), match.group(1))
            options.setdefault(option, []).append(match.group(2) or "")
        else:
            requirements.append(one)
    return EnvironmentFile(
        channels=[one for one in channels if one != "nodefaults"],
        packages=[one for one in dependencies if isinstance(one, str)],
        pip=requirements,
        index_url=options["--index-url"][-1] if "--index-url" in options else None,
        extra_index_urls=options.get("--extra-index-url", []),
        find_links=options.get("--find-links", []),
        no_index="--no-index" in options,
        variables=of_kind("variables", dict, {}),
    )


def _lines(text: str) -> list[_Line]:
    result = []
    for number, raw in enumerate(text.splitlines(), 1):
        bare = _without_comment(raw).rstrip()
        if not bare.strip() or bare in ("---", "..."):
            continue
        indent = len(bare) - len(bare.lstrip(" "))
        line = _Line(number, indent, bare.strip(" "))
        if "\t" in bare[: len(bare) - len(bare.lstrip())]:
            raise _error(line, "a tab, where YAML wants blanks")
        result.append(line)
    return result


def _without_comment(raw: str) -> str:
    quote = ""
    for position, letter in enumerate(raw):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and raw[:position].rstrip(" ")[-1:] in ("", "-", ":", "[", ","):
            quote = letter
        elif letter == "#" and raw[:position][-1:] in ("", " ", "\t"):
            return raw[:position]
    return raw


def _list(key: _Line, lines: list[_Line]) -> tuple[list[Any], list[_Line]]:
    """The items below C(key). C(- pip:) among them becomes a list in the list."""
    result: list[Any] = []
    indent = lines[0].indent if lines else 0
    while lines and (lines[0].text == "-" or lines[0].text.startswith("- ")):
        line = lines[0]
        if line.indent != indent:
            if line.indent < indent:
                break
            raise _error(line, f"indented by {line.indent} blanks, the items above by {indent}")
        lines = lines[1:]
        item = line.text[1:].strip()
        match = _KEY.match(item)
        if not item:
            raise _error(line, "an empty item")
        if match and match.group(1) == "pip":
            if match.group(2):
                result.append(_inline(line, match.group(2)))
            elif lines and lines[0].indent > indent:
                inner, lines = _list(line, lines)
                result.append(inner)
            else:
                result.append([])
        elif match:
            raise _error(line, f"'{match.group(1)}:' in a list; only pip: may be there")
        else:
            result.append(_scalar(line, item))
    if not result:
        raise _error(key, "expected a list below it")
    return result, lines


def _mapping(key: _Line, lines: list[_Line]) -> tuple[dict[str, str], list[_Line]]:
    result: dict[str, str] = {}
    while lines and lines[0].indent > key.indent:
        match = _KEY.match(lines[0].text)
        if not match:
            raise _error(lines[0], "expected NAME: value")
        result[match.group(1)] = _scalar(lines[0], match.group(2) or "''")
        lines = lines[1:]
    return result, lines


def _inline(line: _Line, text: str) -> Any:
    if text in ("[]", "{}"):
        return [] if text == "[]" else {}
    if text.startswith("["):
        items, rest = [], text[1:-1].strip() if text.endswith("]") else "["
        while rest:
            match = _ITEM.match(rest)
            if not match:
                raise _error(line, "a list that cannot be read")
            items.append(_scalar(line, match.group(1)))
            rest = rest[match.end() :]
        return items
    return _scalar(line, text)


def _scalar(line: _Line, text: str) -> str:
    if text[0] in "'\"":
        if len(text) < 2 or text[-1] != text[0] or text[0] in text[1:-1] or "\\" in text:
            raise _error(line, "quotes that are not closed, doubled or escaped")
        return text[1:-1]
    if text[0] in "&*!|>{}[]%@`" or text.endswith(":") or ": " in text:
        raise _error(line, f"cannot read '{text}': put it in quotes")
    return text


def _error(line: _Line, text: str) -> FileError:
    return FileError(f"line {line.number} ({line.text}): {text}")
