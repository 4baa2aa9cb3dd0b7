"""What a simulated server is beside a machine with GPUs, and what befell its driver before torchfleet came.

"machine": "vm" | "wsl2"
"driver": {"version": "580.178.04", "from": "run file"}
"secure_boot": true             the simulated modules are unsigned
"since_boot": {"upgrade": {"version": "580.178.04"}}      the driver's packages
              {"library": "570.211.01"}                   libcuda alone
              {"kernel": "6.1.0-99-amd64"}                one more, without its headers
"job": true                     a process of the user admin holds the first GPU
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from mounts import RUN, bind, overlay

Json = dict[str, Any]

EFI_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
HOLD = "import time; gpu = open('/dev/nvidia0'); time.sleep(10**9)"


def machine(kind: str | None, kernel: str) -> None:
    """Look like a virtual machine, or like the Linux inside Windows."""
    if kind == "vm":
        (RUN / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu vme de pse hypervisor\n")
        bind(RUN / "cpuinfo", Path("/proc/cpuinfo"))
        dmi = RUN / "class/dmi/id"
        dmi.mkdir(parents=True)
        (dmi / "sys_vendor").write_text("QEMU\n")
        (dmi / "product_name").write_text("Standard PC (Q35 + ICH9, 2009)\n")
        overlay(RUN / "class", Path("/sys/class"))
    elif kind == "wsl2":
        Path("/dev/dxg").touch()
        release = f"{kernel.partition('-')[0]}-microsoft-standard-WSL2"
        (RUN / "proc-version").write_text(f"Linux version {release} (simulated) #1 SMP\n")


def run_file(folder: Path, kernel: str) -> None:
    """Leave the files that NVIDIA's .run installer leaves, which no package owns."""
    version, flavour = folder.parent.name, folder.name
    unpacked = RUN / "run-file"
    for deb in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(deb), str(unpacked)], check=True)
    source = "nvidia-open-*" if flavour == "open" else "nvidia-[0-9]*"
    (module,) = (unpacked / "usr/src").glob(f"{source}/nvidia.ko*")
    place = Path("/lib/modules", kernel, "kernel/drivers/video")
    place.mkdir(parents=True)
    shutil.copy(module, place)
    shutil.copytree(unpacked / LIBRARIES, Path("/", LIBRARIES), symlinks=True, dirs_exist_ok=True)
    shutil.copy(unpacked / "usr/bin/nvidia-smi", "/usr/bin")
    shutil.rmtree(unpacked)
    subprocess.run(["ldconfig"], check=True)
    for tool in ("nvidia-uninstall", "nvidia-installer"):
        path = Path("/usr/bin", tool)
        path.write_text("#!/bin/sh\necho 'simulated' >&2\nexit 1\n")
        path.chmod(0o755)
    Path("/var/log/nvidia-installer.log").write_text(
        f"nvidia-installer log file '/var/log/nvidia-installer.log'\ninstaller version: {version}\n"
    )


def secure_boot() -> None:
    """Show the firmware's variable; the container's own /sys/firmware is hidden and read-only."""
    variables = RUN / "firmware/efi/efivars"
    variables.mkdir(parents=True)
    (variables / f"SecureBoot-{EFI_GLOBAL}").write_bytes(b"\x06\0\0\0\x01")
    bind(RUN / "firmware", Path("/sys/firmware"))


def since_boot(events: Json, prebuilt: Path) -> None:
    """Let happen what an administrator or an unattended upgrade did on the running host."""
    upgrade = events.get("upgrade")
    if upgrade:
        folder = prebuilt / upgrade["version"] / upgrade.get("flavour", "proprietary")
        subprocess.run(["dpkg", "--install", *sorted(map(str, folder.glob("*.deb")))], check=True)
    if "library" in events:
        (deb,) = (prebuilt / events["library"] / "proprietary").glob("libcuda1_*.deb")
        subprocess.run(["dpkg", "--install", str(deb)], check=True)
    kernel = events.get("kernel")
    if kernel:
        Path(f"/boot/vmlinuz-{kernel}").write_text("simulated\n")
        Path("/lib/modules", kernel).mkdir()
        Path("/lib/modules", kernel, "modules.order").touch()


def job() -> None:
    """Let a user's process hold the first GPU, as a training does."""
    command = ["systemd-run", "--quiet", "--no-block", "--unit=torchfleet-sim-job", "--uid=admin"]
    subprocess.run([*command, "/usr/bin/python3", "-c", HOLD], check=True)
