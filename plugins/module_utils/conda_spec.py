# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Conda MatchSpecs, as far as needed to say whether an installed package satisfies one.

C(matches) answers True, False or None; None means that only conda can tell.
"""

from __future__ import annotations

import re
from typing import Any, Callable, List, NamedTuple, Union

Atom = Union[int, float, str]
Parts = List[List[Atom]]

_VERSION = re.compile(r"[*.+!_0-9a-z]+\Z")
_ATOMS = re.compile(r"[0-9]+|[*]+|[^0-9*]+")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\Z")
_OPERATOR = re.compile(r"(==|!=|<=|>=|~=|=|<|>)(.*)\Z")
_BRACKET_ITEM = re.compile(r"""\s*([a-z0-9_]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^,"'\s]+))\s*(?:,|\Z)""")
_FIELDS = frozenset(
    [
        "name",
        "version",
        "build",
        "build_number",
        "channel",
        "subdir",
        "md5",
        "sha256",
        "url",
        "fn",
        "license",
        "license_family",
        "features",
        "track_features",
    ]
)
_CHANNEL_DEFAULTS = ("pkgs/main", "pkgs/r", "pkgs/msys2", "pkgs/free")


class SpecError(ValueError):
    """The text is no MatchSpec."""


class Version:
    """A conda version and conda's order of versions (not PEP 440's)."""

    def __init__(self, text: str) -> None:
        text = text.strip().lower()
        if "-" in text and "_" not in text:
            text = text.replace("-", "_")
        if not text or not _VERSION.match(text):
            raise SpecError(f"'{text}' is no version")
        epoch, _, rest = text.rpartition("!")
        if (epoch and not epoch.isdigit()) or text.startswith("!"):
            raise SpecError(f"'{text}' has a bad epoch")
        public, plus, local = rest.partition("+")
        if not public or (plus and not local) or "+" in local:
            raise SpecError(f"'{text}' has an empty or second local version")
        self.release: Parts = [[int(epoch or 0)], *_parts(public)]
        self.local: Parts = _parts(local) if local else []

    def compare(self, other: Version) -> int:
        return _compare(self.release, other.release) or _compare(self.local, other.local)

    def startswith(self, other: Version) -> bool:
        mine, prefix = self.release, other.release
        if other.local:
            if _compare(mine, prefix):
                return False
            mine, prefix = self.local, other.local
        last = len(prefix) - 1
        if _compare(mine[:last], prefix[:last]):
            return False
        atoms = mine[last] if last < len(mine) else []
        last_atom = len(prefix[last]) - 1
        if _compare([atoms[:last_atom]], [prefix[last][:last_atom]]):
            return False
        atom = atoms[last_atom] if last_atom < len(atoms) else 0
        wanted = prefix[last][last_atom]
        if isinstance(wanted, str):
            return isinstance(atom, str) and atom.startswith(wanted)
        return atom == wanted


def _parts(text: str) -> Parts:
    # A trailing underscore belongs to the last component (openssl's 1.0.1_ comes before 1.0.1a).
    components = (text[:-1].replace("_", ".") + "_" if text.endswith("_") else text.replace("_", ".")).split(
        "."
    )
    result: Parts = []
    for component in components:
        if not component:
            raise SpecError(f"'{text}' has an empty component")
        atoms: list[Atom] = []
        for atom in _ATOMS.findall(component):
            if atom.isdigit():
                atoms.append(int(atom))
            elif atom == "post":
                atoms.append(float("inf"))
            else:
                # Upper case sorts before '_' and every lower-case letter.
                atoms.append("DEV" if atom == "dev" else atom)
        if not component[0].isdigit():
            atoms.insert(0, 0)
        result.append(atoms)
    return result


def _compare(left: Parts, right: Parts) -> int:
    for index in range(max(len(left), len(right))):
        one = left[index] if index < len(left) else []
        two = right[index] if index < len(right) else []
        for position in range(max(len(one), len(two))):
            a: Atom = one[position] if position < len(one) else 0
            b: Atom = two[position] if position < len(two) else 0
            if isinstance(a, str) != isinstance(b, str):
                return -1 if isinstance(a, str) else 1
            if a != b:
                return -1 if a < b else 1  # type: ignore[operator]
    return 0


_COMPARISONS: dict[str, Callable[[int], bool]] = {
    "==": lambda order: order == 0,
    "!=": lambda order: order != 0,
    "<=": lambda order: order <= 0,
    ">=": lambda order: order >= 0,
    "<": lambda order: order < 0,
    ">": lambda order: order > 0,
}


def _term(term: str) -> Callable[[str], bool]:
    """One constraint without ',' and '|' as a predicate on a version."""
    if term == "*":
        return lambda version: True
    if term.startswith("^") or term.endswith("$"):
        if not (term.startswith("^") and term.endswith("$")):
            raise SpecError(f"the regular expression '{term}' must start with ^ and end with $")
        return _regex(term)
    match = _OPERATOR.match(term)
    if match:
        operator, text = match.groups()
        prefix = text.endswith(".*")
        if prefix:
            text = text[:-2]
        if prefix and operator == "~=":
            raise SpecError(f"'{term}': ~= takes no .*")
        bound = Version(text)
        if "*" in text:
            raise SpecError(f"'{term}': no * after an operator, but for a trailing .*")
        if operator == "=" or (prefix and operator == "=="):
            return lambda version: Version(version).startswith(bound)
        if operator == "!=" and prefix:
            return lambda version: not Version(version).startswith(bound)
        if operator == "~=":
            if "." not in text:
                raise SpecError(f"'{term}': ~= needs at least two components")
            series = Version(text.rsplit(".", 1)[0])
            return lambda version: (
                Version(version).compare(bound) >= 0 and Version(version).startswith(series)
            )
        accepts = _COMPARISONS[operator]
        return lambda version: accepts(Version(version).compare(bound))
    if "*" in term.rstrip("*"):
        return _regex("^" + re.escape(term).replace(r"\*", ".*") + "$")
    if term.endswith("*"):
        series = Version(term.rstrip("*").rstrip("."))
        return lambda version: Version(version).startswith(series)
    bound = Version(term)
    return lambda version: Version(version).compare(bound) == 0


def _regex(text: str) -> Callable[[str], bool]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise SpecError(f"'{text}' is no regular expression: {error}") from error
    return lambda version: bool(pattern.match(version))


class MatchSpec(NamedTuple):
    text: str
    name: str
    version: str | None
    build: str | None
    channel: str | None
    others: tuple[str, ...]

    def matches(self, record: Record) -> bool | None:
        """Whether an installed package satisfies the spec; None when only conda can tell."""
        if record.name != self.name:
            return False
        if self.version is not None and not _version_matches(self.version, record.version):
            return False
        if self.build is not None and not _text_matches(self.build, record.build):
            return False
        if self.channel is not None and not _channel_matches(self.channel, record.channel()):
            return None
        return None if self.others else True


class Record(NamedTuple):
    """An installed package; its channel costs opening the record, so it is asked for only when needed."""

    name: str
    version: str
    build: str
    channel: Callable[[], str]


def parse(text: Any) -> MatchSpec:
    """Reads C(channel::name[=version[=build]]), C(name op version build) and C(name[key=value])."""
    if not isinstance(text, str) or not text.strip():
        raise SpecError("a package must be a non-empty string")
    rest = text.strip()
    if rest.startswith("-") or any(ord(letter) < 32 for letter in rest):
        raise SpecError(f"'{text}' is no MatchSpec")
    if "://" in rest.split("::")[-1] or rest.endswith((".conda", ".tar.bz2")) or rest[0] in "./~":
        raise SpecError(f"'{text}' is a file or an address: name the package and its channel instead")
    fields: dict[str, str] = {}
    if "[" in rest or "]" in rest:
        head, _, inside = rest.partition("[")
        if not inside.endswith("]") or "[" in inside or "]" in inside[:-1]:
            raise SpecError(f"'{text}' has unbalanced brackets")
        fields = _bracket_fields(text, inside[:-1])
        rest = head.strip()
    channel = None
    if "::" in rest:
        channel, _, rest = rest.rpartition("::")
        channel = channel.rsplit(":", 1)[0] if "://" not in channel else channel
        if not channel:
            raise SpecError(f"'{text}' has an empty channel")
    match = re.match(r"([^ =<>!~]+)\s*(.*)\Z", rest)
    if not match:
        raise SpecError(f"'{text}' has no package name")
    name = match.group(1).lower()
    if not _NAME.match(name):
        raise SpecError(f"'{match.group(1)}' is no package name")
    version, build = _version_and_build(text, match.group(2))
    spec = MatchSpec(
        text=text.strip(),
        name=name,
        version=fields.get("version", version),
        build=fields.get("build", build),
        channel=fields.get("channel", channel),
        others=tuple(sorted(key for key in fields if key not in ("version", "build", "channel"))),
    )
    try:
        _version_matches(spec.version or "*", "0")
        _text_matches(spec.build or "*", "0")
    except SpecError as error:
        raise SpecError(f"'{text}': {error}") from error
    return spec


def _bracket_fields(text: str, inside: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    position = 0
    while position < len(inside):
        match = _BRACKET_ITEM.match(inside, position)
        if not match:
            raise SpecError(f"'{text}': cannot read '{inside[position:]}'")
        fields[match.group(1)] = next(value for value in match.groups()[1:] if value is not None).strip()
        position = match.end()
    if "name" in fields:
        raise SpecError(f"'{text}': the name belongs before the brackets")
    for key, value in fields.items():
        if key not in _FIELDS or not value:
            raise SpecError("'{}': {} is {}".format(text, key, "no field" if value else "empty"))
    return fields


def _version_and_build(text: str, rest: str) -> tuple[str | None, str | None]:
    rest = rest.strip()
    if not rest:
        return None, None
    # '=1.2=build' and '1.2 build': the build comes after a blank or a single '=' that follows a version.
    match = re.match(r"(.*?[^><!,|=~ ])(?:\s*=\s*|\s+)([^-=,|<>~\s]+)\Z", rest)
    version, build = (match.group(1), match.group(2)) if match and "==" not in rest[1:] else (rest, None)
    version = re.sub(r"\s*([,|]|[=<>!~]+)\s*", r"\1", version.strip())
    if " " in version:
        raise SpecError(f"'{text}': cannot tell version and build")
    if version.startswith("=") and not version.startswith("=="):
        if version.endswith("*") and not version.endswith(".*"):
            version = version[1:]
        elif build is not None:
            version = "=" + version
    return version, build


def _version_matches(constraint: str, version: str) -> bool:
    if "(" in constraint or ")" in constraint:
        raise SpecError(f"'{constraint}': parentheses are not supported; write the alternatives out")
    if constraint.startswith("^") and constraint.endswith("$"):
        return _term(constraint)(version)
    alternatives = [[_term(term.strip()) for term in one.split(",")] for one in constraint.split("|")]
    return any(all(accepts(version) for accepts in terms) for terms in alternatives)


def _text_matches(pattern: str, value: str) -> bool:
    if pattern.startswith("^") and pattern.endswith("$"):
        return _regex(pattern)(value)
    if "*" in pattern:
        return _regex("^" + re.escape(pattern).replace(r"\*", ".*") + "$")(value)
    return pattern == value


def _channel_matches(wanted: str, actual: str) -> bool:
    """True when C(actual), an address of a record, is surely the channel C(wanted)."""
    actual = re.sub(r"/(noarch|[a-z]+-[a-z0-9_]+)/?\Z", "", actual.rstrip("/"))
    wanted = re.sub(r"/(noarch|(?:linux|osx|win)-[a-z0-9_]+)/?\Z", "", wanted.rstrip("/"))
    names = _CHANNEL_DEFAULTS if wanted == "defaults" else (wanted,)
    return any(actual == name or ("://" not in name and actual.endswith("/" + name)) for name in names)
