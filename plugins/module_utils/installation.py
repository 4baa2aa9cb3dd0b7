"""What there is of the driver beside its packages: modules, DKMS builds, daemons, and what others left."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict

from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host, version_key
from ansible_collections.torchfleet.gpu.plugins.module_utils.modinfo import flavour, read_modinfo
from ansible_collections.torchfleet.gpu.plugins.module_utils.secure_boot import Keys

Json = Dict[str, Any]

# Where depmod's default order and the distributions put out-of-tree modules, first match wins.
MODULE_DIRS = ("updates/dkms", "updates/**", "extra/**", "weak-updates/**")
MODULE_DIRS_IN_TREE = ("kernel/nvidia*", "kernel/drivers/video/**", "kernel/drivers/char/drm/**")
# Debian renames the module (nvidia-current.ko, nvidia-current-open.ko, nvidia-tesla-535.ko).
MODULE_NAME = re.compile(r"(nvidia(?:-(?:current|tesla|legacy)[\w.-]*?)?)\.ko(?:\.(?:xz|zst|gz))?")
MODULE_PARTS = re.compile(r"-(?:drm|modeset|uvm|peermem|vgpu-vfio)\.ko")

DKMS = "/var/lib/dkms"
MAKE_LOG = re.compile(r"make\.log for \S+ for kernel (\S+)")

UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
MODULES_LOAD = tuple(f"{top}/modules-load.d" for top in ("/etc", "/run", "/usr/lib", "/lib"))
CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")

SOURCES = (
    "/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources",
    "/etc/yum.repos.d/*.repo", "/etc/zypp/repos.d/*.repo",
)  # fmt: skip
# Repositories with drivers: NVIDIA's network repository and its mirrors, the PPA, RPM Fusion, negativo17.
DRIVER_SOURCE = re.compile(
    r"\bcuda/repos/|/nvidia-cuda/|nvidia-driver|graphics-drivers/ppa|download\.nvidia\.com/(?:opensuse|suse)"
    r"|negativo17\.org/\S*nvidia|/var/(?:cuda|nvidia-driver)-(?:repo|local)",
    re.I,
)
OURS = "torchfleet-"

RUN_FILES = (
    "/usr/bin/nvidia-uninstall", "/usr/bin/nvidia-installer", "/var/lib/nvidia",
    "/var/log/nvidia-installer.log", "/var/log/nvidia-uninstall.log",
)  # fmt: skip


def modules(host: Host, kernel: Json, keys: Keys, modprobe: str) -> list[Json]:
    """A row for each kernel that is installed, and for each other directory that still has a module."""
    asked = re.search(
        r"^\s*install\s+nvidia\s+.*modprobe\s+(?:-i|--ignore-install)\s+([\w-]+)", modprobe, re.M
    )
    names = sorted({Path(path).name for path in host.glob("/lib/modules/*")}, key=version_key)
    paths = {name: _module(host, name, asked.group(1) if asked else "nvidia") for name in names}
    # A compressed one is read as a whole, up to a second each: only what runs, or runs next, is worth that.
    matter = {name for name in (kernel["running"], kernel["next"]) if paths.get(name)}
    matter = matter or {name for name in names if paths[name]}
    known: dict[str, Json] = {}  # weak-updates links one file to several kernels
    rows = []
    for name in names:
        path = paths[name]
        if path is None and name not in kernel["installed"]:
            continue
        row: Json = dict.fromkeys(("kernel", "version", "flavour", "path", "signed", "signer", "trusted"))
        row.update(kernel=name, path=path)
        if path and (name in matter or path.endswith(".ko")):
            real = host.real(path)
            if real not in known:
                known[real] = read_modinfo(host.at(path), host.run)
            info = known[real]
            row.update(version=info.get("version"), flavour=flavour(info.get("license", "")))
            row.update(signed=info.get("signed"), signer=info.get("signer"))
            row["trusted"] = keys.trusts(row["signer"], info.get("serial")) if row["signed"] else None
        rows.append(row)
    return rows


def _module(host: Host, kernel: str, wanted: str) -> str | None:
    found: dict[str, str] = {}
    for place in MODULE_DIRS + MODULE_DIRS_IN_TREE:
        for path in host.glob(f"/lib/modules/{kernel}/{place}/nvidia*.ko*"):
            name = MODULE_NAME.fullmatch(Path(path).name)
            if name and not MODULE_PARTS.search(Path(path).name):
                found.setdefault(name.group(1), path)
    return found.get(wanted) or next(iter(found.values()), None)


def dkms(host: Host) -> list[Json]:
    """DKMS's builds of NVIDIA's modules, from the tree that it keeps; ``dkms status`` would take a second."""
    rows = []
    for tree in host.glob(f"{DKMS}/nvidia*/[0-9]*"):
        name, version = tree.split("/")[-2:]

        def row(
            kernel: str | None, state: str, log: str | None = None, of: tuple[str, str] = (name, version)
        ) -> Json:
            return {"name": of[0], "version": of[1], "kernel": kernel, "state": state, "log": log}

        if not host.at(f"{tree}/source").exists():
            rows.append(row(None, "broken"))
            continue
        builds = [
            row(path.split("/")[-3], "installed" if _installed(host, path) else "built")
            for path in host.glob(f"{tree}/*/*/module")
        ]
        # DKMS moves the log away when a build is whole, and takes the directory with it.
        log = f"{tree}/build/make.log"
        if host.exists(f"{tree}/build"):
            told = MAKE_LOG.search(host.text(log, 4096))
            builds.append(row(told.group(1) if told else None, "failed", log if host.exists(log) else None))
        rows += builds or [row(None, "added")]
    return rows


def _installed(host: Host, build: str) -> bool:
    name, version, kernel, arch = build.split("/")[-5:-1]
    link = f"{DKMS}/{name}/kernel-{kernel}-{arch}"
    return host.exists(link) and host.real(link) == host.real(f"{DKMS}/{name}/{version}/{kernel}/{arch}")


def daemon(host: Host, unit: str) -> Json | None:
    """Whether a service starts with the host, and whether it runs; None when there is none."""
    if not any(host.exists(f"{place}/{unit}") for place in UNITS):
        return None
    return {
        "enabled": any(host.glob(f"{place}/*.wants/{unit}") for place in UNITS),
        # systemd takes the control group away with the last process.
        "active": any(host.text(f"{top}/system.slice/{unit}/cgroup.procs", 64) for top in CGROUPS),
    }


def fabric_manager(host: Host, packages: list[Json]) -> Json | None:
    found = daemon(host, "nvidia-fabricmanager.service")
    names = re.compile(r"nvidia-fabric-?manager(?:-\d+)?")
    versions = [row["version"] for row in packages if names.fullmatch(row["name"])]
    if found is None and not versions:
        return None
    told = re.search(r"\d{3}(?:\.\d+)+", versions[0]) if versions else None
    return {"version": told.group(0) if told else None, **(found or {"enabled": False, "active": False})}


def uvm(host: Host) -> Json:
    files = ["/etc/modules"]
    files += [path for top in MODULES_LOAD for path in host.glob(f"{top}/*.conf")]
    named = any(re.search(r"^\s*nvidia[-_]uvm\b", host.text(path), re.M) for path in files)
    return {"loaded": host.exists("/sys/module/nvidia_uvm"), "at_boot": named}


def sources(host: Host) -> list[Json]:
    """Repositories with drivers that somebody else configured."""
    rows = []
    for pattern in SOURCES:
        for path in host.glob(pattern):
            if Path(path).name.startswith(OURS):
                continue
            text = "\n".join(
                line for line in host.text(path).splitlines() if not line.lstrip().startswith("#")
            )
            for stanza in re.split(r"\n\s*\n|\n(?=\[)", text):
                if DRIVER_SOURCE.search(stanza):
                    off = re.search(r"^\s*enabled\s*[:=]\s*(?:0|no|false)\b", stanza, re.M | re.I)
                    url = re.search(r"\b(?:https?|file|cdrom|ftp):/[^\s\]]+", stanza)
                    shown = re.sub("//[^/@]*@", "//", url.group(0)) if url else None  # no password
                    rows.append({"path": path, "url": shown, "enabled": not off})
    return rows


def run_files(host: Host) -> list[str]:
    return [path for path in RUN_FILES if host.exists(path)]
