"""Make this container look like the server that /etc/torchfleet-sim/host.json declares; runs at every boot.

    {"gpus": [{"model": "h100", "count": 8}], "nvswitches": 4, "driver": null}
    {"gpus": [{"model": "gtx1080"}],
     "driver": {"version": "580.178.04", "flavour": "proprietary", "loaded": true}}

GPUs and NVSwitches appear on the PCI bus. A driver that is on the disk for the kernel that "boots" is
"loaded", as on a real machine; so a driver that a role installs comes up with the next reboot. A declared
driver is installed at the first boot, from packages of the image ("fabric_manager": true adds that); with
loaded: false it waits for the next one. What else a host may have met before torchfleet comes is in
mishaps.py.
"""

from __future__ import annotations

import itertools
import json
import lzma
import os
import re
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import mishaps
from mounts import RUN, bind, overlay

Json = dict[str, Any]

DECLARED = Path("/etc/torchfleet-sim/host.json")
CATALOGUE = Path("/usr/local/lib/torchfleet-sim/gpus.json")
PREBUILT = Path("/opt/torchfleet-sim/prebuilt")
PREPARED = Path("/var/lib/torchfleet-sim/prepared")
BOOTED = RUN / "booted"
PRELOAD = Path("/etc/ld.so.preload")
SHIM_KERNEL = "/opt/torchfleet-sim/lib/libsimkernel.so"
SHIM_CUDA = "/opt/torchfleet-sim/lib/libsimcudart.so"
MODULES = Path("/lib/modules")
# Debian's packages rename the module; NVIDIA's own do not.
MODULE_FILES = ("nvidia-current", "nvidia-current-open", "nvidia-tesla-[0-9][0-9][0-9]", "nvidia")
# In depmod's order; where DKMS puts modules, Ubuntu the prebuilt ones, and the .run installer its own.
MODULE_PLACES = ("updates/dkms", "updates", "extra", "kernel/nvidia-*", "kernel/drivers/video")
# The third generation, as on an HGX board of H100s.
NVSWITCH: Json = {
    "device": "22a3",
    "subsystem": "10de:1796",
    "class": "0680",
    "flavours": ["proprietary", "open"],
    "nouveau": False,
}
PCI_FIELDS = ("vendor", "device", "subsystem_vendor", "subsystem_device")


def main() -> int:
    """Play a boot."""
    try:
        declared: Json = json.loads(DECLARED.read_text()) if DECLARED.exists() else {}
        gpus = declared_gpus(declared, json.loads(CATALOGUE.read_text()))
    except (OSError, ValueError, KeyError) as error:
        print(f"torchfleet-sim: {DECLARED}: {error}", file=sys.stderr)
        return 1
    RUN.mkdir(mode=0o755, exist_ok=True)
    kernel = boot_kernel()
    first = not PREPARED.exists()
    driver = declared.get("driver")
    free_for_nouveau = not blacklisted("nouveau")
    if first and driver and driver.get("from") == "run file":
        mishaps.run_file(PREBUILT / driver["version"] / driver.get("flavour", "proprietary"), kernel)
    elif first and driver:
        preinstall(driver)
    PREPARED.parent.mkdir(parents=True, exist_ok=True)
    PREPARED.touch()
    waits = first and driver and not driver.get("loaded", True)
    module = module_on_disk(kernel) if gpus and not waits else None
    # Like the real one it leaves again where it drives nothing, and Secure Boot lets no unsigned one in.
    drives = module and any(module["flavour"] in gpu["flavours"] for gpu in gpus)
    module = module if drives and not declared.get("secure_boot") else None
    if not waits:  # a driver that was installed after the boot came too late to keep nouveau out
        free_for_nouveau = not blacklisted("nouveau")
    nouveau = bool(gpus) and not module and free_for_nouveau
    make_pci(gpus, int(declared.get("nvswitches", 0)), lambda gpu: bound_driver(gpu, module, nouveau))
    make_modules(module, nouveau)
    make_proc_driver(module, gpus)
    declare_loaded(module, gpus)
    mishaps.machine(declared.get("machine"), kernel)
    if declared.get("secure_boot"):
        mishaps.secure_boot()
    if first:
        mishaps.since_boot(declared.get("since_boot", {}), PREBUILT)
    if declared.get("job"):
        mishaps.job()
    # The simulated server is a machine of its own; systemd still knows better where it must.
    for trace in ("/run/systemd/container", "/.dockerenv"):
        Path(trace).unlink(missing_ok=True)
    BOOTED.touch()
    return 0


def declared_gpus(declared: Json, catalogue: Json) -> list[Json]:
    """Return one mapping per GPU, with its slot; a model outside the catalogue is given by its fields."""
    gpus: list[Json] = []
    for entry in declared.get("gpus", []):
        model = entry.get("model", "unknown")
        if model not in catalogue:
            raise ValueError(f"GPU model {model!r} is not one of {', '.join(sorted(catalogue))}")
        for _ in range(int(entry.get("count", 1))):
            gpu = {**catalogue[model], **{key: entry[key] for key in entry if key not in ("model", "count")}}
            gpu["slot"] = f"0000:{0x18 + 8 * len(gpus):02x}:00.0"
            gpus.append(gpu)
    if len(gpus) > 16:
        raise ValueError(f"{len(gpus)} GPUs; at most 16 fit on the simulated bus")
    return gpus


def boot_kernel() -> str:
    """Boot the newest kernel on the disk, as a boot loader does; name it where uname and /proc are asked."""
    names = [path.name[len("vmlinuz-") :] for path in Path("/boot").glob("vmlinuz-*")]
    kernel = max(names, key=version_key) if names else os.uname().release
    (RUN / "osrelease").write_text(f"{kernel}\n")
    bind(RUN / "osrelease", Path("/proc/sys/kernel/osrelease"))
    (RUN / "proc-version").write_text(f"Linux version {kernel} (simulated) #1 SMP PREEMPT_DYNAMIC Debian\n")
    bind(RUN / "proc-version", Path("/proc/version"))
    return kernel


def version_key(version: str) -> list[tuple[bool, int, str]]:
    """Order as sort -V does."""
    parts = re.findall(r"\d+|\D+", version)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def preinstall(driver: Json) -> None:
    """Install the declared driver, as an administrator did before torchfleet came."""
    folder = PREBUILT / driver["version"] / driver.get("flavour", "proprietary")
    packages = sorted(str(path) for path in folder.glob("*.deb"))
    if packages and driver.get("fabric_manager"):
        packages += [str(path) for path in (folder.parent / "fabricmanager").glob("*.deb")]
    if not packages:
        have = ", ".join(sorted(str(path.relative_to(PREBUILT)) for path in PREBUILT.glob("*/*")))
        wanted = folder.relative_to(PREBUILT)
        raise SystemExit(f"torchfleet-sim: no packages for driver {wanted}; there are: {have}")
    subprocess.run(["dpkg", "--install", *packages], check=True)


def module_on_disk(kernel: str) -> Json | None:
    """Return version and flavour of the nvidia module that would be loaded for a kernel."""
    for place, name in itertools.product(MODULE_PLACES, MODULE_FILES):
        for path in sorted((MODULES / kernel).glob(f"{place}/{name}.ko*")):
            data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            fields = dict(re.findall(rb"\0(version|license|vermagic)=([ -~]+)(?=\0)", data))
            # The kernel refuses a module that was built for another one.
            if fields.get(b"version") and fields.get(b"vermagic", b"").split()[:1] == [kernel.encode()]:
                flavour = "open" if b"GPL" in fields.get(b"license", b"") else "proprietary"
                return {"version": fields[b"version"].decode(), "flavour": flavour}
    return None


def blacklisted(module: str) -> bool:
    """Whether modprobe's configuration keeps a module from being loaded for a device."""
    pattern = re.compile(rf"^\s*(blacklist\s+{module}\b|install\s+{module}\s+\S*/(false|true)\b)", re.M)
    folders = [Path(top, "modprobe.d") for top in ("/etc", "/run", "/usr/lib", "/lib")]
    files = [path for folder in folders for path in folder.glob("*.conf")]
    return any(pattern.search(path.read_text(errors="replace")) for path in files)


def bound_driver(gpu: Json, module: Json | None, nouveau: bool) -> str | None:
    """Return the driver that takes a GPU, or None: a module that does not know the GPU leaves it alone."""
    if module:
        return "nvidia" if module["flavour"] in gpu["flavours"] else None
    return "nouveau" if nouveau and gpu["nouveau"] else None


def make_pci(gpus: list[Json], nvswitches: int, driver_of: Any) -> None:
    """Put GPUs and NVSwitches on the PCI bus, each behind a root port, in place of the machine's own."""
    if not Path("/sys/bus/pci").is_dir():
        raise SystemExit("torchfleet-sim: this kernel has no /sys/bus/pci to stand in for")
    devices, bus = RUN / "devices", RUN / "bus"
    (bus / "devices").mkdir(parents=True, exist_ok=True)
    (bus / "drivers").mkdir(exist_ok=True)
    devices.mkdir(exist_ok=True)
    switches = [{**NVSWITCH, "slot": f"0000:{0xC1 + 2 * index:02x}:00.0"} for index in range(nvswitches)]
    for device in gpus + switches:
        number = int(device["slot"][5:7], 16)
        port = f"0000:{number - 1:02x}:01.0"
        place = f"pci0000:{number - 1:02x}/{port}"
        make_device(devices / place, port, [0x8086, 0x352A, 0, 0], 0x060400, secondary=number)
        sub_vendor, sub_device = (int(part, 16) for part in device["subsystem"].split(":"))
        ids = [0x10DE, int(device["device"], 16), sub_vendor, sub_device]
        place_device = f"{place}/{device['slot']}"
        make_device(devices / place_device, device["slot"], ids, int(device["class"], 16) << 8)
        driver = driver_of(device)
        if driver:
            (bus / "drivers" / driver).mkdir(exist_ok=True)
            (devices / place_device / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")
        for slot, where in ((port, place), (device["slot"], place_device)):
            (bus / "devices" / slot).symlink_to(f"../../../devices/{where}")
    if gpus:
        overlay(devices, Path("/sys/devices"))
    bind(bus, Path("/sys/bus/pci"))


def make_device(path: Path, slot: str, ids: list[int], kind: int, secondary: int = 0) -> None:
    """Write one device of sysfs, with a configuration space that lspci reads."""
    path.mkdir(parents=True)
    vendor, device, sub_vendor, sub_device = ids
    for name, value in zip(PCI_FIELDS, ids):
        (path / name).write_text(f"0x{value:04x}\n")
    alias = (
        f"pci:v{vendor:08X}d{device:08X}sv{sub_vendor:08X}sd{sub_device:08X}"
        f"bc{kind >> 16:02X}sc{kind >> 8 & 255:02X}i{kind & 255:02X}"
    )
    for name, text in {
        "class": f"0x{kind:06x}",
        "revision": "0xa1",
        "irq": "0",
        "enable": "1",
        "numa_node": "0",
        "modalias": alias,
        "uevent": f"PCI_ID={vendor:04X}:{device:04X}\nPCI_SLOT_NAME={slot}\nMODALIAS={alias}",
        "resource": "\n".join(["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * 13),
    }.items():
        (path / name).write_text(f"{text}\n")
    config = bytearray(256)
    kinds = (kind & 255, kind >> 8 & 255, kind >> 16)
    struct.pack_into(
        "<HHHHBBBBBBBB", config, 0, vendor, device, 0x0406, 0x0010, 0xA1, *kinds, 0x10, 0, bool(secondary), 0
    )
    if secondary:
        config[0x19] = config[0x1A] = secondary
    else:
        struct.pack_into("<HH", config, 0x2C, sub_vendor, sub_device)
    (path / "config").write_bytes(bytes(config))


def make_modules(module: Json | None, nouveau: bool) -> None:
    """Show the loaded modules in /sys/module, and no NVIDIA module of the container's own machine."""
    root = RUN / "module"
    root.mkdir(exist_ok=True)
    shown: dict[str, dict[str, str]] = {}
    if module:
        taint = "OE" if module["flavour"] == "open" else "POE"
        shown["nvidia"] = {"version": module["version"], "taint": taint, "initstate": "live", "refcnt": "0"}
        shown["nvidia_uvm"] = {"taint": taint, "initstate": "live", "refcnt": "0"}
    if nouveau:
        shown["nouveau"] = {"initstate": "live", "refcnt": "0", "taint": ""}
    for name, files in shown.items():
        (root / name).mkdir()
        for file, text in files.items():
            (root / name / file).write_text(f"{text}\n")
    for path in Path("/sys/module").glob("n*"):
        if re.fullmatch(r"nvidia(_\w+)?|nouveau", path.name) and path.name not in shown:
            os.mknod(root / path.name, stat.S_IFCHR, 0)  # an overlay's whiteout
    overlay(root, Path("/sys/module"))


def make_proc_driver(module: Json | None, gpus: list[Json]) -> None:
    """Write /proc/driver/nvidia as the loaded module does."""
    root = RUN / "proc-driver"
    root.mkdir(exist_ok=True)
    if module:
        kind = "Open Kernel Module for x86_64" if module["flavour"] == "open" else "x86_64 Kernel Module"
        build = "Release Build  (simulated)  " if module["flavour"] == "open" else ""
        (root / "nvidia").mkdir()
        (root / "nvidia/version").write_text(
            f"NVRM version: NVIDIA UNIX {kind}  {module['version']}  {build}Mon Nov  2 00:00:00 UTC 2026\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
        )
        for gpu in gpus:
            (root / "nvidia/gpus" / gpu["slot"]).mkdir(parents=True)
            (root / "nvidia/gpus" / gpu["slot"] / "information").write_text(
                f"Model: \t\t {gpu['name']}\nBus Type: \t PCIe\nBus Location: \t {gpu['slot']}\n"
            )
    bind(root, Path("/proc/driver"))


def declare_loaded(module: Json | None, gpus: list[Json]) -> None:
    """Tell the stub libraries what they may show, and switch their preloaded part on or off."""
    for old in Path("/dev").glob("nvidia*"):
        old.unlink()
    if module:
        driven = [gpu for gpu in gpus if module["flavour"] in gpu["flavours"]]
        lines = [f"version {module['version']}"]
        for index, gpu in enumerate(driven):
            vendor, device = gpu["subsystem"].split(":")
            size = f"{gpu['capability']} {gpu['multiprocessors']} {gpu['memory']}"
            lines.append(f"gpu {gpu['slot']} {gpu['device']} {device}{vendor} {size} {gpu['name']}")
            # Plain files: a process can hold one open as if it used the GPU; real devices forbid that here.
            Path(f"/dev/nvidia{index}").touch()
        Path("/dev/nvidiactl").touch()
        (RUN / "loaded.conf").write_text("\n".join(lines) + "\n")
    # A shaped host has no shims: nothing computes there.
    shims = [shim for shim in (SHIM_KERNEL, SHIM_CUDA if module else "") if Path(shim).is_file()]
    PRELOAD.write_text("".join(f"{shim}\n" for shim in shims))


if __name__ == "__main__":
    status = main()
    # For a server without daemons: systemd is dear in inotify instances, of which Linux grants root 128.
    while sys.argv[1:] == ["--stay"] and status == 0:
        signal.pause()
    sys.exit(status)
