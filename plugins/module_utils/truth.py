"""What a host is: the Truth of docs/contracts.md, read from files wherever a file tells it."""

from __future__ import annotations

import json
import os
import platform
import pwd
import re
from pathlib import Path
from typing import Any, Dict, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host, version_key
from ansible_collections.torchfleet.gpu.plugins.module_utils.installation import (
    daemon,
    dkms,
    fabric_manager,
    modules,
    run_files,
    sources,
    uvm,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.packages import (
    of_other_branches,
    package_manager,
    packages,
)
from ansible_collections.torchfleet.gpu.plugins.module_utils.secure_boot import Keys, secure_boot
from ansible_collections.torchfleet.gpu.plugins.module_utils.surroundings import clock, disks, names, user
from ansible_collections.torchfleet.gpu.plugins.module_utils.verdict import driver_verdict

Json = Dict[str, Any]

NVIDIA = "10de"
# HGX B200 and B300 show no NVSwitch on the bus, but the functions of a ConnectX-7 that manage them. Network
# cards have the same id; the word in the vital product data they have not.
CONNECTX_7, MANAGES_SWITCHES = ("15b3", "1021"), b"SW_MNG"
MODPROBE_DIRS = ("etc", "run", "usr/local/lib", "usr/lib", "lib")

LIBRARY_DIRS = ("lib/{machine}-linux-gnu", "lib64", "lib", "lib/wsl/lib", "local/nvidia/lib64")

# Docker, Podman, containerd and CRI-O name the control group by the container's id.
CONTAINER_GROUP = re.compile(r"[/-]([0-9a-f]{12})[0-9a-f]{52}(?![0-9a-f])")

# DMI texts that name a hypervisor; on x86 the CPU flag says whether there is one, this says which.
HYPERVISORS = {
    "qemu": "qemu", "kvm": "kvm", "vmware": "vmware", "virtualbox": "virtualbox", "innotek": "virtualbox",
    "xen": "xen", "hvm domu": "xen", "microsoft corporation": "hyperv", "google": "google",
    "amazon ec2": "amazon", "alibaba cloud": "alibaba", "tencent cloud": "tencent",
    "huawei cloud": "huawei", "openstack": "openstack", "parallels": "parallels", "bhyve": "bhyve",
}  # fmt: skip


def gather(
    host: Host, disk_paths: Sequence[str] = (), flavours: Sequence[Json] = (), resolve: Sequence[str] = ()
) -> Json:
    """The Truth; ``flavours`` are ranges of PCI ids, first to last, and what can drive their GPUs."""
    gpus, nvswitches = pci(host, flavours)
    kernel = kernels(host)
    keys = Keys(host)
    truth: Json = {
        "schema": 1,
        "os": os_release(host),
        "machine": host.machine,
        "kernel": kernel,
        "glibc": glibc(),
        "python": platform.python_version(),
        "user": user(),
        "clock": clock(),
        "names": names(resolve),
        "virtualization": virtualization(host),
        "secure_boot": secure_boot(host),
        "mok": keys.report(host),
        "gpus": gpus,
        "nvswitches": nvswitches,
        "processes": processes(host),
        "disks": disks(host, disk_paths),
        "quarantine": quarantine(host),
    }
    modprobe = modprobe_settings(host)
    manager = package_manager(host, truth["os"])
    witness, rows, half = packages(host, manager)
    driver: Json = {
        "package": witness,
        "packages": rows,
        "half_configured": half,
        "modules": modules(host, kernel, keys, modprobe),
        "dkms": dkms(host),
        "loaded": loaded(host),
        "uvm": uvm(host),
        "library": library(host),
        "fabric_manager": fabric_manager(host, rows),
        "persistence": daemon(host, "nvidia-persistenced.service"),
        "nouveau": nouveau(host, modprobe),
    }
    driver["on_disk"] = on_disk(kernel, driver["modules"])
    driver["foreign"] = foreign(host, driver)
    driver["leftovers"] = {
        "packages": of_other_branches(rows, witness),
        "sources": sources(host),
        "files": run_files(host),
    }
    truth["driver"] = driver
    driver["verdict"], driver["reason"] = driver_verdict(truth)
    return truth


def quarantine(host: Host) -> Json | None:
    """Why an earlier run set the host aside."""
    text = host.text("/var/lib/torchfleet/quarantine.json")
    if not text:
        return None
    try:
        record = json.loads(text)
        return {"reason": str(record["reason"]), "since": str(record["since"])}
    except (ValueError, KeyError, TypeError):
        return {"reason": "its record cannot be read", "since": None}


def os_release(host: Host) -> Json:
    text = host.text("/etc/os-release") or host.text("/usr/lib/os-release")
    values = {
        key.strip(): value.strip().strip("\"'")
        for key, _, value in (line.partition("=") for line in text.splitlines())
    }
    return {
        "id": values.get("ID", "linux"),  # os-release(5): the default
        "version": values.get("VERSION_ID") or None,
        "codename": values.get("VERSION_CODENAME") or None,
        "like": values.get("ID_LIKE", "").split(),
        "name": values.get("PRETTY_NAME", "Linux"),
    }


def glibc() -> str | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):  # musl
        return None
    return version if name == "glibc" else None


def kernels(host: Host) -> Json:
    running = host.text("/proc/sys/kernel/osrelease") or platform.release()
    names = sorted({Path(path).name for path in host.glob("/lib/modules/*")}, key=version_key)
    bootable = [
        name
        for name in names
        if host.exists(f"/boot/vmlinuz-{name}") or host.exists(f"/lib/modules/{name}/vmlinuz")
    ]
    # A kernel that was removed leaves its directory behind where DKMS had put a module.
    shipped = ("modules.order", "modules.builtin", "kernel")
    installed = [
        name
        for name in names
        if name in bootable or any(host.exists(f"/lib/modules/{name}/{file}") for file in shipped)
    ]
    headers = {name for name in names if host.exists(f"/lib/modules/{name}/build/Makefile")}
    # Only a configured tree builds modules: Debian's -common and Ubuntu's flavourless ones do not.
    for pattern, prefix in (
        ("/usr/src/linux-headers-*/.config", "linux-headers-"),
        ("/usr/src/kernels/*/.config", ""),
    ):
        headers |= {Path(path).parent.name[len(prefix) :] for path in host.glob(pattern)}
    return {
        "running": running,
        "next": bootable[-1] if bootable else None,
        "installed": installed,
        "headers": sorted(headers, key=version_key),
    }


def virtualization(host: Host) -> Json:
    if "microsoft" in host.text("/proc/version").lower() or host.exists("/dev/dxg"):
        return {"type": "wsl2", "detail": None}
    container = _container(host)
    if container:
        return {"type": "container", "detail": container}
    dmi = " ".join(
        host.text(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name", "bios_vendor")
    ).lower()
    which = next((name for text, name in HYPERVISORS.items() if text in dmi), None)
    # The beginning is enough: every processor has the same flags, and the whole file is slow to make.
    info = host.text("/proc/cpuinfo", 16384)
    virtual = (
        bool(re.search(r"^flags\b.*\bhypervisor\b", info, re.M)) if "flags" in info else which is not None
    )
    return {"type": "vm", "detail": which} if virtual else {"type": "none", "detail": None}


def _container(host: Host) -> str | None:
    if host.exists("/run/systemd/system"):
        # systemd looked at more than we can, when it booted; /.dockerenv also survives a `docker export`.
        return host.text("/run/systemd/container") or None
    named = re.search(rb"(?:^|\0)container=([\w.-]+)", host.raw("/proc/1/environ"))
    if named:
        return named.group(1).decode()
    for path, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if host.exists(path):
            return name
    return None


def pci(host: Host, flavours: Sequence[Json] = ()) -> tuple[list[Json], int]:
    """The NVIDIA GPUs by slot, and the number of NVSwitches (or of functions that manage them)."""
    gpus: list[Json] = []
    nvswitches = 0
    for path in host.glob("/sys/bus/pci/devices/*"):

        def field(name: str, path: str = path) -> str:
            return host.text(f"{path}/{name}", 64).lower().replace("0x", "", 1)

        if (field("vendor"), field("device")) == CONNECTX_7:
            nvswitches += MANAGES_SWITCHES in host.raw(f"{path}/vpd", 4096)
        if field("vendor") != NVIDIA:
            continue
        kind = field("class")[:4]
        nvswitches += kind == "0680"
        if kind not in ("0300", "0302"):
            continue
        driver, device = f"{path}/driver", field("device")
        gpus.append(
            {
                "slot": Path(path).name,
                "vendor": NVIDIA,
                "device": device,
                "subsystem": f"{field('subsystem_vendor')}:{field('subsystem_device')}",
                "class": kind,
                "driver": Path(os.readlink(host.at(driver))).name if host.exists(driver) else None,
                "flavours": next(
                    (row["flavours"] for row in flavours if row["first"] <= device <= row["last"]), None
                ),
            }
        )
    return gpus, nvswitches


def modprobe_settings(host: Host) -> str:
    files = [path for top in MODPROBE_DIRS for path in host.glob(f"/{top}/modprobe.d/*.conf")]
    return "\n".join(host.text(path) for path in files)


def nouveau(host: Host, modprobe: str) -> Json:
    banned = re.search(
        r"^\s*(?:blacklist\s+nouveau\b|install\s+nouveau\s+\S*/(?:false|true)\b)", modprobe, re.M
    ) or re.search(
        r"(?:module_blacklist|modprobe\.blacklist|rd\.driver\.blacklist)=(?:\S*,)?nouveau\b",
        host.text("/proc/cmdline"),
    )
    return {"loaded": host.exists("/sys/module/nouveau"), "blacklisted": bool(banned)}


def on_disk(kernel: Json, rows: Sequence[Json]) -> Json | None:
    """The module for the kernel that boots next, else for the running one, else for the newest."""
    found = {row["kernel"]: row for row in rows if row["path"]}
    for name in (kernel["next"], kernel["running"], *reversed(list(found))):
        if name in found:
            return {key: found[name][key] for key in ("version", "flavour", "kernel", "path")}
    return None


def loaded(host: Host) -> Json | None:
    if not host.exists("/sys/module/nvidia"):
        return None
    text = host.text("/proc/driver/nvidia/version")
    told = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text + " ", re.M)
    kind: str | None = None
    if told:
        kind = "open" if "Open Kernel Module" in text else "proprietary"
    elif host.exists("/sys/module/nvidia/taint"):
        kind = "proprietary" if "P" in host.text("/sys/module/nvidia/taint") else "open"
    version = host.text("/sys/module/nvidia/version") or (told.group(1) if told else None)
    return {"version": version, "flavour": kind}


def library(host: Host) -> Json | None:
    """The 64-bit libcuda that the loader finds; the version is in the name that its link leads to."""
    cached = re.findall(rb"/[^\x00]*/libcuda\.so\.1(?=\x00)", host.raw("/etc/ld.so.cache", 1 << 24))
    usual = [f"/usr/{place.format(machine=host.machine)}/libcuda.so.1" for place in LIBRARY_DIRS]
    for path in [name.decode("utf-8", "replace") for name in cached] + usual:
        head = host.raw(path, 5)
        if not head or head == b"\x7fELF\x01":
            continue
        path = host.real(path)
        version = re.search(r"\.so\.(\d+\.\d+(?:\.\d+)?)$", path)
        # WSL's libcuda.so.1.1 carries an interface number, no driver version.
        known = version is not None and int(version.group(1).split(".")[0]) > 99
        return {"version": version.group(1) if version and known else None, "path": path}
    return None


def foreign(host: Host, driver: Json) -> Json | None:
    """A driver that NVIDIA's .run installer put there. Its log outlives it, so a log alone proves nothing."""
    log, tool = "/var/log/nvidia-installer.log", "/usr/bin/nvidia-uninstall"
    lib = driver["library"]
    if host.exists(tool):
        path = tool
    elif host.exists(log) and lib and not driver["package"] and not _owned(host, lib["path"]):
        path = lib["path"]
    else:
        return None
    told = re.search(r"^installer version: ([\d.]+)", host.text(log, 4096), re.M)
    versions = [source["version"] for source in (driver["on_disk"], driver["loaded"], lib) if source]
    version = next((value for value in versions if value), told.group(1) if told else None)
    return {"kind": "run", "version": version, "path": path}


def _owned(host: Host, path: str) -> bool:
    query = ["dpkg-query", "--search", path] if host.exists("/var/lib/dpkg/status") else ["rpm", "-qf", path]
    return host.run(query)[0] == 0


def processes(host: Host) -> list[Json]:
    """Processes that hold an NVIDIA device file, the driver's own daemons among them."""
    if not host.glob("/dev/nvidia*"):
        return []
    found = []
    proc = host.at("/proc")
    for pid in sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit()):
        try:
            links = [os.readlink(fd.path) for fd in os.scandir(proc / str(pid) / "fd")]
        except OSError:  # ended meanwhile, or not ours to see
            continue
        if any(link.startswith("/dev/nvidia") for link in links):
            groups = CONTAINER_GROUP.search(host.text(f"/proc/{pid}/cgroup", 4096))
            found.append(
                {
                    "pid": pid,
                    "name": host.text(f"/proc/{pid}/comm"),
                    "user": _user(proc / str(pid)),
                    "container": groups.group(1) if groups else None,
                }
            )
    return found


def _user(path: Path) -> str | None:
    try:
        uid = path.stat().st_uid
    except OSError:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
