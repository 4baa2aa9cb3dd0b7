# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""Which build of PyTorch an environment holds, what belongs to it, and what keeps it in place."""

from __future__ import annotations

import configparser
import io
import json
import re
from pathlib import Path
from typing import Any, Iterable, NamedTuple, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils import (
    conda_extras,
    conda_spec,
    pip_cli,
    pip_spec,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import Dist, Prefix, write_whole

PACKAGES = ("torch", "torchvision", "torchaudio")
# What a build of torch brings along for its CUDA alone. Two sets of them would lie in one directory.
_BROUGHT = re.compile(r"(nvidia-|cuda-|triton\Z|pytorch-triton)")
# Without ".json", which would make it the record of a package to conda.
_RECORD = "torchfleet-torch"
_CONDA_NAMES = (
    "pytorch",
    "pytorch-cuda",
    "pytorch-gpu",
    "pytorch-mutex",
    "libtorch",
    "torchvision",
    "torchaudio",
)
# CUDA in conda's packages, of conda-forge, the nvidia channel and defaults.
_CUDA_OF_CONDA = re.compile(
    r"(cuda-|cudatoolkit|cudnn|cusparselt|nccl|nvidia-|libcu(?!rl)|libnpp|libnv|libmagma|magma|triton|torchtriton)"
)
_CONSTRAINTS = "torchfleet-constraints.txt"
_MARKER = "# torchfleet (role pytorch): the build of PyTorch that the plan gives this environment.\n"


class CondaSource(NamedTuple):
    name: str
    channels: list[str]
    specs: list[conda_spec.MatchSpec]
    cuda: str | None


class Planned(NamedTuple):
    """One environment of the plan."""

    name: str
    path: str
    python: str
    torch: str
    variant: str
    cuda: str | None
    requirements: list[pip_spec.Requirement]
    pip_sources: list[pip_cli.Source]
    conda_sources: list[CondaSource]

    @property
    def label(self) -> str:
        return f"environment {self.name} ({self.path})"


def planned(given: dict[str, Any], prefix: str) -> Planned:
    """Raises ValueError with what is wrong."""
    rows = given["sources"] or []
    methods = sorted({str(row["method"]) for row in rows})
    if methods not in (["pip"], ["conda"]):
        raise ValueError(
            f"environment {given['name']}: sources of the methods {', '.join(methods) or 'none'}; expected "
            "all pip or all conda"
        )
    requirements = [pip_spec.parse(text) for text in given["requirements"] or []]
    if (methods == ["pip"]) != bool(requirements):
        raise ValueError(
            f"environment {given['name']}: requirements go with the method pip, and only with it"
        )
    return Planned(
        name=str(given["name"]),
        path=f"{prefix}/{given['name']}",
        python=str(given["python"]),
        torch=str(given["torch"]),
        variant=str(given["variant"]),
        cuda=given.get("cuda") or None,
        requirements=requirements,
        pip_sources=[
            # No index: pip and uv would fall back to the configured one.
            pip_cli.source({**row, "no_index": not row.get("index_url")})
            for row in rows
            if row["method"] == "pip"
        ],
        conda_sources=[
            CondaSource(
                str(row["name"]),
                [str(one) for one in row["channels"]],
                [conda_spec.parse(one) for one in row["specs"]],
                row.get("cuda") or None,
            )
            for row in rows
            if row["method"] == "conda"
        ],
    )


def cuda_of(dist: Dist | None) -> str | None:
    """The CUDA that an installed torch was built for, "cpu" for none; None where it does not say."""
    if dist is None:
        return None
    try:
        text = (dist.path.parent / "torch" / "version.py").read_text("utf-8")
    except (OSError, ValueError):
        return None
    match = re.search(r"^cuda\b[^=\n]*=\s*(?:None|['\"]([^'\"]*)['\"])", text, re.M)
    return (match.group(1) or "cpu") if match else None


def needed(prefix: Prefix, names: Iterable[str], without: Sequence[str] = ()) -> tuple[set[str], list[str]]:
    """What the named distributions need, themselves included, and what of it is missing or unfit.

    What only ``without`` need does not count.
    """
    seen: set[tuple[str, tuple[str, ...]]] = set()
    unmet: list[str] = []
    queue = [(name, ()) for name in names]  # type: list[tuple[str, tuple[str, ...]]]
    while queue:
        name, extras = queue.pop()
        dist = prefix.dists.get(name)
        if dist is None or name in without or (name, extras) in seen:
            continue
        seen.add((name, extras))
        for one in prefix.requirements_of(dist, extras) or []:
            other = prefix.dists.get(one.name)
            # What an extra adds is judged when the walk comes to it.
            if one._replace(extras=()).satisfied(other.version if other else None, None) is False:
                found = f"{one.name} {other.version}" if other else "nothing"
                unmet.append(f"{name} needs {one.text.partition(';')[0].strip()}; found: {found}")
            queue.append((one.name, one.extras))
    return {name for name, _extras in seen}, sorted(set(unmet))


def brought(names: Iterable[str]) -> set[str]:
    return {name for name in names if _BROUGHT.match(name)}


def of_build(prefix: Prefix) -> set[str]:
    """What pip put there for the CUDA of the build that is there, or (by the record) of the one before."""
    names = brought({*needed(prefix, PACKAGES)[0], *_record(prefix).get("packages", [])})
    return names & {dist.name for dist in prefix.pip_dists()}


def leftovers(prefix: Prefix) -> list[str]:
    """What a former build brought, and nothing needs now."""
    candidates = of_build(prefix)
    kept, _ = needed(prefix, set(prefix.dists) - candidates)
    return sorted(candidates - kept)


def surplus(prefix: Prefix, build: Iterable[str]) -> list[str]:
    """What the build that is there brought, and neither the next ``build`` nor anything else needs."""
    candidates = of_build(prefix)
    kept, _ = needed(prefix, set(prefix.dists) - candidates, PACKAGES)
    return sorted(candidates - kept - set(build))


def damaged(prefix: Prefix, going: Iterable[str] = ()) -> dict[str, str]:
    """The distributions of the build that lack a library, or will without ``going``, and which.

    The packages of CUDA 12 and 13 have other names and in part the same files.
    """
    lost = {file for name in going for file in _libraries(prefix.dists[name])}
    own = of_build(prefix) | ({*PACKAGES} & {dist.name for dist in prefix.pip_dists()})
    found = {}
    for name in sorted(own - set(going)):
        site_packages = prefix.dists[name].path.parent
        for file in _libraries(prefix.dists[name]):
            if file in lost or not (site_packages / file).exists():
                found[name] = file
                break
    return found


def _libraries(dist: Dist) -> list[str]:
    try:
        return [file for file in dist.files() if re.search(r"\.so(\.[\d.]+)?\Z", file)]
    except (OSError, ValueError):
        return []


def of_other_method(wanted: Planned, prefix: Prefix) -> tuple[list[str], list[str]]:
    """Packages of torch that conda and pip put there, where the plan has them from the other one."""
    if wanted.requirements:
        return [name for name in _CONDA_NAMES if name in prefix.conda], []
    return [], sorted(one.name for one in prefix.pip_dists() if one.name in PACKAGES)


def conda_surplus(prefix: Prefix) -> list[str]:
    """The packages of conda that are CUDA for torch's, and that nothing else needs and nobody asked for."""
    depends = {name: _depends(prefix.meta(record)) for name, record in prefix.conda.items()}

    def closure(names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        queue = [name for name in names if name in depends]
        while queue:
            name = queue.pop()
            if name not in found:
                found.add(name)
                queue += [one for one in depends[name] if one in depends]
        return found

    own = closure(_CONDA_NAMES)
    candidates = {name for name in own if _CUDA_OF_CONDA.match(name)} - _requested(prefix)
    return sorted(candidates - closure(set(depends) - candidates - {*_CONDA_NAMES}))


def _depends(meta: dict[str, Any]) -> list[str]:
    return [str(one).split()[0].lower() for one in meta.get("depends") or []]


def _requested(prefix: Prefix) -> set[str]:
    """The names that somebody gave to conda, by its history."""
    lines = re.findall(r"^# update specs: (.*)$", _read(prefix.path / "conda-meta" / "history") or "", re.M)
    return {name.lower() for line in lines for name in re.findall(r"['\"](?:[^'\"]*::)?([\w.-]+)", line)}


def drift(wanted: Planned, prefix: Prefix) -> list[str]:
    """How the environment differs from the plan, a sentence each; empty when it does not."""
    if not prefix.whole:
        return ["it does not exist"]
    python = prefix.conda.get("python")
    have = python.version if python else "none"
    if not (have + ".").startswith(wanted.python + "."):
        return [f"Python {have}; planned: {wanted.python}"]
    reasons = []
    if wanted.conda_sources:
        verdicts = [_conda_drift(source, prefix) for source in wanted.conda_sources]
        if [] not in verdicts:
            reasons += verdicts[0]
    for requirement in wanted.requirements:
        dist = prefix.dists.get(requirement.name)
        if not requirement.satisfied(dist.version if dist else None, None):
            found = f"{dist.name} {dist.version}" if dist else f"no {requirement.name}"
            reasons.append(f"{found}; planned: {requirement.text}")
    by_conda, by_pip = of_other_method(wanted, prefix)
    reasons += [f"{name} is there as a package of conda; planned: pip" for name in by_conda]
    reasons += [f"{name} is there by pip; planned: conda" for name in by_pip]
    if not reasons:
        cuda, expected = cuda_of(prefix.dists.get("torch")), wanted.cuda or "cpu"
        if cuda is not None and cuda != expected:
            reasons.append(f"torch is built for {_cuda_name(cuda)}; planned: {_cuda_name(expected)}")
    if wanted.requirements and not reasons:
        reasons += needed(prefix, PACKAGES)[1]
        reasons += [f"{name} lacks {file}" for name, file in damaged(prefix).items()]
    reasons += [f"{name} is left of a former build of torch" for name in leftovers(prefix)]
    if not reasons and not constrained(prefix):
        reasons.append("nothing keeps pip from replacing the build")
    return reasons


def _cuda_name(cuda: str) -> str:
    return "the CPU" if cuda == "cpu" else f"CUDA {cuda}"


def _conda_drift(source: CondaSource, prefix: Prefix) -> list[str]:
    reasons = []
    for spec in source.specs:
        record = prefix.conda.get(spec.name)
        if record is None or spec._replace(channel=None).matches(record) is False:
            found = "{} {} {}".format(*record[:3]) if record else f"no {spec.name}"
            reasons.append(f"{found}; planned: {spec.text}")
    return reasons


# -- what keeps the build in place


def _pins(prefix: Prefix) -> str:
    own, _ = needed(prefix, PACKAGES)
    names = sorted(brought(own) | (set(PACKAGES) & set(prefix.dists)))
    return _MARKER + "".join(f"{name}==={prefix.dists[name].version}\n" for name in names)


def _configuration(prefix: Prefix) -> str | None:
    """pip.conf of the environment with the constraint in it; None where it has another one already."""
    path = prefix.path / "pip.conf"
    parser = configparser.RawConfigParser()
    try:
        text = path.read_text("utf-8")
        parser.read_string(text)
    except FileNotFoundError:
        text = ""
    except (OSError, ValueError, configparser.Error):
        return None
    constraint = str(prefix.path / _CONSTRAINTS)
    if parser.has_option("install", "constraint"):
        present = parser.get("install", "constraint").split()
        return text if constraint in present else None
    if not parser.has_section("install"):
        parser.add_section("install")
    parser.set("install", "constraint", constraint)
    written = io.StringIO()
    parser.write(written)
    return written.getvalue().rstrip("\n") + "\n"


def _variables(prefix: Prefix) -> dict[str, str]:
    """uv does not read pip.conf."""
    return {"UV_CONSTRAINT": str(prefix.path / _CONSTRAINTS)}


def constrained(prefix: Prefix) -> bool:
    configuration = _configuration(prefix)
    return (
        _read(prefix.path / _CONSTRAINTS) == _pins(prefix)
        and (configuration is None or _read(prefix.path / "pip.conf") == configuration)
        and _variables(prefix).items() <= prefix.variables().items()
    )


def constrain(prefix: Prefix) -> None:
    write_whole(prefix.path / _CONSTRAINTS, _pins(prefix), 0o644)
    configuration = _configuration(prefix)
    if configuration is not None:
        write_whole(prefix.path / "pip.conf", configuration, 0o644)
    conda_extras.write_variables(str(prefix.path), _variables(prefix), prune=False)


def record(prefix: Prefix) -> None:
    """Remembers what the build brought, so that its next change can tell it from what users installed."""
    packages = sorted(needed(prefix, PACKAGES)[0])
    write_whole(prefix.path / "conda-meta" / _RECORD, json.dumps({"packages": packages}) + "\n", 0o644)


def _record(prefix: Prefix) -> dict[str, Any]:
    try:
        content = json.loads((prefix.path / "conda-meta" / _RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return None


def listing(prefix: Prefix, names: Sequence[str] = ()) -> list[str]:
    """The packages of torch's set as name==version, for people."""
    own = needed(prefix, PACKAGES)[0] | set(names)
    return sorted(f"{one.name}=={one.version}" for one in prefix.dists.values() if one.name in own)
