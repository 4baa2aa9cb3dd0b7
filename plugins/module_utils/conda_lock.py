# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Locks: every package of an environment with its hashes, named by channel so that any mirror can serve it.

A lock is JSON with one package a line. An explicit list (C(conda list --explicit --md5)) is read too.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Mapping, NamedTuple, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils import conda_spec, pip_spec

FORMAT = 1
_SUBDIR = r"noarch|[a-z]+-[a-z0-9_]+"
_URL = re.compile(
    rf"(?P<channel>[a-z][a-z0-9+.-]*://?\S+?)/(?P<subdir>{_SUBDIR})/(?P<fn>[^/\s#]+)"
    r"(?:#(?:md5:)?(?P<md5>[0-9a-f]{32})|#(?:sha256:)?(?P<sha256>[0-9a-f]{64}))?\Z"
)
_FILE = re.compile(r"(?P<stem>[^/\s]+)(?:\.conda|\.tar\.bz2)\Z")
# As the mirrors of Anaconda lay it out, and as Anaconda itself does.
_MIRRORED = re.compile(
    r"https?://(?:[^/]+/(?:[^/]+/)*anaconda/(?:(?P<pkgs>pkgs/[^/]+)|cloud/(?P<cloud>[^/]+))"
    r"|repo\.anaconda\.com/(?P<repo>pkgs/[^/]+)|conda\.anaconda\.org/(?P<org>[^/]+))\Z"
    r"|file:///(?:[^/]+/)*anaconda/(?:(?P<bundled>pkgs/[^/]+)|cloud/(?P<bundled_cloud>[^/]+))\Z"
)
_MACHINES = {
    "x86_64": "linux-64",
    "aarch64": "linux-aarch64",
    "ppc64le": "linux-ppc64le",
    "s390x": "linux-s390x",
}


class LockError(ValueError):
    """The text is no lock that can be used; says why and what to do."""


class Package(NamedTuple):
    channel: str  # the key of Lock.channels
    subdir: str
    fn: str
    md5: str | None
    sha256: str | None

    @property
    def record(self) -> conda_spec.Record:
        match = _FILE.match(self.fn)
        parts = match.group("stem").rsplit("-", 2) if match else []
        if len(parts) != 3:
            raise LockError(f"'{self.fn}' is no file name of a conda package")
        return conda_spec.Record(parts[0], parts[1], parts[2], lambda: self.channel)


class PipPackage(NamedTuple):
    name: str
    version: str
    hashes: tuple[str, ...]
    url: str | None

    def line(self) -> str:
        head = f"{self.name} @ {self.url}" if self.url else f"{self.name}=={self.version}"
        return " ".join([head, *(f"--hash={one}" for one in self.hashes)])


class Lock(NamedTuple):
    platform: str
    channels: dict[str, str]
    conda: list[Package]
    pip: list[PipPackage]
    header: dict[str, Any]  # environment, made, wish: for people

    def records(self) -> dict[str, conda_spec.Record]:
        return {package.record.name: package.record for package in self.conda}

    def explicit(self, bases: Mapping[str, str], names: Sequence[str]) -> str:
        """The list that conda takes, for the packages C(names). Only md5 is known to every conda."""
        lines = ["@EXPLICIT"]
        for package in self.conda:
            if package.record.name in names:
                base = bases.get(package.channel) or self.channels[package.channel]
                url = "{}/{}/{}".format(base.rstrip("/"), package.subdir, package.fn)
                lines.append(f"{url}#{package.md5}" if package.md5 else url)
        return "\n".join(lines) + "\n"

    def requirements(self, names: Sequence[str]) -> str:
        return "".join(one.line() + "\n" for one in self.pip if one.name in names)


class Drift(NamedTuple):
    """How an environment differs from its lock, as names of packages, and in words."""

    conda: list[str]  # to be installed
    pip: list[str]
    conda_extra: list[str]
    pip_extra: list[str]
    words: list[str]
    extra_words: list[str]


def platform() -> str:
    machine = os.uname().machine
    return _MACHINES.get(machine, f"linux-{machine}")


def parse(given: Any) -> Lock:
    """C(given) is the text of a lock or, where Ansible has read it already, its mapping."""
    if isinstance(given, str) and not given.lstrip().startswith("{"):
        return _explicit(given)
    try:
        content = json.loads(given) if isinstance(given, str) else given
        if content.get("torchfleet_lock") != FORMAT:
            found = content.get("torchfleet_lock")
            raise LockError(
                f"a lock of the format {found}, expected {FORMAT}: refresh it (playbooks/lock.yml)"
            )
        lock = Lock(
            platform=str(content["platform"]),
            channels={str(key): str(url) for key, url in content["channels"].items()},
            conda=[
                Package(one["channel"], one["subdir"], one["fn"], one.get("md5"), one.get("sha256"))
                for one in content["conda"]
            ],
            pip=[
                PipPackage(
                    pip_spec.normalise(one["name"]), one["version"], tuple(one["hashes"]), one.get("url")
                )
                for one in content["pip"]
            ],
            header={key: content.get(key) for key in ("environment", "made", "wish")},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, LockError):
            raise
        raise LockError(
            f"no lock that can be read ({error!r}): make it again (playbooks/lock.yml)"
        ) from error
    return _checked(lock)


def _explicit(text: str) -> Lock:
    channels: dict[str, str] = {}
    packages = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#") or line == "@EXPLICIT":
            continue
        match = _URL.match(line)
        if not match:
            raise LockError(f"line {number}: '{masked(line)}' is no address of a conda package with #md5")
        key = channel_key(match.group("channel"))
        channels[key] = match.group("channel")
        packages.append(
            Package(key, match.group("subdir"), match.group("fn"), match.group("md5"), match.group("sha256"))
        )
    platforms = {package.subdir for package in packages} - {"noarch"}
    return _checked(Lock(platforms.pop() if len(platforms) == 1 else "noarch", channels, packages, [], {}))


def _checked(lock: Lock) -> Lock:
    if not lock.conda:
        raise LockError("a lock without conda packages")
    unknown = sorted({one.channel for one in lock.conda} - set(lock.channels))
    if unknown:
        raise LockError("no address for the channel {}".format(", ".join(unknown)))
    if len(lock.records()) != len(lock.conda):
        raise LockError("a lock that names a package twice")
    bare = [one.fn for one in lock.conda if not (one.md5 or one.sha256)]
    bare += [one.name for one in lock.pip if not one.hashes]
    if bare:
        raise LockError("no hash for {}: a lock without hashes is none".format(", ".join(bare)))
    return lock


def channel_key(url: str) -> str:
    """The name of a channel that mirrors share, or the address itself where the layout is another one."""
    match = _MIRRORED.match(url.rstrip("/"))
    return next(filter(None, match.groups())) if match else url.rstrip("/")


def bases(lock: Lock, mirrors: Sequence[str], channels: Sequence[str]) -> list[dict[str, str]]:
    """Where to get each channel of the lock from, an attempt each: the host's mirrors, then as locked."""
    named = {channel_key(plain(url)): url for url in channels if "://" in url}
    attempts = []
    for mirror in mirrors:
        one = {
            key: "{}/{}".format(mirror.rstrip("/"), key if key.startswith("pkgs/") else f"cloud/{key}")
            for key in lock.channels
            if "://" not in key
        }
        attempts.append({**one, **named})
    attempts.append(named)
    result: list[dict[str, str]] = []
    for attempt in attempts:
        whole = {key: attempt.get(key, url) for key, url in lock.channels.items()}
        if whole not in result:
            result.append(whole)
    return result


def drift(
    lock: Lock, conda: Mapping[str, conda_spec.Record], pip: Mapping[str, str], conda_dists: Sequence[str]
) -> Drift:
    """C(pip): name and version of what pip installed; C(conda_dists): the distributions of conda packages."""
    wrong, words = [], []
    records = lock.records()
    for name, record in records.items():
        found = conda.get(name)
        if found is None or found[1:3] != record[1:3]:
            wrong.append(name)
            words.append(_words(name, found and "{} {}".format(*found[1:3]), "{} {}".format(*record[1:3])))
    wrong_pip = []
    for package in lock.pip:
        version = pip.get(package.name)
        if version != package.version:
            wrong_pip.append(package.name)
            words.append(_words(package.name, version, package.version))
    extra = sorted(set(conda) - set(records))
    pip_extra = sorted(set(pip) - {package.name for package in lock.pip} - set(conda_dists))
    extra_words = ["{} {} {} is not in the lock".format(*conda[name][:3]) for name in extra]
    extra_words += [f"{name} {pip[name]} (pip) is not in the lock" for name in pip_extra]
    return Drift(wrong, wrong_pip, extra, pip_extra, words, extra_words)


def _words(name: str, found: str | None, wanted: str) -> str:
    return (
        f"{name} {found} is installed, the lock has {wanted}"
        if found
        else f"{name} {wanted} of the lock is missing"
    )


def package(record: Mapping[str, Any]) -> tuple[Package, str]:
    """One record of conda-meta, and the address of its channel."""
    url = plain(str(record.get("url") or ""))
    match = _URL.match(url)
    if not match:
        raise LockError(
            "{} was not installed from a channel (url {}), so no other host could get it".format(
                record.get("name"), masked(url) or "unknown"
            )
        )
    address = match.group("channel")
    return (
        Package(
            channel_key(address),
            match.group("subdir"),
            match.group("fn"),
            record.get("md5"),
            record.get("sha256"),
        ),
        address,
    )


def plain(url: str) -> str:
    """Without the credentials in it: a lock is kept beside the inventory."""
    url = re.sub(r"/t/[^/]+(?=/)", "", url)
    return re.sub(r"://[^/@\s]+@", "://", url)


def dumps(lock: Lock) -> str:
    """Text of one package a line, so that a diff of two locks reads well."""
    document = {
        "torchfleet_lock": FORMAT,
        **{key: value for key, value in lock.header.items() if value is not None},
        "platform": lock.platform,
        "channels": lock.channels,
    }
    conda = [
        {key: value for key, value in one._asdict().items() if value}
        for one in sorted(lock.conda, key=lambda one: one.fn)
    ]
    pip = [
        {key: value for key, value in one._asdict().items() if value}
        for one in sorted(lock.pip, key=lambda one: one.name)
    ]
    head = json.dumps(document, indent=2)[: -len("\n}")]
    return "{},\n{},\n{}\n}}\n".format(head, _block("conda", conda), _block("pip", pip))


def _block(key: str, rows: Sequence[Mapping[str, Any]]) -> str:
    body = ",\n".join("    " + json.dumps(row) for row in rows)
    return f'  "{key}": [\n{body}\n  ]' if rows else f'  "{key}": []'


_SECRET = re.compile(r"://([^/@\s]+)@|/t/([^/\s]+)(?=/)")


def masked(text: str) -> str:
    return _SECRET.sub(lambda match: "://***@" if match.group(1) else "/t/***", text)


def secrets(texts: Sequence[str]) -> set[str]:
    """Passwords and tokens in addresses."""
    found: set[str] = set()
    for text in texts:
        for credentials, token in _SECRET.findall(text):
            found.update(filter(None, (credentials.partition(":")[2] or credentials, token)))
    return found
