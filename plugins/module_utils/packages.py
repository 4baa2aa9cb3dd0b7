"""The driver's packages, as the package manager's own files and rpm's database tell them."""

from __future__ import annotations

import fnmatch
import re
from typing import Any, Dict, Iterator, NamedTuple

from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host

Json = Dict[str, Any]

# Best witness first: the package with the kernel module, then one that only pulls it in.
WITNESSES = (
    r"nvidia-(?:open-)?kernel-(?:open-)?dkms|nvidia-(?:tesla|legacy)-.*kernel-dkms|nvidia-dkms(?:-.+)?"
    r"|kmod-nvidia-.*dkms|dkms-nvidia(?:-.+)?",
    r"linux-modules-nvidia-\d.*|a?kmod-nvidia.*|nvidia-kmod-\d.*|nvidia-(?:open-)?driver-.*-kmp-.*",
    r"nvidia-driver(?:-\d+(?:-server)?(?:-open)?|-cuda)?|nvidia-(?:tesla|legacy)-.*driver"
    r"|nvidia-open(?:-\d+)?|nvidia-headless-\d.*|cuda-drivers(?:-\d+)?",
)
# Whose packages carry the driver's version or its branch; container tools and toolkits carry their own.
NAMES = re.compile(
    r"nvidia|^cuda-(?:drivers|compat)|^libcuda(?:1|debugger1)$|^libnvcuvid1$|^libxnvctrl|^nvlsm$"
)
BRANCH_IN_VERSION = re.compile(r"(?:\d+:)?(\d{3})(?=[.-])")
BRANCH_IN_NAME = re.compile(r"-(\d{3})(?:xx)?(?=[-.]|$)")
# Debian builds some of these from sources of their own, the others stand beside a driver: any branch will do.
ANY_BRANCH = re.compile(
    r"nvidia-(?:detect|modprobe|settings|xconfig|persistenced|driver-pinning.*|driver-assistant)"
    r"|cuda-compat-.*|libxnvctrl.*"
)
RPM_GLOBS = ("*nvidia*", "cuda-drivers*", "cuda-compat*", "libcuda*", "nvlsm")

# dpkg-query's words for a package that is as it should be, or that is gone.
WHOLE = ("installed", "config-files", "not-installed")


class Package(NamedTuple):
    """One package; ``state`` in the words of dpkg."""

    name: str
    version: str
    state: str
    held: bool
    arch: str


def packages(host: Host, manager: str | None) -> tuple[Json | None, list[Json], list[Json]]:
    """The best witness of a driver, all its packages, and what an interrupted dpkg left half done."""
    if manager is None:
        return None, [], []
    found = _dpkg(host) if manager == "dpkg" else _rpm(host)
    half = [
        {"name": item.name, "version": item.version, "state": item.state}
        for item in found
        if item.state not in WHOLE
    ]
    driver = [
        (item, _branch(item)) for item in found if item.state not in WHOLE[1:] and NAMES.search(item.name)
    ]
    rows = [
        {
            "name": item.name,
            "version": item.version,
            "arch": item.arch,
            "branch": branch,
            "held": item.held,
        }
        for item, branch in driver
        if branch
    ]
    whole = [item for item, _branch in driver if item.state == "installed"]
    for pattern in WITNESSES:
        for item in whole:
            if re.fullmatch(pattern, item.name):
                return {"name": item.name, "version": item.version, "manager": manager}, rows, half
    return None, rows, half


def of_other_branches(rows: list[Json], witness: Json | None) -> list[Json]:
    """The packages of another branch than the witness's."""
    own = next((row["branch"] for row in rows if witness and row["name"] == witness["name"]), None)
    return [
        {"name": row["name"], "version": row["version"], "branch": row["branch"]}
        for row in rows
        if own and row["branch"] != own and not ANY_BRANCH.fullmatch(row["name"])
    ]


def package_manager(host: Host, os_facts: Json) -> str | None:
    family = {os_facts["id"], *os_facts["like"]}
    if family & {"debian", "ubuntu"}:
        return "dpkg"
    if family & {"rhel", "fedora", "centos", "suse", "opensuse", "sles", "amzn"}:
        return "rpm"
    return next(
        (
            name
            for name, path in (("dpkg", "/var/lib/dpkg/status"), ("rpm", "/usr/bin/rpm"))
            if host.exists(path)
        ),
        None,
    )


def _branch(item: Package) -> str | None:
    match = BRANCH_IN_NAME.search(item.name) or BRANCH_IN_VERSION.match(item.version)
    return match.group(1) if match else None


def _dpkg(host: Host) -> list[Package]:
    """All packages of the driver, and others only where they are half done."""
    found: dict[tuple[str, str], Package] = {}
    # What dpkg has not yet merged into its status, where it was killed; the later file is the newer one.
    for path in ["/var/lib/dpkg/status", *host.glob("/var/lib/dpkg/updates/[0-9]*")]:
        for stanza in host.text(path, 1 << 26).split("\n\n"):
            fields = dict(re.findall(r"^(Package|Status|Version|Architecture): (.*)$", stanza, re.M))
            name, status = fields.get("Package", ""), fields.get("Status", "").split()
            key = (name, fields.get("Architecture", ""))
            if len(status) == 3 and (status[2] not in WHOLE or NAMES.search(name)):
                found[key] = Package(name, fields.get("Version", ""), status[2], status[0] == "hold", key[1])
            else:
                found.pop(key, None)
    return [found[key] for key in sorted(found)]


def _rpm(host: Host) -> list[Package]:
    layout = "%{NAME}\\t%{EPOCHNUM}\\t%{VERSION}\\t%{RELEASE}\\t%{ARCH}\\n"
    _status, out, _err = host.run(["rpm", "-qa", "--queryformat", layout, *RPM_GLOBS])
    locks = list(_locks(host))
    found = []
    for line in sorted(out.splitlines()):
        parts = line.split("\t")
        if len(parts) == 5:
            name, epoch, version, release, arch = parts
            held = any(_locked(lock, name, epoch, f"{version}-{release}", arch) for lock in locks)
            found.append(Package(name, f"{version}-{release}", "installed", held, arch))
    return found


def _locked(lock: str, name: str, epoch: str, version: str, arch: str) -> bool:
    """Whether a lock's pattern means this package; dnf and zypper spell one in any of these ways."""
    spellings = [name]
    for full in (f"{name}-{version}", f"{name}-{epoch}:{version}", f"{epoch}:{name}-{version}"):
        spellings += [full, f"{full}.{arch}"]
    spellings.append(f"{name}-{version.rpartition('-')[0]}")
    # dnf 4 writes name-epoch:version-release.* for each architecture.
    return any(fnmatch.fnmatchcase(spelling, lock) for spelling in spellings)


def _locks(host: Host) -> Iterator[str]:
    """The patterns of the packages that dnf 4, dnf 5 and zypper keep as they are."""
    for line in host.text("/etc/dnf/plugins/versionlock.list").splitlines():
        pattern = line.partition("#")[0].strip()
        if pattern and not pattern.startswith("!"):  # those are versions to skip
            yield pattern
    table = None
    for line in host.text("/etc/dnf/versionlock.toml").splitlines():
        header = re.match(r"\s*\[+\s*([\w.]+)\s*\]+", line)
        table = header.group(1) if header else table
        named = re.match(r"""\s*name\s*=\s*["']([^"']+)["']""", line)
        if named and table == "packages":
            yield named.group(1)
    for stanza in re.split(r"\n\s*\n", host.text("/etc/zypp/locks")):
        fields = dict(re.findall(r"^\s*(\w+):\s*(.*?)\s*$", stanza, re.M))
        if fields.get("type", "package") == "package" and "solvable_name" in fields:
            yield fields["solvable_name"]
