"""What a package manager would do to a host's driver, and what speaks against it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.module_utils.packages import (
    ANY_BRANCH,
    BRANCH_IN_NAME,
    BRANCH_IN_VERSION,
    NAMES,
)

Json = dict[str, Any]

# apt-get --simulate: "Inst NAME [OLD] (NEW ORIGIN [ARCH])", "Remv NAME [OLD]", "Purg NAME [OLD]".
APT_STEP = re.compile(r"^(Inst|Remv|Purg) (\S+)(?: \[([^\]]+)\])?(?: \((\S+) )?", re.M)
APT_HELD = re.compile(r"^The following held packages will be changed:\n((?:  .*\n)+)", re.M)
APT_POLICY = re.compile(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)", re.M)

# Brought by a driver, of no branch.
HELPERS = re.compile(
    r"nvidia-(?:support|installer-cleanup|kernel-common|legacy-check|alternative|.*-alternative|kmod-common)"
    r"|glx-(?:alternative-\w+|diversions)|update-glx|dkms-nvidia"
)
MODULES = re.compile(
    r"nvidia-(?:open-)?kernel-(?:open-)?dkms|nvidia-(?:tesla|legacy)-.*kernel-dkms|nvidia-dkms(?:-.+)?"
    r"|kmod-nvidia-.*dkms|linux-modules-nvidia-.+"
)
# What a module is loaded with; some archives have one for each flavour, others one for both.
SUPPORT = re.compile(r"nvidia-.*kernel-support")
OPEN = re.compile(r"-open(?:-|$)")
# What boots; its headers and NVIDIA's modules for it are not it.
KERNELS = re.compile(
    r"linux-(?:image|image-unsigned|modules|modules-extra)-(?!nvidia-|headers).+"
    r"|linux-(?:generic|virtual|lowlatency|aws|azure|gcp|oracle)(?:-.+)?|linux-image"
    r"|kernel(?:-(?:core|modules|modules-core|modules-extra|default|uek|uek-core|uek-modules))?"
)
UPSTREAM = re.compile(r"(?:\d+:)?(\d{3}\.\d+(?:\.\d+)?)")


def apt_changes(text: str) -> list[Json]:
    """The packages that ``apt-get --simulate`` would change; ``from`` null: new, ``to`` null: removed.

    ``held``: true where it would change a package that is held.
    """
    held = {name for block in APT_HELD.findall(text) for name in block.split()}
    rows = {}
    for step, name, old, new in APT_STEP.findall(text):
        to = new if step == "Inst" else None
        rows[name] = {"name": name, "from": old or None, "to": to, **({"held": True} if name in held else {})}
    return [rows[name] for name in sorted(rows)]


def apt_candidates(text: str) -> dict[str, str]:
    """The version of each package that ``apt-cache policy`` would install; those without one are left out."""
    return {name: version for name, version in APT_POLICY.findall(text) if version != "(none)"}


def driver_pin(candidates: Mapping[str, str]) -> str:
    """The upstream version of the module, where other parts would be of another; else nothing."""
    versions = {
        name: upstream(version)
        for name, version in candidates.items()
        if NAMES.search(name) and not ANY_BRANCH.fullmatch(name)
    }
    module = next((version for name, version in versions.items() if MODULES.fullmatch(name)), None)
    return module if module and set(versions.values()) - {module, None} else ""


def driver_leftover(installed: Iterable[Json], changes: Iterable[Json], driver: Json) -> list[str]:
    """The installed packages of another branch or flavour that an installation would leave behind."""
    changes = list(changes)
    changed = {row["name"] for row in changes}
    # A manager keeps the other flavour's module where it finds another version of it: that is no removal.
    exchanged = {
        row["name"]
        for row in changes
        if row["to"] and (OPEN.search(row["name"]) is None) is (driver["flavour"] == "open")
    }
    wanted = set(driver["packages"])
    brings_support = any(SUPPORT.fullmatch(row["name"]) and row["from"] is None for row in changes)
    brings_module = any(MODULES.fullmatch(name) for name in wanted)
    return [
        row["name"]
        for row in installed
        if row["name"] not in (changed - exchanged) | wanted
        and not ANY_BRANCH.fullmatch(row["name"])
        and (
            (row["branch"] != driver["branch"] and row["name"] not in changed)
            or (brings_module and MODULES.fullmatch(row["name"]) is not None)
            or (brings_support and SUPPORT.fullmatch(row["name"]) is not None)
            or (OPEN.search(row["name"]) is not None and driver["flavour"] != "open")
        )
    ]


def driver_duplicates(installed: Iterable[Json]) -> list[str]:
    """The older ones of the packages of one name and architecture, as rpm names them."""
    rows = sorted(installed, key=lambda row: [int(part) for part in re.findall(r"\d+", row["version"])])
    newest = {(row["name"], row["arch"]): row["version"] for row in rows}
    return [
        f"{row['name']}-{row['version']}.{row['arch']}"
        for row in rows
        if row["version"] != newest[row["name"], row["arch"]]
    ]


def of_driver(changes: Iterable[Json]) -> list[str]:
    """The names of the packages that are a driver's."""
    return [row["name"] for row in changes if _is_driver(row)]


def _is_driver(row: Json) -> bool:
    return HELPERS.fullmatch(row["name"]) is not None or branch_of(row) is not None


def branch_of(row: Json) -> str | None:
    if not NAMES.search(row["name"]):
        return None
    version = row["to"] or row["from"]
    found = BRANCH_IN_VERSION.match(version) or BRANCH_IN_NAME.search(row["name"])
    return found.group(1) if found else None


def upstream(version: str) -> str | None:
    found = UPSTREAM.match(version)
    return found.group(1) if found else None


def driver_objections(changes: Iterable[Json], branch: str, version: str = "auto") -> list[str]:
    """What speaks against an installation of ``branch``, one sentence for each package."""
    said = []
    modules = {upstream(row["to"]) for row in changes if row["to"] and MODULES.fullmatch(row["name"])}
    for row in changes:
        name, to = row["name"], row["to"]
        step = f"{name} {row['from']} -> {to}" if row["from"] and to else f"{name} {to or row['from']}"
        if KERNELS.fullmatch(name):
            if to:
                said.append(
                    f"it would install a kernel, {step}: upgrade the kernel by itself first, or take a branch"
                    " whose modules fit the installed one"
                )
        elif row.get("held") and not _is_driver(row):
            said.append(
                f"it would change {step}, which is held and no part of the driver: release it first,"
                " if that is wanted"
            )
        elif to is None:
            if not _is_driver(row):
                said.append(
                    f"it would remove {step}, which is no part of the driver: remove it first,"
                    " if it is not wanted"
                )
        elif branch_of(row) and not ANY_BRANCH.fullmatch(name):
            if branch_of(row) != branch:
                said.append(
                    f"{step} is of branch {branch_of(row)}: a transitional package, or the branch has left"
                    f" this repository; set nvidia_driver_branch to {branch_of(row)} if that is wanted"
                )
            elif version != "auto" and upstream(to) not in (None, version):
                said.append(f"{step} is not of version {version}, which nvidia_driver_version asks for")
            elif upstream(to) and modules - {None} and upstream(to) not in modules:
                said.append(
                    f"{step} does not fit the module {', '.join(sorted(m for m in modules if m))}:"
                    " set nvidia_driver_pin to true, or nvidia_driver_version"
                )
    return said
