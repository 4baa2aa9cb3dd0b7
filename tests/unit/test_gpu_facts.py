"""gpu_facts on fixture trees: hosts as Debian, Ubuntu and the RHEL family lay them out."""

from __future__ import annotations

import gzip
import lzma
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.torchfleet.gpu.plugins.module_utils import surroundings
from ansible_collections.torchfleet.gpu.plugins.module_utils import truth as truth_module
from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host
from ansible_collections.torchfleet.gpu.plugins.module_utils.modinfo import read_modinfo
from ansible_collections.torchfleet.gpu.plugins.module_utils.truth import gather
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.flavours import ranges

FIXTURES = Path(__file__).parent / "fixtures" / "gpu_facts"
OPEN, PROPRIETARY = (
    (FIXTURES / name).read_bytes() for name in ("open.ko", "proprietary.ko")
)  # 580.65.06, 535.261.03

RUNNING = "6.1.0-41-amd64"
LIB = "/usr/lib/x86_64-linux-gnu"
PROC_PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  Thu Jun  5 17:33:27 UTC 2025\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)\n"
)
PROC_OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)\n"
)
DEBIAN = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
    'VERSION="12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n'
)
ROCKY = 'VERSION_ID="9.6"\nID="rocky"\nID_LIKE="rhel centos fedora"\nPRETTY_NAME="Rocky Linux 9.6"\n'

Files = dict[str, "str | bytes | Link"]


class Link(str):
    """The target of a symbolic link, absolute as packages make it."""


def pci(
    slot: str, device: str, kind: str = "030200", vendor: str = "10de", driver: str | None = None
) -> Files:
    base = f"/sys/bus/pci/devices/{slot}"
    files: Files = {
        f"{base}/vendor": f"0x{vendor}\n",
        f"{base}/device": f"0x{device}\n",
        f"{base}/class": f"0x{kind}\n",
        f"{base}/subsystem_vendor": "0x10de\n",
        f"{base}/subsystem_device": "0x16c1\n",
    }
    if driver:
        files[f"{base}/driver"] = Link(f"/sys/bus/pci/drivers/{driver}")
    return files


def debian_driver(flavour: str = "proprietary") -> Files:
    """Debian's layout: renamed module, the library behind two absolute alternatives, conf behind one."""
    name = "nvidia-current" if flavour == "proprietary" else "nvidia-current-open"
    return {
        f"/lib/modules/{RUNNING}/updates/dkms/{name}.ko": PROPRIETARY if flavour == "proprietary" else OPEN,
        f"/lib/modules/{RUNNING}/updates/dkms/{name}-drm.ko": b"part",
        f"/lib/modules/{RUNNING}/updates/dkms/{name}-uvm.ko": b"part",
        "/etc/modprobe.d/nvidia.conf": Link("/etc/alternatives/glx--nvidia-modprobe.conf"),
        "/etc/alternatives/glx--nvidia-modprobe.conf": Link("/etc/nvidia/current/nvidia-modprobe.conf"),
        "/etc/nvidia/current/nvidia-modprobe.conf": f"install nvidia modprobe -i {name} $CMDLINE_OPTS\n",
        "/etc/modprobe.d/nvidia-blacklists-nouveau.conf": "# see #580894\nblacklist nouveau\n",
        f"{LIB}/libcuda.so.1": Link("/etc/alternatives/nvidia--libcuda.so.1-x86_64-linux-gnu"),
        "/etc/alternatives/nvidia--libcuda.so.1-x86_64-linux-gnu": Link(f"{LIB}/nvidia/current/libcuda.so.1"),
        f"{LIB}/nvidia/current/libcuda.so.1": Link("libcuda.so.535.261.03"),
        f"{LIB}/nvidia/current/libcuda.so.535.261.03": b"\x7fELF\x02",
    }


BASE: Files = {
    "/etc/os-release": DEBIAN,
    "/proc/sys/kernel/osrelease": RUNNING + "\n",
    f"/boot/vmlinuz-{RUNNING}": "",
    f"/lib/modules/{RUNNING}/modules.order": "",
    f"/lib/modules/{RUNNING}/build": Link(f"/usr/src/linux-headers-{RUNNING}"),
    f"/usr/src/linux-headers-{RUNNING}/Makefile": "",
    f"/usr/src/linux-headers-{RUNNING}/.config": "",
    "/usr/src/linux-headers-6.1.0-41-common/Makefile": "",
    "/run/systemd/system/x": "",
    "/proc/cpuinfo": "processor : 0\nflags : fpu vme de pse\n",
}
LOADED: Files = {
    "/sys/module/nvidia/version": "535.261.03\n",
    "/proc/driver/nvidia/version": PROC_PROPRIETARY,
    **pci("0000:18:00.0", "2330", driver="nvidia"),
}


def dpkg(*rows: tuple[str, ...]) -> Files:
    """dpkg's status file: (name, version) and, where it is not ``install ok installed``, the status."""
    stanzas = [
        f"Package: {name}\nStatus: {(state or ('install ok installed',))[0]}\nArchitecture: amd64\n"
        f"Version: {version}\nDescription: x\n and more of it\n"
        for name, version, *state in rows
    ]
    return {"/var/lib/dpkg/status": "\n".join(stanzas)}


PACKAGES = dpkg(("nvidia-kernel-dkms", "535.261.03-1"), ("nvidia-driver", "535.261.03-1"))

Gather = Callable[..., dict[str, Any]]


@pytest.fixture
def facts(tmp_path: Path) -> Gather:
    """Lays out the files and gathers; ``rpms`` is what rpm lists."""

    def build(
        *parts: Files, rpms: str = "", owned: bool = True, disks: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        for name, content in {key: value for part in parts for key, value in part.items()}.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                inside = tmp_path / content.lstrip("/") if content.startswith("/") else path.parent / content
                path.unlink(missing_ok=True)
                path.symlink_to(os.path.relpath(inside, path.parent))
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)

        def run(command: list[str]) -> tuple[int, str, str]:
            if "--search" in command or "-qf" in command:
                return (0 if owned else 1), "", ""
            assert command[0] == "rpm", command
            return 0, rpms, ""

        return gather(Host(run, root=str(tmp_path), machine="x86_64"), disks, ranges())

    return build


def test_a_bare_host_is_all_absence(facts: Gather) -> None:
    truth = facts(BASE)
    assert (
        truth["gpus"] == [] and truth["nvswitches"] == 0 and truth["processes"] == [] and truth["disks"] == []
    )
    driver = truth["driver"]
    assert {driver[key] for key in ("package", "on_disk", "loaded", "library", "foreign")} == {None}
    assert driver["verdict"] == "not wanted" and "no NVIDIA GPU" in driver["reason"]
    assert truth["os"] == {
        "id": "debian",
        "version": "12",
        "codename": "bookworm",
        "like": [],
        "name": "Debian GNU/Linux 12 (bookworm)",
    }
    assert truth["kernel"] == {
        "running": RUNNING,
        "next": RUNNING,
        "installed": [RUNNING],
        "headers": [RUNNING],
    }
    assert truth["virtualization"] == {"type": "none", "detail": None}
    assert truth["secure_boot"] is None


def test_an_empty_root_is_no_failure(facts: Gather) -> None:
    truth = facts({})
    assert (
        truth["os"]["id"] == "linux"
        and truth["kernel"]["next"] is None
        and truth["driver"]["package"] is None
    )


def test_debians_own_driver_is_seen_through_its_alternatives(facts: Gather) -> None:
    driver = facts(BASE, LOADED, debian_driver(), PACKAGES)["driver"]
    assert driver == {
        "packages": [
            {
                "name": "nvidia-driver",
                "version": "535.261.03-1",
                "arch": "amd64",
                "branch": "535",
                "held": False,
            },
            {
                "name": "nvidia-kernel-dkms",
                "version": "535.261.03-1",
                "arch": "amd64",
                "branch": "535",
                "held": False,
            },
        ],
        "half_configured": [],
        "modules": [
            {
                "kernel": RUNNING,
                "version": "535.261.03",
                "flavour": "proprietary",
                "path": f"/lib/modules/{RUNNING}/updates/dkms/nvidia-current.ko",
                "signed": False,
                "signer": None,
                "trusted": None,
            }
        ],
        "dkms": [],
        "uvm": {"loaded": False, "at_boot": False},
        "fabric_manager": None,
        "persistence": None,
        "leftovers": {"packages": [], "sources": [], "files": []},
        "package": {"name": "nvidia-kernel-dkms", "version": "535.261.03-1", "manager": "dpkg"},
        "on_disk": {
            "version": "535.261.03",
            "flavour": "proprietary",
            "kernel": RUNNING,
            "path": f"/lib/modules/{RUNNING}/updates/dkms/nvidia-current.ko",
        },
        "loaded": {"version": "535.261.03", "flavour": "proprietary"},
        "library": {"version": "535.261.03", "path": f"{LIB}/nvidia/current/libcuda.so.535.261.03"},
        "nouveau": {"loaded": False, "blacklisted": True},
        "foreign": None,
        "verdict": "ok",
        "reason": "module 535.261.03 proprietary is loaded and fits its library",
    }


def test_where_debian_has_both_flavours_the_alternative_decides(facts: Gather) -> None:
    driver = facts(BASE, debian_driver(), debian_driver("open"))["driver"]
    assert driver["on_disk"]["flavour"] == "open" and driver["on_disk"]["version"] == "580.65.06"


def test_gpus_are_display_devices_of_nvidia_in_slot_order(facts: Gather) -> None:
    truth = facts(
        BASE,
        pci("0000:af:00.0", "2330", driver="nvidia"),
        pci("0000:18:00.0", "1b80", "030000"),
        pci("0000:18:00.1", "10f0", "040300"),  # its audio function
        pci("0000:07:00.0", "22a3", "068000"),
        pci("0000:08:00.0", "22a3", "068000"),
        pci("0000:03:00.0", "740f", "038000", vendor="1002"),
    )
    assert [(gpu["slot"], gpu["device"], gpu["class"], gpu["driver"]) for gpu in truth["gpus"]] == [
        ("0000:18:00.0", "1b80", "0300", None),
        ("0000:af:00.0", "2330", "0302", "nvidia"),
    ]
    assert truth["gpus"][0]["subsystem"] == "10de:16c1"
    assert truth["nvswitches"] == 2


def test_nvswitches_that_a_connectx_manages(facts: Gather) -> None:
    """HGX B200: the switches are not on the bus. Its network cards have the same id."""
    bridge, card = "0000:05:00.0", "0000:18:00.0"
    files = pci(bridge, "1021", "020700", vendor="15b3") | pci(card, "1021", "020700", vendor="15b3")
    files[f"/sys/bus/pci/devices/{bridge}/vpd"] = b"\x82\x04\x00name\x90\x0f\x00VA\x0bSMDL=SW_MNG\x78"
    files[f"/sys/bus/pci/devices/{card}/vpd"] = b"\x82\x04\x00name\x78"
    truth = facts(BASE, files)
    assert (truth["nvswitches"], truth["gpus"]) == (1, [])


@pytest.mark.parametrize(
    ("text", "flavour"), [(PROC_PROPRIETARY, "proprietary"), (PROC_OPEN, "open"), (None, None)]
)
def test_flavour_of_the_loaded_module(facts: Gather, text: str | None, flavour: str | None) -> None:
    files: Files = {"/sys/module/nvidia/version": "580.65.06\n"}
    if text:
        files["/proc/driver/nvidia/version"] = text
    assert facts(BASE, files)["driver"]["loaded"] == {"version": "580.65.06", "flavour": flavour}


@pytest.mark.parametrize(("taint", "flavour"), [("POE", "proprietary"), ("OE", "open")])
def test_flavour_by_the_kernels_taint_when_procfs_is_silent(facts: Gather, taint: str, flavour: str) -> None:
    files: Files = {"/sys/module/nvidia/version": "1.2\n", "/sys/module/nvidia/taint": taint + "\n"}
    assert facts(BASE, files)["driver"]["loaded"]["flavour"] == flavour


def test_version_of_the_loaded_module_from_procfs_alone(facts: Gather) -> None:
    files: Files = {"/sys/module/nvidia/initstate": "live\n", "/proc/driver/nvidia/version": PROC_OPEN}
    assert facts(BASE, files)["driver"]["loaded"] == {"version": "580.65.06", "flavour": "open"}


@pytest.mark.parametrize(
    ("place", "pack"),
    [
        ("kernel/nvidia-580srv-open/nvidia.ko", lambda data: data),  # Ubuntu's prebuilt modules
        ("kernel/drivers/video/nvidia.ko", lambda data: data),  # the .run installer
        ("extra/nvidia.ko.xz", lzma.compress),  # RHEL's dkms
        ("extra/drivers/video/nvidia/nvidia.ko.xz", lzma.compress),  # RHEL's precompiled kmod
        ("weak-updates/nvidia/nvidia.ko.gz", gzip.compress),
    ],
)
def test_modules_are_found_where_distributions_put_them(
    facts: Gather, place: str, pack: Callable[[bytes], bytes]
) -> None:
    path = f"/lib/modules/{RUNNING}/{place}"
    framebuffer: Files = {f"/lib/modules/{RUNNING}/kernel/drivers/video/fbdev/nvidia/nvidiafb.ko": b"other"}
    found = facts(BASE, framebuffer, {path: pack(OPEN)})["driver"]["on_disk"]
    assert found == {"version": "580.65.06", "flavour": "open", "kernel": RUNNING, "path": path}


def test_zstd_modules_are_read_by_modinfo_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "nvidia.ko.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    text = "filename:       x\nversion:        580.65.06\nlicense:        Dual MIT/GPL\nsrcversion:     0\n"
    assert read_modinfo(path, lambda command: (0, text, "")) == {
        "version": "580.65.06",
        "license": "Dual MIT/GPL",
        "signed": False,
    }
    assert read_modinfo(path, lambda command: (127, "", "not found")) == {}


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz", ".ko.gz"])
@pytest.mark.parametrize("data", [b"", b"\x7fELF\x02\x01", OPEN[:300], b"garbage" * 40])
def test_a_broken_module_has_no_version(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"nvidia{suffix}"
    path.write_bytes(data)
    assert read_modinfo(path, lambda command: (127, "", "")) == {}


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".ko", bytes), (".ko.xz", lzma.compress), (".ko.gz", gzip.compress)]
)
def test_only_the_section_counts(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    """The first field follows another section's bytes, and .data holds a text that looks like a field."""
    path = tmp_path / f"nvidia{suffix}"
    path.write_bytes(pack(PROPRIETARY))
    assert read_modinfo(path, lambda command: (127, "", "")) == {
        "version": "535.261.03",
        "license": "NVIDIA",
        "signed": False,
    }


def test_next_kernel_is_the_newest_bootable_one(facts: Gather) -> None:
    files: Files = {
        "/boot/vmlinuz-6.1.0-9-amd64": "",
        "/lib/modules/6.1.0-9-amd64/modules.order": "",
        "/lib/modules/6.1.0-100-amd64/vmlinuz": "",  # as the RHEL family keeps it
        "/lib/modules/6.12.0-1-amd64/updates/x": "",  # left over: nothing to boot
        "/boot/vmlinuz-0-rescue-f00": "",
    }
    assert facts(BASE, files)["kernel"]["next"] == "6.1.0-100-amd64"


def test_headers_need_a_configured_tree(facts: Gather) -> None:
    files: Files = {
        "/lib/modules/5.14.0-1.el9.x86_64/build": Link("/usr/src/kernels/5.14.0-1.el9.x86_64"),  # dangling
        "/usr/src/kernels/5.14.0-2.el9.x86_64/.config": "",
        "/usr/src/linux-headers-6.8.0-45/Makefile": "",  # Ubuntu's flavourless half
    }
    assert facts(BASE, files)["kernel"]["headers"] == ["5.14.0-2.el9.x86_64", RUNNING]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/version": "Linux version 5.15.167.4-microsoft-standard-WSL2"}, ("wsl2", None)),
        ({"/dev/dxg": ""}, ("wsl2", None)),
        ({"/run/systemd/container": "docker\n"}, ("container", "docker")),
        # A virtual machine made from an exported image keeps this file; systemd knew better.
        ({"/.dockerenv": ""}, ("none", None)),
        (
            {"/proc/cpuinfo": "flags : fpu hypervisor\n", "/sys/class/dmi/id/sys_vendor": "QEMU\n"},
            ("vm", "qemu"),
        ),
        ({"/proc/cpuinfo": "flags : fpu hypervisor\n"}, ("vm", None)),
        # EC2's bare-metal machines name the same vendor.
        ({"/sys/class/dmi/id/sys_vendor": "Amazon EC2\n"}, ("none", None)),
        (
            {"/proc/cpuinfo": "Features : fp asimd\n", "/sys/class/dmi/id/sys_vendor": "QEMU\n"},
            ("vm", "qemu"),
        ),
    ],
)
def test_virtualization(facts: Gather, files: Files, expected: tuple[str, str | None]) -> None:
    found = facts(BASE, files)["virtualization"]
    assert (found["type"], found["detail"]) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/1/environ": "PATH=/bin\0container=lxc\0"}, "lxc"),
        ({"/.dockerenv": ""}, "docker"),
        ({"/run/.containerenv": ""}, "podman"),
    ],
)
def test_containers_without_systemd(facts: Gather, files: Files, expected: str) -> None:
    base = {name: content for name, content in BASE.items() if not name.startswith("/run")}
    truth = facts(base, files, pci("0000:18:00.0", "2330"))
    assert truth["virtualization"] == {"type": "container", "detail": expected}
    assert truth["driver"]["verdict"] == "not wanted"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"\x06\0\0\0\x01", True), (b"\x06\0\0\0\0", False), (b"", None), (b"\x06\0\0\0", None)],
)
def test_secure_boot(facts: Gather, value: bytes, expected: bool | None) -> None:
    path = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    assert facts(BASE, {path: value})["secure_boot"] is expected


@pytest.mark.parametrize(
    ("files", "blacklisted"),
    [
        ({"/usr/lib/modprobe.d/x.conf": "  blacklist nouveau # no\n"}, True),
        ({"/etc/modprobe.d/x.conf": "install nouveau /bin/false\n"}, True),
        ({"/proc/cmdline": "ro quiet modprobe.blacklist=pcspkr,nouveau rd.x=1"}, True),
        ({"/etc/modprobe.d/x.conf": "# blacklist nouveau\nblacklist nouveau_vgpu2\n"}, False),
        ({"/etc/modprobe.d/x.conf.dpkg-old": "blacklist nouveau\n"}, False),
        ({"/proc/cmdline": "modprobe.blacklist=pcspkr nouveau.modeset=1"}, False),
    ],
)
def test_nouveau_blacklist(facts: Gather, files: Files, blacklisted: bool) -> None:
    assert facts(BASE, files)["driver"]["nouveau"] == {"loaded": False, "blacklisted": blacklisted}


UBUNTU = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n'


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("nvidia-open-kernel-dkms", "550.163.01-2")], "nvidia-open-kernel-dkms"),
        ([("nvidia-kernel-dkms", "535.261.03-1", "deinstall ok config-files")], None),
        ([("nvidia-kernel-dkms", "535.261.03-1", "install ok half-configured")], None),
        ([("nvidia-kernel-common", "20220217"), ("nvidia-modprobe", "535.161.07-1")], None),
        ([("nvidia-driver-pinning-580", "580-1"), ("nvidia-detect", "535.261.03-1")], None),
        (
            [
                ("nvidia-driver-580-server", "580.173.02-0ubuntu1"),
                ("linux-modules-nvidia-580-server-6.8.0-45-generic", "6.8.0-45.45+1"),
            ],
            "linux-modules-nvidia-580-server-6.8.0-45-generic",
        ),
    ],
)
def test_the_drivers_package(facts: Gather, rows: list[tuple[str, ...]], expected: str | None) -> None:
    found = facts(BASE, {"/etc/os-release": UBUNTU}, dpkg(*rows))["driver"]["package"]
    assert (found and found["name"]) == expected
    assert found is None or found["manager"] == "dpkg"


def test_library_from_the_loaders_cache_and_never_the_32_bit_one(facts: Gather) -> None:
    names = [b"/opt/nv/lib32/libcuda.so.1", b"/opt/nv/lib/libcuda.so.1"]
    cache = b"glibc-ld.so.cache1.1" + struct.pack("<I", 2) + b"\0libcuda.so.1\0" + b"\0".join(names) + b"\0"
    files: Files = {
        "/etc/ld.so.cache": cache,
        "/opt/nv/lib32/libcuda.so.1": b"\x7fELF\x01",
        "/opt/nv/lib/libcuda.so.1": Link("libcuda.so.580.65.06"),
        "/opt/nv/lib/libcuda.so.580.65.06": b"\x7fELF\x02",
        f"{LIB}/libcuda.so.1": b"\x7fELF\x02",
    }
    assert facts(BASE, files)["driver"]["library"] == {
        "version": "580.65.06",
        "path": "/opt/nv/lib/libcuda.so.580.65.06",
    }


def test_a_dangling_library_link_is_no_library(facts: Gather) -> None:
    assert facts(BASE, {f"{LIB}/libcuda.so.1": Link(f"{LIB}/gone")})["driver"]["library"] is None


def test_wsls_library_has_no_driver_version(facts: Gather) -> None:
    files: Files = {
        "/usr/lib/wsl/lib/libcuda.so.1": Link("libcuda.so.1.1"),
        "/usr/lib/wsl/lib/libcuda.so.1.1": b"\x7fELF\x02",
    }
    assert facts(BASE, files)["driver"]["library"]["version"] is None


def test_a_run_file_is_foreign_and_its_log_alone_is_not(facts: Gather) -> None:
    log: Files = {"/var/log/nvidia-installer.log": "creation time: x\ninstaller version: 550.54.14\n"}
    library: Files = {f"{LIB}/libcuda.so.1": b"\x7fELF\x02"}
    gpu = pci("0000:18:00.0", "2330")
    assert facts(BASE, gpu, log)["driver"]["foreign"] is None
    assert facts(BASE, gpu, log, library, owned=True)["driver"]["foreign"] is None
    found = facts(BASE, gpu, log, library, owned=False)["driver"]
    assert found["foreign"] == {"kind": "run", "version": "550.54.14", "path": f"{LIB}/libcuda.so.1"}
    tool = facts(BASE, gpu, {"/usr/bin/nvidia-uninstall": ""}, PACKAGES)["driver"]
    assert tool["foreign"]["path"] == "/usr/bin/nvidia-uninstall"
    assert tool["verdict"] == "foreign (.run)"


def test_processes_that_hold_a_device(facts: Gather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, target in ((4242, "/dev/nvidia0"), (17, "/dev/null"), (900, "/dev/nvidia-uvm")):
        (tmp_path / f"proc/{pid}/fd").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/fd/3").symlink_to(target)
        (tmp_path / f"proc/{pid}/comm").write_text("python3\n")
    (tmp_path / "proc/5").mkdir()  # it ended between the listing and the look
    monkeypatch.setattr(truth_module, "_user", lambda path: "alice")
    assert facts(BASE)["processes"] == []  # no device files, no search
    found = facts({"/dev/nvidiactl": ""})["processes"]
    assert found == [
        {"pid": pid, "name": "python3", "user": "alice", "container": None} for pid in (900, 4242)
    ]


def test_disks_stand_for_their_nearest_parent(facts: Gather, tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    found = facts(BASE, disks=("/opt/not/yet",))["disks"]
    assert [(disk["path"], disk["total_bytes"]) for disk in found] == [
        ("/opt/not/yet", stat.f_blocks * stat.f_frsize)
    ]
    assert 0 < found[0]["free_bytes"] <= found[0]["total_bytes"]
    assert found[0]["exists"] is False and found[0]["device"] == tmp_path.stat().st_dev
    assert facts(BASE, disks=("/etc",))["disks"][0]["exists"] is True


def test_how_a_file_system_is_mounted(facts: Gather, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(".")

    class Mounted:
        f_bavail, f_blocks, f_frsize = real.f_bavail, real.f_blocks, real.f_frsize
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda _path: Mounted)
    row = facts(BASE, disks=("/etc",))["disks"][0]
    assert (row["read_only"], row["noexec"]) == (True, False)
    Mounted.f_flag = os.ST_NOEXEC
    row = facts(BASE, disks=("/etc",))["disks"][0]
    assert (row["read_only"], row["noexec"]) == (False, True)


def test_names_that_resolve_and_names_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()

    def resolver(name: str, _port: None) -> list[Any]:
        if name == "stuck.example.org":
            stuck.wait(30)
        if name in ("gone.example.org", "."):
            raise UnicodeError if name == "." else socket.gaierror("no such name")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu07")
    wanted = ["stuck.example.org", "one.example.org", "gone.example.org", ".", "one.example.org"]
    found = surroundings.names(wanted, seconds=0.2)
    stuck.set()
    assert found["asked"] == [*wanted[:4], "gpu07"]
    assert found["unresolved"] == ["stuck.example.org", "gone.example.org", "."]
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert surroundings.names([]) == {"hostname": "gpu07", "asked": [], "unresolved": []}


def test_who_and_when(facts: Gather) -> None:
    truth = facts(BASE)
    assert truth["user"]["uid"] == os.geteuid()
    assert abs(truth["clock"]["time"] - time.time()) < 60 and truth["clock"]["skew_seconds"] is None


def held_by(driver: str) -> Files:
    return pci("0000:af:00.0", "1b80", driver=driver)


NEWER = "6.1.0-42-amd64"
SECURE: Files = {
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\x06\0\0\0\x01"
}
GPU = pci("0000:18:00.0", "2330")
SECOND = pci("0000:af:00.0", "1b80")
CONTAINER: Files = {"/run/systemd/container": "docker"}
OLD_LIBRARY: Files = {
    f"{LIB}/libcuda.so.1": Link("libcuda.so.535.216.03"),
    f"{LIB}/libcuda.so.535.216.03": b"\x7fELF\x02",
}
ON_DISK: Files = {f"/lib/modules/{RUNNING}/updates/dkms/nvidia-current.ko": PROPRIETARY}
NOUVEAU: Files = {"/sys/module/nouveau/x": ""}
NEWER_MODULE: Files = {
    f"/boot/vmlinuz-{NEWER}": "",
    f"/lib/modules/{NEWER}/updates/dkms/nvidia.ko": OPEN,
}
NEWER_KERNEL: Files = {f"/boot/vmlinuz-{NEWER}": "", f"/lib/modules/{NEWER}/x": ""}
OTHER_MODULE: Files = {"/lib/modules/6.1.0-9-amd64/updates/dkms/nvidia.ko": OPEN}


@pytest.mark.parametrize(
    ("parts", "verdict", "reason"),
    [
        ([GPU], "absent", "no NVIDIA driver"),
        ([GPU, NOUVEAU], "absent", "nouveau is loaded"),
        ([GPU, debian_driver(), PACKAGES], "reboot pending", "not loaded yet"),
        ([GPU, debian_driver(), SECURE, PACKAGES], "blocked by Secure Boot", "key"),
        ([GPU, debian_driver(), NOUVEAU, PACKAGES], "nouveau active", "reboot"),
        ([GPU, OTHER_MODULE, PACKAGES], "built for another kernel", "6.1.0-9-amd64"),
        ([GPU, PACKAGES], "built for another kernel", "no kernel has its module"),
        (
            [GPU, NEWER_MODULE, PACKAGES],
            "reboot pending",
            f"{RUNNING} runs",
        ),
        # The running kernel has its module, the one that an upgrade brought has none.
        (
            [LOADED, debian_driver(), NEWER_KERNEL, PACKAGES],
            "built for another kernel",
            f"none for kernel {NEWER}",
        ),
        ([LOADED, debian_driver("open"), PACKAGES], "reboot pending", "580.65.06 open is on disk"),
        ([LOADED, ON_DISK, PACKAGES], "library mismatch", "libcuda.so.1 is missing"),
        # Gone with a kernel that was removed: what is loaded is the last that there is.
        ([LOADED, PACKAGES], "built for another kernel", "no kernel has its module on the disk"),
        ([GPU, {"/sys/module/nvidia/x": ""}], "reboot pending", "module of unknown version is loaded still"),
        # A removal: also where another flavour was asked for, the next boot lets it go.
        ([LOADED], "reboot pending", "neither its file nor a package is there"),
        ([LOADED, SECOND], "reboot pending", "a reboot lets it go"),
        (
            [LOADED, ON_DISK, OLD_LIBRARY, PACKAGES],
            "library mismatch",
            "libcuda is 535.216.03",
        ),
        ([LOADED, debian_driver(), SECOND, PACKAGES], "wrong flavour", "0000:af:00.0 (10de:1b80)"),
        ([LOADED, debian_driver(), SECOND, held_by("vfio-pci"), PACKAGES], "ok", "loaded"),
        ([LOADED, debian_driver(), SECOND, held_by("nouveau"), PACKAGES], "nouveau active", "af:00"),
        ([LOADED, debian_driver(), CONTAINER, PACKAGES], "not wanted", "container"),
    ],
)  # fmt: skip
def test_verdicts(facts: Gather, parts: list[Files], verdict: str, reason: str) -> None:
    driver = facts(BASE, *parts)["driver"]
    assert driver["verdict"] == verdict
    assert reason in driver["reason"]


def test_a_changed_flavour_of_the_same_version_waits_for_a_reboot(facts: Gather) -> None:
    swapped: Files = {f"/lib/modules/{RUNNING}/updates/dkms/nvidia-current.ko": PROPRIETARY}
    running_open: Files = {"/proc/driver/nvidia/version": PROC_OPEN.replace("580.65.06", "535.261.03")}
    driver = facts(BASE, LOADED, debian_driver(), swapped, running_open)["driver"]
    assert driver["verdict"] == "reboot pending" and "open is loaded" in driver["reason"]
