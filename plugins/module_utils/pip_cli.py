# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""The command lines of pip and uv for one source, and pip's configuration for uv, which does not read it."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_lock import LockError, PipPackage
from ansible_collections.torchfleet.gpu.plugins.module_utils.pip_spec import NAME, normalise

_SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


class Source(NamedTuple):
    name: str
    index_url: str | None
    extra_index_urls: tuple[str, ...]
    find_links: tuple[str, ...]
    no_index: bool

    def arguments(self) -> list[str]:
        result: list[str] = ["--no-index"] if self.no_index else []
        if self.index_url and not self.no_index:
            result += ["--index-url", self.index_url]
        for url in () if self.no_index else self.extra_index_urls:
            result += ["--extra-index-url", url]
        for url in self.find_links:
            result += ["--find-links", url]
        return result


def source(given: Mapping[str, Any]) -> Source:
    return Source(
        name=str(given["name"]),
        index_url=given.get("index_url") or None,
        extra_index_urls=tuple(given.get("extra_index_urls") or ()),
        find_links=tuple(given.get("find_links") or ()),
        no_index=bool(given.get("no_index")),
    )


def pip_command(
    python: str, origin: Source | None, cache_dir: str | None, arguments: Sequence[str]
) -> list[str]:
    command = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["--cache-dir", cache_dir] if cache_dir else []
    command += origin.arguments() if origin else []
    return [*command, *arguments]


def uv_command(
    uv: str,
    python: str,
    origin: Source,
    cache_dir: str | None,
    arguments: Sequence[str],
    verb: str = "install",
) -> list[str]:
    command = [uv, "pip", verb, "--no-progress", "--python", python]
    command += ["--cache-dir", cache_dir] if cache_dir else []
    if origin.extra_index_urls:
        # pip takes the best version of all indexes, uv by default the first index that has the name.
        command += ["--index-strategy", "unsafe-best-match"]
    return [*command, *origin.arguments(), *arguments]


def carried_options(configuration: Mapping[str, str]) -> list[str]:
    """How to reach a source, from pip's configuration; where to look is not taken from there."""
    result: list[str] = []
    for key in ("cert", "client-cert", "proxy", "timeout", "retries"):
        if configuration.get(key):
            result += [f"--{key}", configuration[key]]
    for host in configuration.get("trusted-host", "").split():
        result += ["--trusted-host", host]
    return result


def pip_configuration(prefix: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What pip's configuration files and variables say for C(pip install), keys as in the files."""
    home = Path(environ.get("HOME") or Path.home())
    shared = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    files = [Path(directory, "pip", "pip.conf") for directory in reversed(shared) if directory]
    files += [
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf"),
        Path(prefix, "pip.conf"),
    ]
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        files = []
    elif named:
        files.append(Path(named))
    result: dict[str, str] = {}
    # pip: [install] beats [global] whatever the file, a variable beats both.
    for section in ("global", "install"):
        for path in files:
            parser = configparser.RawConfigParser()
            try:
                parser.read(path, encoding="utf-8")
            except (configparser.Error, UnicodeDecodeError):
                continue
            if parser.has_section(section):
                result.update((key.replace("_", "-"), value) for key, value in parser.items(section))
    for variable, value in environ.items():
        if variable.startswith("PIP_") and variable != "PIP_CONFIG_FILE" and value:
            result[variable[4:].lower().replace("_", "-")] = value
    return result


def configured_source(configuration: Mapping[str, str]) -> Source:
    return Source(
        name="the configuration of pip",
        index_url=configuration.get("index-url"),
        extra_index_urls=tuple(configuration.get("extra-index-url", "").split()),
        find_links=tuple(configuration.get("find-links", "").split()),
        no_index=configuration.get("no-index", "").lower() in ("1", "true", "yes", "on"),
    )


# What would add places to look at, beside those of a source that was named.
PLACES = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"),
    *("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX"),
)


def uv_environment(configuration: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The certificates and the proxy of pip's configuration, for uv."""
    result: dict[str, str] = {}
    # uv trusts a bundle of its own; the CA of a laboratory or a proxy is in pip's or the system's.
    for bundle in (configuration.get("cert", ""), *_SYSTEM_BUNDLES):
        if "SSL_CERT_FILE" not in environ and bundle and Path(bundle).is_file():
            result["SSL_CERT_FILE"] = bundle
            break
    if configuration.get("proxy") and "ALL_PROXY" not in environ:
        result["ALL_PROXY"] = configuration["proxy"]
    hosts = configuration.get("trusted-host", "").split()
    if hosts:
        result["UV_INSECURE_HOST"] = " ".join(hosts)
    return result


def would_install(stdout: str, stderr: str) -> list[str]:
    """The packages of a dry run, as name==version."""
    found: list[str] = []
    for line in (stdout + "\n" + stderr).splitlines():
        line = line.strip()
        match = re.match(r"Would install (?!\d+ packages?\b)(.+)", line)
        if match:
            found += ["==".join(one.rsplit("-", 1)) for one in match.group(1).split()]
        elif re.match(r"[+] [A-Za-z0-9]\S*==", line):
            found.append(line[2:].split()[0])
    return found


def locked_by_report(report: Mapping[str, Any]) -> list[PipPackage]:
    """What pip's installation report says was installed."""
    found = []
    for one in report.get("install") or []:
        origin = one.get("download_info") or {}
        hashes = (origin.get("archive_info") or {}).get("hashes") or {}
        url = str(origin.get("url") or "")
        name = normalise(str(one["metadata"]["name"]))
        if not hashes or (one.get("is_direct") and url.startswith("file:")):
            raise LockError(
                f"{name} comes from {url or 'nowhere'}, which other hosts could not get with a hash"
            )
        found.append(
            PipPackage(
                name,
                str(one["metadata"]["version"]),
                tuple(f"{kind}:{digest}" for kind, digest in sorted(hashes.items())),
                url if one.get("is_direct") else None,
            )
        )
    return found


def locked_by_uv(stdout: str) -> list[PipPackage]:
    """What C(uv pip compile --generate-hashes) prints."""
    found = []
    for entry in re.split(r"\n(?=\S)", stdout.replace("\\\n", " ")):
        match = re.match(rf"({NAME})(?:==(\S+)|\s*@\s*(\S+))", entry.strip())
        if match:
            hashes = tuple(re.findall(r"--hash=(\S+)", entry))
            name, version, url = match.groups()
            found.append(PipPackage(normalise(name), version or "", hashes, url))
    return found
