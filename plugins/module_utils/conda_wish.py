# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""The options of conda_env as one wish, its environment.yml read in, and all that is wrong with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Mapping, NamedTuple

from ansible_collections.torchfleet.gpu.plugins.module_utils import (
    conda_file,
    conda_lock,
    conda_spec,
    pip_cli,
    pip_spec,
)


class Wish(NamedTuple):
    specs: list[conda_spec.MatchSpec]
    requirements: list[pip_spec.Requirement]
    variables: dict[str, str]
    channels: list[str]
    sources: list[pip_cli.Source]
    lock: conda_lock.Lock | None

    def channel_arguments(self) -> list[str]:
        arguments = [word for channel in self.channels for word in ("-c", channel)]
        return ["--override-channels", *arguments] if arguments else []


def read(params: Mapping[str, Any]) -> tuple[Wish, list[str]]:
    """The wish, and what is wrong with it."""
    problems: list[str] = []
    options = _with_file(params, problems)
    specs, requirements = _packages(options, problems)
    lock = _locked(options, problems)
    if options["state"] == "exact" and not (specs or requirements or lock or problems):
        problems.append("state exact, and no package is named: that would remove all of them")
    problems += _mistakes(options)
    wish = Wish(
        specs,
        requirements,
        {str(key): str(value) for key, value in options["variables"].items()},
        options["channels"],
        [pip_cli.source(given) for given in options["pip_sources"]],
        lock,
    )
    return wish, problems


def _packages(
    params: Mapping[str, Any], problems: list[str]
) -> tuple[list[conda_spec.MatchSpec], list[pip_spec.Requirement]]:
    specs: list[conda_spec.MatchSpec] = []
    requirements: list[pip_spec.Requirement] = []
    python = params["python"]
    if python is not None:
        if re.match(r"[0-9]+(\.[0-9]+){1,2}\Z", python):
            specs.append(conda_spec.parse("python=" + python))
        else:
            problems.append(
                f"python '{python}' is no version such as 3.11 or 3.11.7 (a range goes into packages)"
            )
    for text in params["packages"]:
        try:
            spec = conda_spec.parse(text)
            if python is not None and spec.name == "python":
                problems.append(f"packages: '{text}', but the option python says {python}")
            if spec not in specs:
                specs.append(spec)
        except conda_spec.SpecError as error:
            problems.append(f"packages: {error}")
    for text in params["pip"]:
        try:
            requirement = pip_spec.parse(text)
            if requirement not in requirements:
                requirements.append(requirement)
        except pip_spec.RequirementError as error:
            problems.append(f"pip: {error}")
    return specs, requirements


def _mistakes(params: Mapping[str, Any]) -> list[str]:
    problems = [
        f"channels: '{channel}' is no channel"
        for channel in params["channels"]
        if not channel or channel.startswith("-") or re.search(r"\s", channel)
    ]
    for given in params["pip_sources"]:
        urls = [
            given.get("index_url") or "",
            *(given.get("extra_index_urls") or []),
            *(given.get("find_links") or []),
        ]
        problems += [
            "pip_sources {}: '{}' is no address".format(given["name"], url)
            for url in urls
            if url.startswith("-") or re.search(r"\s", url)
        ]
        if not any(urls) or (given.get("no_index") and not given.get("find_links")):
            problems.append("pip_sources {}: names no place to look at".format(given["name"]))
    problems += [
        f"variables: '{name}' is no name of a variable"
        for name in params["variables"]
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", str(name))
    ]
    for option in ("timeout", "lock_timeout"):
        if params[option] < (1 if option == "timeout" else 0):
            problems.append(f"{option} {params[option]} is not positive")
    return problems


def _with_file(params: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """The options together with the environment.yml, which adds to them."""
    wish = dict(params)
    text = params["content"]
    try:
        if params["file"]:
            text = Path(params["file"]).read_text("utf-8")
        if text is None:
            return wish
        if not isinstance(text, str):
            raise conda_file.FileError("content is no text: look the file up without from_yaml")
        given = conda_file.parse(text)
    except (OSError, UnicodeDecodeError, conda_file.FileError) as error:
        problems.append("{}: {}".format(params["file"] or "content", error))
        return wish
    named = {one.name for one in map(_spec_or_none, wish["packages"]) if one}
    if wish["python"] is not None:
        named.add("python")
    for text in given.packages:
        spec = _spec_or_none(text)
        if spec is None or spec.name not in named:
            wish["packages"] = [*wish["packages"], text]
    wish["channels"] = wish["channels"] or given.channels
    wish["pip"] = [*wish["pip"], *given.pip]
    wish["variables"] = {**given.variables, **wish["variables"]}
    places = given.index_url or given.extra_index_urls or given.find_links or given.no_index
    if places and not wish["pip_sources"]:
        wish["pip_sources"] = [
            {
                "name": "environment.yml",
                "index_url": given.index_url,
                "extra_index_urls": given.extra_index_urls,
                "find_links": given.find_links,
                "no_index": given.no_index,
            }
        ]
    return wish


def _spec_or_none(text: str) -> conda_spec.MatchSpec | None:
    try:
        return conda_spec.parse(text)
    except conda_spec.SpecError:
        return None


def _locked(params: Mapping[str, Any], problems: list[str]) -> conda_lock.Lock | None:
    if params["lock"] is None or params["state"] in ("absent", "locked"):
        return None
    if params["state"] == "latest":
        problems.append("state latest and lock: a lock is what keeps versions; make it again for newer ones")
    try:
        lock = conda_lock.parse(params["lock"])
    except conda_lock.LockError as error:
        problems.append(f"lock: {error}")
        return None
    if lock.platform not in ("noarch", conda_lock.platform()):
        problems.append(f"lock: it is for {lock.platform}, this host is {conda_lock.platform()}")
    return lock
