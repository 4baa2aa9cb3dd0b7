# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Python requirements (PEP 508) and versions (PEP 440), as far as needed to judge an installation.

C(satisfied) answers True, False or None; None means that only pip can tell (extras, markers, addresses).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(rf"(?P<name>{NAME})\s*(?:\[(?P<extras>[^\]]*)\])?\s*(?P<rest>.*)\Z", re.DOTALL)
_EXTRAS = re.compile(rf"\s*{NAME}\s*(?:,\s*{NAME}\s*)*\Z")
_CLAUSE = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*([^\s,;()]+)\Z")
_PEP440 = re.compile(
    r"v?(?:(?P<epoch>[0-9]+)!)?(?P<release>[0-9]+(?:\.[0-9]+)*)"
    r"(?:[-_.]?(?P<pre>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre_n>[0-9]*))?"
    r"(?P<post>-(?P<post_n1>[0-9]+)|[-_.]?(?:post|rev|r)[-_.]?(?P<post_n2>[0-9]*))?"
    r"(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_n>[0-9]*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?\Z",
    re.IGNORECASE,
)
_PRE = {"alpha": "a", "a": "a", "beta": "b", "b": "b", "c": "rc", "rc": "rc", "pre": "rc", "preview": "rc"}
_INFINITY = float("inf")


class RequirementError(ValueError):
    """The text is no requirement."""


def normalise(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Version:
    """A PEP 440 version; C(key) orders versions, the local part included."""

    def __init__(self, text: str) -> None:
        match = _PEP440.match(text.strip())
        if not match:
            raise RequirementError(f"'{text}' is no version of PEP 440")
        self.epoch = int(match.group("epoch") or 0)
        self.release = tuple(int(part) for part in match.group("release").split("."))
        pre = match.group("pre")
        self.pre = (_PRE[pre.lower()], int(match.group("pre_n") or 0)) if pre else None
        post = match.group("post")
        self.post = int(match.group("post_n1") or match.group("post_n2") or 0) if post else None
        self.dev = int(match.group("dev_n") or 0) if match.group("dev") else None
        self.local = tuple(re.split(r"[-_.]", match.group("local").lower())) if match.group("local") else ()

    def public_key(self) -> tuple[Any, ...]:
        release = self.significant_release()
        # 1.0.dev1 < 1.0a1.dev1 < 1.0a1 < 1.0 < 1.0.post1.dev1 < 1.0.post1
        if self.pre:
            pre: tuple[Any, ...] = (0, self.pre[0], self.pre[1])
        elif self.post is None and self.dev is not None:
            pre = (-1,)
        else:
            pre = (1,)
        post = -1 if self.post is None else self.post
        dev = _INFINITY if self.dev is None else self.dev
        return (self.epoch, release, pre, post, dev)

    def significant_release(self) -> tuple[int, ...]:
        length = len(self.release)
        while length > 1 and self.release[length - 1] == 0:
            length -= 1
        return self.release[:length]

    def key(self) -> tuple[Any, ...]:
        # Numbers come after text in a local version.
        local = tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in self.local)
        return (self.public_key(), local)

    def startswith(self, other: Version) -> bool:
        if self.epoch != other.epoch:
            return False
        mine = self.release + (0,) * (len(other.release) - len(self.release))
        return mine[: len(other.release)] == other.release


class Requirement(NamedTuple):
    text: str
    name: str  # normalised
    clauses: tuple[tuple[str, str], ...]
    extras: tuple[str, ...]
    url: str | None
    marker: str | None

    def accepts(self, version: str) -> bool:
        return all(accepts(operator, bound, version) for operator, bound in self.clauses)

    def satisfied(self, version: str | None, url: str | None) -> bool | None:
        """Judges the installed C(version), installed from C(url) where that was recorded (PEP 610)."""
        if version is None:
            return None if self.marker else False
        if self.url is not None:
            if url is None or url.partition("#")[0] != self.url.partition("#")[0]:
                return None
        elif not self.accepts(version):
            return None if self.marker else False
        return None if self.extras else True


def parse(text: Any) -> Requirement:
    if not isinstance(text, str) or not text.strip():
        raise RequirementError("a requirement must be a non-empty string")
    body = text.strip()
    if body.startswith("-"):
        raise RequirementError(f"'{text}' is an option of pip, not a requirement")
    if any(ord(letter) < 32 for letter in body):
        raise RequirementError(f"{text!r} holds a control character")
    match = _REQUIREMENT.match(body)
    if not match or re.match(r"[a-z+]+://", body):
        raise RequirementError(f"'{text}' is no requirement; for an address write 'name @ {text}'")
    name, extras, rest = match.group("name"), match.group("extras"), match.group("rest").strip()
    if extras is not None and extras.strip() and not _EXTRAS.match(extras):
        raise RequirementError(f"'{text}' has bad extras")
    url = None
    clauses: list[tuple[str, str]] = []
    if rest.startswith("@"):
        address, blank, marker = rest[1:].strip().partition(" ;")
        url = address.strip()
        if not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:.", url) or " " in url:
            raise RequirementError(f"'{text}' has no address after the @")
    else:
        versions, blank, marker = rest.partition(";")
        versions = versions.strip()
        if versions.startswith("(") and versions.endswith(")"):
            versions = versions[1:-1].strip()
        for clause in re.sub(r",\Z", "", versions).split(",") if versions else []:
            clauses.append(_clause(text, clause.strip()))
    if blank and not marker.strip():
        raise RequirementError(f"'{text}' has an empty marker")
    return Requirement(
        text=body,
        name=normalise(name),
        clauses=tuple(clauses),
        extras=tuple(sorted(normalise(extra) for extra in (extras or "").split(",") if extra.strip())),
        url=url,
        marker=marker.strip() or None,
    )


def _clause(text: str, clause: str) -> tuple[str, str]:
    match = _CLAUSE.match(clause)
    if not match:
        raise RequirementError(f"'{text}': cannot read '{clause}'; expected a comparison such as ==1.2")
    operator, bound = match.groups()
    if operator == "===":
        return operator, bound
    if bound.endswith(".*"):
        if operator not in ("==", "!="):
            raise RequirementError(f"'{text}': .* only goes with == and !=")
        series = Version(bound[:-2])
        if series.local or series.post is not None or _is_pre(series):
            raise RequirementError(f"'{text}': .* only goes after a plain release")
        return operator, bound
    version = Version(bound)
    if version.local and operator not in ("==", "!="):
        raise RequirementError(f"'{text}': a local version only goes with == and !=")
    if operator == "~=" and len(version.release) < 2:
        raise RequirementError(f"'{text}': ~= needs at least two components")
    return operator, bound


def accepts(operator: str, bound: str, installed: str) -> bool:
    """Whether the version C(installed) meets one clause of PEP 440."""
    if operator == "===":
        return installed.lower() == bound.lower()
    try:
        version = Version(installed)
    except RequirementError:
        return False
    if bound.endswith(".*"):
        return version.startswith(Version(bound[:-2])) == (operator == "==")
    limit = Version(bound)
    if operator in ("==", "!="):
        same = version.key() == limit.key() if limit.local else version.public_key() == limit.public_key()
        return same == (operator == "==")
    mine, theirs = version.public_key(), limit.public_key()
    if operator == "<=":
        return mine <= theirs
    if operator == ">=":
        return mine >= theirs
    if operator == "~=":
        series = "{}!{}.*".format(limit.epoch, ".".join(str(part) for part in limit.release[:-1]))
        return mine >= theirs and accepts("==", series, installed)
    same_release = (
        version.epoch == limit.epoch and version.significant_release() == limit.significant_release()
    )
    if operator == "<":
        # PEP 440: 1.0rc1 is not < 1.0, unless the bound is a pre-release itself.
        of_bound = _is_pre(version) and same_release and not _is_pre(limit) and version.post == limit.post
        return mine < theirs and not of_bound
    # PEP 440: neither 1.0.post1 nor 1.0+local is > 1.0.
    if version.post is not None and limit.post is None and same_release and version.pre == limit.pre:
        return limit.dev is not None
    return mine > theirs


def _is_pre(version: Version) -> bool:
    return version.pre is not None or version.dev is not None
