"""What a host's declared state rests on, as digests, and where on the host the roles look."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import site_data, variables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import mapping, plain, sequence

ROOT = Path(__file__).resolve().parent.parent.parent
# Of the truth: what the roles and the planner decide by, and does not change by itself.
LASTING = (
    "os",
    "machine",
    "kernel",
    "glibc",
    "python",
    "virtualization",
    "secure_boot",
    "mok",
    "gpus",
    "nvswitches",
    "driver",
    "quarantine",
)
# These roles bring a host to its state; the others serve the controller, or only look.
ROLES = ("mirrors", "nvidia_driver", "miniconda", "conda_envs", "pytorch", "gpu_verify")
# Set by roles in the course of a run.
RESULTS = ("mirrors_selected", "nvidia_driver_reboot_required", "nvidia_driver_reboot_reason")
# Read by the roles on every host, beside what their variables name.
FILES = (
    "/boot",
    "/etc/apt",
    "/etc/conda",
    "/etc/dnf",
    "/etc/fish/conf.d",
    "/etc/modprobe.d",
    "/etc/modules",
    "/etc/modules-load.d",
    "/etc/pip.conf",
    "/etc/pki/ca-trust",
    "/etc/pki/rpm-gpg",
    "/etc/pki/tls/certs",
    "/etc/profile.d",
    "/etc/ssl/certs",
    "/etc/systemd/system",
    "/etc/uv",
    "/etc/yum.repos.d",
    "/etc/zypp",
    "/usr/lib/sysimage/rpm/Packages.db",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/usr/local/share/ca-certificates",
    "/var/lib/dkms",
    "/var/lib/dpkg/status",
    "/var/lib/rpm/Packages",
    "/var/lib/rpm/rpmdb.sqlite",
    "~root/.conda/environments.txt",
)
USERS = ("/etc/group", "/etc/passwd")
SHELLS = (".bashrc", ".bash_profile", ".profile", ".zshrc", ".config/fish/config.fish")
Json = dict[str, Any]


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode("utf-8", "replace")).hexdigest()


@cache
def collection() -> str:
    """Code and data of this collection and of the site: others may find what these do not look for."""
    found = hashlib.sha256()
    own = site_data.directory()
    for top in (ROOT / "plugins", ROOT / "roles", *([own] if own else ())):
        for path in sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(top)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def names(every: Iterable[str]) -> list[str]:
    """The variables that a host's state rests on. A misspelt one is among them, so that preflight sees it."""
    found = list(every)
    own = {name for name in found if name.startswith(tuple(f"{role}_" for role in ROLES))}
    misspelt = {row["name"] for row in variables.unknown(found, variables.role_specs())}
    return sorted((own | misspelt) - {*RESULTS})


def truth(told: Mapping[str, Any]) -> str:
    return digest({key: told.get(key) for key in LASTING})


def asks_anew(given: Mapping[str, Any]) -> str:
    """A wish that only the mirrors can answer, so that no untouched host is known to meet it; or nothing."""
    if given.get("miniconda_release") == "latest":
        return "miniconda_release is latest"
    if given.get("conda_envs_lock_refresh"):
        return "conda_envs_lock_refresh is set"
    for row in map(mapping, sequence(given.get("conda_envs_environments"))):
        if row.get("state") == "latest":
            return f"the environment {row.get('name')} has the state latest"
    return ""


def watched(given: Mapping[str, Any]) -> Json:
    """``paths`` and ``leave_out`` of the module converged."""
    prefix = str(given["miniconda_prefix"])
    paths = [*FILES, prefix, str(given["conda_envs_prefix"]), str(given["pytorch_uv_prefix"])]
    paths.append(str(given["gpu_verify_verdict_path"]))
    users: list[str] = []
    for user in sequence(given.get("miniconda_init_users")):
        users += [f"~{user}/{name}" for name in SHELLS]
    for row in map(mapping, sequence(given.get("conda_envs_environments"))):
        if row.get("owner"):
            users.append(f"~{row['owner']}/.conda")
        if row.get("kernelspec") is not None:
            below = f"~{row['owner']}/.local" if row.get("owner") else "/usr/local"
            paths.append(f"{mapping(row['kernelspec']).get('prefix') or below}/share/jupyter/kernels")
    if given.get("mirrors_bundle"):
        there = f"{given['mirrors_bundle']}/manifest.json"
        paths.append(there if given.get("mirrors_bundle_on_host") else str(given["mirrors_bundle_dir"]))
    if given.get("miniconda_group"):
        users.append(str(given["miniconda_shared_dir"]))
    # Its packages are a cache, and every user of root's conda adds to it.
    leave_out = [f"{prefix}/pkgs", f"{given['miniconda_shared_dir']}/pkgs"]
    paths += [*users, *(USERS if users else ())]
    # What lies beneath another path is looked at with it.
    tops = sorted({path for path in paths if not any(path.startswith(f"{other}/") for other in paths)})
    return {"paths": tops, "leave_out": leave_out}


def controller_files(given: Mapping[str, Any]) -> list[str]:
    """Files of the controller whose content goes to the host: paths, absolute or beside the inventory."""
    paths = [*sequence(given.get("mirrors_ca_certificates"))]
    for row in map(mapping, sequence(given.get("conda_envs_environments"))):
        paths += [row.get("file"), row.get("lock_file")]
    paths.append(mapping(given.get("nvidia_driver_local_repository")).get("key_file"))
    if given.get("mirrors_bundle") and not given.get("mirrors_bundle_on_host"):
        paths.append(f"{given['mirrors_bundle']}/manifest.json")
    return [str(path) for path in paths if path]
