"""What a host is: the Truth of docs/contracts.md, read from files wherever a file tells it."""

from __future__ import annotations

import os
import platform
import pwd
import re
from pathlib import Path
from typing import Any, Dict, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils.modinfo import Run, flavour, read_modinfo
from ansible_collections.torchfleet.gpu.plugins.module_utils.verdict import driver_verdict

Json = Dict[str, Any]

NVIDIA = "10de"
EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
MODPROBE_DIRS = ("etc", "run", "usr/local/lib", "usr/lib", "lib")

# Where depmod's default order and the distributions put out-of-tree modules, first match wins.
MODULE_DIRS = ("updates/dkms", "updates/**", "extra/**", "weak-updates/**")
MODULE_DIRS_IN_TREE = ("kernel/nvidia*", "kernel/drivers/video/**", "kernel/drivers/char/drm/**")
# Debian renames the module (nvidia-current.ko, nvidia-current-open.ko, nvidia-tesla-535.ko).
MODULE_NAME = re.compile(r"(nvidia(?:-(?:current|tesla|legacy)[\w.-]*?)?)\.ko(?:\.(?:xz|zst|gz))?")
MODULE_PARTS = re.compile(r"-(?:drm|modeset|uvm|peermem|vgpu-vfio)\.ko")

# Best witness first: the package with the kernel module, then one that only pulls it in.
PACKAGES = (
    r"nvidia-(?:open-)?kernel-(?:open-)?dkms|nvidia-(?:tesla|legacy)-.*kernel-dkms|nvidia-dkms(?:-.+)?"
    r"|kmod-nvidia-.*dkms|dkms-nvidia(?:-.+)?",
    r"linux-modules-nvidia-\d.*|a?kmod-nvidia.*|nvidia-kmod-\d.*",
    r"nvidia-driver(?:-\d+(?:-server)?(?:-open)?|-cuda)?|nvidia-(?:tesla|legacy)-.*driver"
    r"|nvidia-open(?:-\d+)?|nvidia-headless-\d.*|cuda-drivers(?:-\d+)?",
)
PACKAGE_GLOBS = (
    "nvidia*", "linux-modules-nvidia*", "kmod-nvidia*", "akmod-nvidia*", "dkms-nvidia*", "cuda-drivers*",
)  # fmt: skip

LIBRARY_DIRS = ("lib/{machine}-linux-gnu", "lib64", "lib", "lib/wsl/lib", "local/nvidia/lib64")

# DMI texts that name a hypervisor; on x86 the CPU flag says whether there is one, this says which.
HYPERVISORS = {
    "qemu": "qemu", "kvm": "kvm", "vmware": "vmware", "virtualbox": "virtualbox", "innotek": "virtualbox",
    "xen": "xen", "hvm domu": "xen", "microsoft corporation": "hyperv", "google": "google",
    "amazon ec2": "amazon", "alibaba cloud": "alibaba", "tencent cloud": "tencent",
    "huawei cloud": "huawei", "openstack": "openstack", "parallels": "parallels", "bhyve": "bhyve",
}  # fmt: skip


class Host:
    """The files of a host under ``root`` (tests read a tree of their own) and its commands."""

    def __init__(self, run: Run, root: str = "/", machine: str | None = None) -> None:
        self.run = run
        self.root = Path(root).resolve()
        self.machine = machine or platform.machine()

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.at(path))

    def raw(self, path: str, limit: int = 1 << 20) -> bytes:
        """The beginning of a file; nothing when it is absent or not readable."""
        try:
            with self.at(path).open("rb") as file:
                return file.read(limit)
        except OSError:
            return b""

    def text(self, path: str, limit: int = 1 << 20) -> str:
        return self.raw(path, limit).decode("utf-8", "replace").strip()

    def glob(self, pattern: str) -> list[str]:
        try:
            return sorted(
                "/" + str(found.relative_to(self.root)) for found in self.root.glob(pattern.lstrip("/"))
            )
        except OSError:
            return []

    def real(self, path: str) -> str:
        """``path`` with every link followed."""
        try:
            return "/" + str(self.at(path).resolve().relative_to(self.root))
        except (OSError, RuntimeError, ValueError):
            return path


def gather(host: Host, disk_paths: Sequence[str] = ()) -> Json:
    gpus, nvswitches = pci(host)
    kernel = kernels(host)
    truth: Json = {
        "schema": 1,
        "os": os_release(host),
        "machine": host.machine,
        "kernel": kernel,
        "glibc": glibc(),
        "python": platform.python_version(),
        "virtualization": virtualization(host),
        "secure_boot": secure_boot(host),
        "gpus": gpus,
        "nvswitches": nvswitches,
        "processes": processes(host),
        "disks": disks(host, disk_paths),
    }
    modprobe = modprobe_settings(host)
    driver: Json = {
        "package": package(host, truth["os"]),
        "on_disk": on_disk(host, kernel, modprobe),
        "loaded": loaded(host),
        "library": library(host),
        "nouveau": nouveau(host, modprobe),
    }
    driver["foreign"] = foreign(host, driver)
    truth["driver"] = driver
    driver["verdict"], driver["reason"] = driver_verdict(truth)
    return truth


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
    names = [Path(path).name for path in host.glob("/lib/modules/*")]
    bootable = [
        name
        for name in names
        if host.exists(f"/boot/vmlinuz-{name}") or host.exists(f"/lib/modules/{name}/vmlinuz")
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
        "next": max(bootable, key=_version_key) if bootable else None,
        "headers": sorted(headers, key=_version_key),
    }


def _version_key(version: str) -> list[tuple[int, int, str]]:
    """Order as ``sort -V`` does, which is how GRUB finds the newest kernel."""
    return [
        (1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|[^\d]+", version)
    ]


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


def secure_boot(host: Host) -> bool | None:
    value = host.raw(f"/sys/firmware/efi/efivars/SecureBoot-{EFI_GLOBAL}")
    return value[4] == 1 if len(value) == 5 else None  # four bytes of attributes, then the value


def pci(host: Host) -> tuple[list[Json], int]:
    """The NVIDIA GPUs by slot, and the number of NVSwitches."""
    gpus: list[Json] = []
    nvswitches = 0
    for path in host.glob("/sys/bus/pci/devices/*"):

        def field(name: str, path: str = path) -> str:
            return host.text(f"{path}/{name}", 64).lower().replace("0x", "", 1)

        if field("vendor") != NVIDIA:
            continue
        kind = field("class")[:4]
        nvswitches += kind == "0680"
        if kind not in ("0300", "0302"):
            continue
        driver = f"{path}/driver"
        gpus.append(
            {
                "slot": Path(path).name,
                "vendor": NVIDIA,
                "device": field("device"),
                "subsystem": f"{field('subsystem_vendor')}:{field('subsystem_device')}",
                "class": kind,
                "driver": Path(os.readlink(host.at(driver))).name if host.exists(driver) else None,
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


def package(host: Host, os_facts: Json) -> Json | None:
    """The package that brings the kernel module, or failing that one that stands for the driver."""
    manager = _package_manager(host, os_facts)
    if manager == "dpkg":
        # Exit status 1 only says that some pattern matched nothing.
        layout = "${db:Status-Status}\\t${Package}\\t${Version}\\n"
        _status, out, _err = host.run(["dpkg-query", "--show", f"--showformat={layout}", *PACKAGE_GLOBS])
    elif manager == "rpm":
        layout = "installed\\t%{NAME}\\t%{VERSION}-%{RELEASE}\\n"
        _status, out, _err = host.run(["rpm", "-qa", "--queryformat", layout, *PACKAGE_GLOBS])
    else:
        return None
    rows = sorted(line.split("\t") for line in out.splitlines() if line.startswith("installed\t"))
    for pattern in PACKAGES:
        for _installed, name, version in rows:
            if re.fullmatch(pattern, name):
                return {"name": name, "version": version, "manager": manager}
    return None


def _package_manager(host: Host, os_facts: Json) -> str | None:
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


def on_disk(host: Host, kernel: Json, modprobe: str) -> Json | None:
    """The module for the kernel that boots next, else for the running one, else for any."""
    asked = re.search(
        r"^\s*install\s+nvidia\s+.*modprobe\s+(?:-i|--ignore-install)\s+([\w-]+)", modprobe, re.M
    )
    others = sorted((Path(path).name for path in host.glob("/lib/modules/*")), key=_version_key, reverse=True)
    for name in dict.fromkeys([kernel["next"], kernel["running"], *others]):
        path = _module(host, name, asked.group(1) if asked else "nvidia") if name else None
        if path:
            info = read_modinfo(host.at(path), host.run)
            return {
                "version": info.get("version"),
                "flavour": flavour(info.get("license", "")),
                "kernel": name,
                "path": path,
            }
    return None


def _module(host: Host, kernel: str, wanted: str) -> str | None:
    found: dict[str, str] = {}
    for place in MODULE_DIRS + MODULE_DIRS_IN_TREE:
        for path in host.glob(f"/lib/modules/{kernel}/{place}/nvidia*.ko*"):
            name = MODULE_NAME.fullmatch(Path(path).name)
            if name and not MODULE_PARTS.search(Path(path).name):
                found.setdefault(name.group(1), path)
    return found.get(wanted) or next(iter(found.values()), None)


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
            found.append({"pid": pid, "name": host.text(f"/proc/{pid}/comm"), "user": _user(proc / str(pid))})
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


def disks(host: Host, paths: Sequence[str]) -> list[Json]:
    """Space for ordinary users where each path is, or will be once its parents are made."""
    found = []
    for path in paths:
        place = host.at(path)
        while not place.exists() and place != place.parent:
            place = place.parent
        stat = os.statvfs(place)
        found.append(
            {
                "path": path,
                "free_bytes": stat.f_bavail * stat.f_frsize,
                "total_bytes": stat.f_blocks * stat.f_frsize,
            }
        )
    return found
