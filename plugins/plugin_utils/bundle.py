"""What a host needs of a bundle, and what a bundle means for the variables of the roles."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.module_utils import bundle
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import (
    Problem,
    mapping,
    problem,
    sequence,
)

# What uv knows of glibc: the newest that the host has at least.
_MANYLINUX = (17, 28, *range(31, 41))
_SUBDIRS = {
    "x86_64": "linux-64",
    "aarch64": "linux-aarch64",
    "ppc64le": "linux-ppc64le",
    "s390x": "linux-s390x",
}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Where in a bundle things are; plugins/module_utils/bundle.py lays them so.
_CHANNELS = {"conda-forge": "conda-forge", "pytorch-channel": "pytorch"}
_INSTALLS = ("install", "upgrade")
APT = ("debian", "ubuntu")


def requests(
    plan: Mapping[str, Any], truth: Mapping[str, Any], variables: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """All that the host needs files for; the key says what it is, and is the same where that is the same."""
    found = []
    if variables["miniconda_state"] == "present":
        found.append(_installer(variables))
    found += _conda(plan, truth, variables)
    wheels = [row for row in plan["environments"] if row["requirements"]]
    found += [_wheels(row, truth) for row in wheels]
    if wheels and variables["pytorch_installer"] != "pip":
        found.append(
            {
                "kind": "uv",
                "key": f"uv {variables['pytorch_uv_version']} for {truth['machine']}",
                "machine": truth["machine"],
                "version": str(variables["pytorch_uv_version"]),
                "hashes": sequence(
                    mapping(variables["__pytorch_uv_hashes"]).get(variables["pytorch_uv_version"])
                ),
            }
        )
    found += _driver(plan, truth)
    return found


def _installer(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "installer",
        "key": f"the installer {variables['__miniconda_file']}",
        "file": variables["__miniconda_file"],
        "sha256": variables["__miniconda_sha256"],
        "licence": "BSD-3-Clause, and its channel's terms: anaconda.com/legal for Miniconda and Anaconda",
    }


def _platform(truth: Mapping[str, Any]) -> str:
    minor = int(str(truth.get("glibc") or "2.17").split(".")[1])
    known = max((one for one in _MANYLINUX if one <= minor), default=_MANYLINUX[0])
    return f"{truth['machine']}-manylinux_2_{known}"


def _wheels(row: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    names = [re.split(r"[=!<>~]", one)[0] for one in row["requirements"]]
    what = ", ".join([f"torch {row['torch']} {row['variant']}", *names[1:]])
    return {
        "kind": "wheels",
        "key": f"{what} for Python {row['python']} on {_platform(truth)}",
        "python": row["python"],
        "machine": truth["machine"],
        "platform": _platform(truth),
        "requirements": row["requirements"],
        "sources": row["sources"],
    }


def _conda(
    plan: Mapping[str, Any], truth: Mapping[str, Any], variables: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The packages of each environment: its Python, what is declared, and torch where conda installs it."""
    declared = {
        str(row["name"]): row
        for row in map(mapping, sequence(variables["__conda_envs_wishes"]))
        if row.get("name")
    }
    planned = {row["name"]: row for row in plan["environments"]}
    found = []
    for name in [*declared, *(name for name in planned if name not in declared)]:
        wish, torch = declared.get(name, {}), planned.get(name)
        python = wish.get("python") or (torch["python"] if torch and not wish.get("content") else None)
        packages = list(wish.get("packages") or [])
        if torch and variables["pytorch_installer"] != "uv":
            packages.append("pip")
        sources = torch["sources"] if torch and not torch["requirements"] else []
        source = sources[0] if sources else {}
        # The lock is not part of the key: a host that installs from a bundle may have made one since.
        what = {
            "python": python,
            "packages": packages,
            "channels": wish.get("channels") or [],
            "content": wish.get("content"),
            "pip": wish.get("pip") or [],
            "specs": source.get("specs") or [],
        }
        mark = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        lock = wish.get("lock") or ""
        with_torch = f" with torch {torch['torch']} {torch['variant']}" if torch and source else ""
        found.append(
            {
                "kind": "conda",
                "key": f"the conda packages of {name}{with_torch} ({mark}) on {_platform(truth)}",
                "digest": hashlib.sha256(lock.encode()).hexdigest()[:8] if lock else "",
                "wish": {
                    **{key: value for key, value in what.items() if key != "specs"},
                    "lock": lock or None,
                },
                "specs": what["specs"],
                # One dict for each source: its channels by the names that they have in the bundle.
                "channels": [
                    dict(zip((_CHANNELS[row["kind"]], "nvidia"), row["channels"])) for row in sources
                ],
                "cuda": source.get("cuda") or "",
                "variant": torch["variant"] if torch and source else "",
                "note": {"source": source["kind"]} if source else {},
                "python": ".".join(str(python or "3.11").split(".")[:2]),
                "machine": truth["machine"],
                "platform": _platform(truth),
                "subdir": _SUBDIRS.get(truth["machine"], f"linux-{truth['machine']}"),
                "glibc": str(truth.get("glibc") or "2.17"),
                "config": variables["__miniconda_solving"],
            }
        )
    return found


def _driver(plan: Mapping[str, Any], truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    driver = plan["driver"]
    if driver["action"] not in _INSTALLS:
        return []
    kernel, system = mapping(truth.get("kernel")), truth["os"]
    kernels = {str(kernel[key]) for key in ("running", "next") if kernel.get(key)}
    headers = sorted(kernels - set(sequence(kernel.get("headers"))))
    if mapping(truth.get("virtualization")).get("type") == "container":
        headers = []
    name = _system(truth)
    key = f"driver {driver['version']} ({', '.join(driver['packages'])}) for {name}"
    layout = "nvidia" if driver["repository"] == "nvidia" else "distribution"
    return [
        {
            "kind": "apt" if system["id"] in APT else "rpm",
            "key": key + (f", headers of {', '.join(headers)}" if headers else ""),
            "system": name,
            "codename": system.get("codename") or "",
            "architecture": _ARCHITECTURES.get(truth["machine"], truth["machine"]),
            "note": {"driver": {"system": name, "version": driver["version"], "layout": layout}},
        }
    ]


def _system(truth: Mapping[str, Any]) -> str:
    """The name of the host's repository of apt."""
    system, machine = mapping(truth.get("os")), str(truth.get("machine"))
    return f"{system.get('id')}-{system.get('version')}-{_ARCHITECTURES.get(machine, machine)}"


def variables(manifest: Mapping[str, Any], directory: str, truth: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the roles that a bundle in that directory of the host stands for."""
    base = f"file://{directory}"
    entries = list(manifest["requests"].values())
    wheels = sorted({one for row in entries if not row.get("source") for one in row["carries"]})
    sources: list[dict[str, Any]] = []
    # An empty list would not narrow it.
    if wheels:
        place = f"{directory}/wheels"
        sources.append({"name": "bundle", "kind": "bundle", "urls": [place], "carries": wheels})
    for kind, channel in _CHANNELS.items():
        carries = sorted({one for row in entries if row.get("source") == kind for one in row["carries"]})
        if carries:
            row = {"name": f"bundle-{kind}", "kind": kind, "urls": [f"{base}/anaconda/cloud/{channel}"]}
            beside = {"nvidia_urls": [f"{base}/anaconda/cloud/nvidia"]} if kind == "pytorch-channel" else {}
            sources.append({**row, **beside, "carries": carries})
    found: dict[str, Any] = {
        "mirrors_pypi_urls": [f"{base}/pypi/simple"],
        "mirrors_anaconda_urls": [f"{base}/anaconda"],
        "mirrors_anaconda_channels": [
            one[len("pkgs/") :] for one in manifest["channels"] if one.startswith("pkgs/")
        ],
        "mirrors_torch_indexes": [],
        "pytorch_sources": sources,
    }
    name = _system(truth)
    drivers = [row["driver"] for row in entries if mapping(row.get("driver")).get("system") == name]
    if drivers:
        found["nvidia_driver_repository"] = "local"
        found["nvidia_driver_local"] = [
            {"version": version, "layout": layout}
            for version, layout in sorted({(row["version"], row["layout"]) for row in drivers})
        ]
        found["nvidia_driver_local_repository"] = {
            "url": f"{base}/apt/{name}",
            "suite": "./",
            "trusted": True,
        }
    return found


def merged(lists: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each request once; for apt with the packages that every host has that asks."""
    found: dict[str, dict[str, Any]] = {}
    for request in (one for requests_ in lists for one in requests_):
        first = found.setdefault(request["key"], dict(request))
        if "status" in request and first["status"] != request["status"]:
            there = _installed(request["status"])
            first["status"] = "".join(
                f"{text}\n\n" for key, text in _installed(first["status"]).items() if key in there
            )
    return list(found.values())


def _installed(status: str) -> dict[tuple[str, ...], str]:
    """The stanzas of dpkg's status, by package, architecture and version."""
    found = {}
    for stanza in status.strip().split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Architecture|Version|Status): (.+)$", stanza))
        key = tuple(fields.get(name, "") for name in ("Package", "Architecture", "Version", "Status"))
        found[key] = stanza
    return found


def problems(
    manifest: Mapping[str, Any],
    wanted: Sequence[Mapping[str, Any]],
    place: str,
    lacking: Sequence[str] | None = None,
) -> list[Problem]:
    """What the host needs and the bundle does not carry."""
    keys = [request["key"] for request in wanted]
    if lacking is None:
        lacking = bundle.lacking(place, bundle.narrowed(manifest, keys)["files"])
    found = []
    if not manifest["complete"]:
        found.append(
            problem(
                "bundle",
                f"the bundle {place}",
                "a run of playbooks/bundle.yml that did not come to its end",
                "a whole bundle",
                "run playbooks/bundle.yml again where there is a network; it goes on where it was",
            )
        )
    for request in wanted:
        if request["key"] in manifest["requests"]:
            continue
        fix = (
            "run playbooks/bundle.yml with this host in the inventory where there is a network, and carry "
            "the bundle again"
        )
        if request["kind"] == "rpm":
            fix = (
                "a bundle carries packages of apt alone: install the driver first, or name a repository of "
                "your own in "
                "nvidia_driver_local_repository and nvidia_driver_local"
            )
        found.append(
            problem(
                "not_in_bundle",
                f"the bundle {place}",
                f"it does not carry {request['key']}",
                "all that the plan needs",
                fix,
            )
        )
    if lacking:
        found.append(
            problem(
                "not_in_bundle",
                f"the bundle {place}",
                f"files of its manifest are missing or cut: {', '.join(lacking)}",
                "all that the plan needs",
                "carry it again, or mend it: playbooks/bundle.yml fetches what is missing where there is a "
                "network",
            )
        )
    return found
