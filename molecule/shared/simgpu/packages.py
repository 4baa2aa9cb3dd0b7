#!/usr/bin/env python3
"""Build the simulated driver's packages; runs in the image's build stage.

    packages.py RELEASE SOURCES OUT

OUT/archive   an apt repository with the names and versions of Debian's own driver packages, suffixed +sim1
OUT/prebuilt  VERSION/FLAVOUR/*.deb for hosts that come with a driver, VERSION/fabricmanager/*.deb beside it
OUT/kernel    the kernel that a simulated server runs, of the release that Debian's archive has now
OUT/lib       the preloaded libraries
"""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

SUFFIX = "+sim1"
LIB = "usr/lib/x86_64-linux-gnu"
PERSISTENCED = """\
[Unit]
Description=NVIDIA Persistence Daemon (simulated)

[Service]
ExecStart=/usr/bin/nvidia-persistenced

[Install]
WantedBy=multi-user.target
"""
# Like the real one it does not start without a driver.
PERSISTENCED_BIN = """\
#!/bin/sh
[ -e /proc/driver/nvidia/version ] || { echo "nvidia-persistenced: no NVIDIA driver is loaded" >&2; exit 1; }
exec sleep infinity
"""
DAEMON_POSTINST = """\
#!/bin/sh
set -e
systemctl enable --no-reload --quiet {unit}
systemctl daemon-reload || true
systemctl --no-block start {unit} || true
"""
# Nor does Fabric Manager without a driver and NVSwitches.
FABRIC_MANAGER = PERSISTENCED.replace("Persistence Daemon", "Fabric Manager").replace(
    "nvidia-persistenced", "nv-fabricmanager"
)
FABRIC_MANAGER_BIN = """\
#!/bin/sh
[ -e /proc/driver/nvidia/version ] || { echo "nv-fabricmanager: no NVIDIA driver is loaded" >&2; exit 1; }
grep -q 0x0680 /sys/bus/pci/devices/*/class || { echo "nv-fabricmanager: no NVSwitch" >&2; exit 1; }
exec sleep infinity
"""
# What DKMS does with the headers of each kernel: build, install, depmod.
DKMS_POSTINST = """\
#!/bin/sh
set -e
for build in /lib/modules/*/build; do
    [ -e "$build/Makefile" ] || continue
    kernel=$(basename "$(dirname "$build")")
    echo "Building simulated module {name} for kernel $kernel"
    install -D -m 0644 /usr/src/{source}/{file} "/lib/modules/$kernel/updates/dkms/{file}"
    depmod "$kernel" || true
    built=1
done
[ -n "${{built:-}}" ] || echo "No kernel headers are installed: the module was not built" >&2
"""
DKMS_PRERM = """\
#!/bin/sh
set -e
rm -f /lib/modules/*/updates/dkms/{file}
"""
UPDATE_INITRAMFS = """\
#!/bin/sh
# Simulated: the initramfs of a simulated kernel is modprobe's configuration, as the real one would carry it.
for image in /boot/vmlinuz-*; do
    kernel=${image#/boot/vmlinuz-}
    echo "update-initramfs: Generating /boot/initrd.img-$kernel"
    cat /etc/modprobe.d/*.conf /usr/lib/modprobe.d/*.conf > "/boot/initrd.img-$kernel" 2>/dev/null || :
done
"""
NOUVEAU = "blacklist nouveau\nblacklist lbm-nouveau\nalias nouveau off\nalias lbm-nouveau off\n"


@dataclass(frozen=True)
class Driver:
    """A driver release, and how its packager names things."""

    version: str
    package_version: str
    cuda: int
    debian: bool  # Debian's own packaging; else NVIDIA's


DRIVERS = {
    "debian12": Driver("535.261.03", "535.261.03-1", 12020, True),
    "debian13": Driver("550.163.01", "550.163.01-2", 12040, True),
}
# As NVIDIA's repository for Debian has them; for hosts that come with a driver.
NVIDIA_DRIVERS = (
    Driver("570.211.01", "570.211.01-1", 12080, False),
    Driver("580.178.04", "580.178.04-1", 13000, False),
)


@dataclass
class Package:
    """One binary package: its control fields and its files."""

    name: str
    version: str
    depends: str = ""
    provides: str = ""
    files: dict[str, bytes | str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    suffix: str = SUFFIX

    def control(self) -> str:
        """Return the control file."""
        lines = [f"Package: {self.name}", f"Version: {self.version}{self.suffix}", "Architecture: amd64"]
        lines += ["Maintainer: torchfleet tests <torchfleet@example.invalid>"]
        lines += [f"Depends: {self.depends}"] if self.depends else []
        lines += [f"Provides: {self.provides}"] if self.provides else []
        lines += [f"Description: simulated {self.name} for torchfleet's test fleet"]
        return "\n".join(lines) + "\n"

    def build(self, work: Path, out: Path) -> Path:
        """Write the .deb into ``out``."""
        tree = work / self.name
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(self.control())
        for name, text in self.scripts.items():
            (tree / "DEBIAN" / name).write_text(text)
            (tree / "DEBIAN" / name).chmod(0o755)
        for name, content in self.files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            path.chmod(0o755 if "bin/" in name else 0o644)
        for name, target in self.links.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).symlink_to(target)
        out.mkdir(parents=True, exist_ok=True)
        deb = out / f"{self.name}_{self.version}{self.suffix}_amd64.deb"
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(deb))
        return deb


def run(*command: str) -> str:
    """Run a command and return what it said; its errors go to the build's log."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def compile_library(source: Path, out: Path, *arguments: str) -> bytes:
    """Compile one of the stub libraries."""
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = [
        "-std=gnu11",
        "-O1",
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-s",
    ]
    run("gcc", *flags, *arguments, "-o", str(out), str(source), "-ldl")
    return out.read_bytes()


def kernel_release() -> tuple[str, str]:
    """Return the release of Debian's current kernel, and the version of its package."""
    text = run("apt-cache", "show", "--no-all-versions", "linux-image-amd64")
    found = re.search(r"^Depends:.*?linux-image-(\S+) \(= (\S+)\)", text, re.M)
    if not found:
        raise SystemExit(
            "packages.py: apt-cache names no kernel for linux-image-amd64; did apt-get update fail?"
        )
    return found.group(1), found.group(2)


def kernel_packages(release: str, version: str) -> tuple[list[Package], list[Package]]:
    """Return the kernel that the host has, and the headers that it lacks until a role installs them."""
    src = f"usr/src/linux-headers-{release}"
    # Of the archive's very version: Debian 13's headers depend on exactly their kernel.
    image = Package(f"linux-image-{release}", version, suffix="")
    image.files = {f"boot/vmlinuz-{release}": "simulated\n", f"boot/config-{release}": "CONFIG_MODULES=y\n"}
    image.files[f"lib/modules/{release}/modules.builtin"] = ""
    image.files[f"lib/modules/{release}/modules.order"] = ""
    initramfs = Package("initramfs-tools", "0.142", files={"usr/sbin/update-initramfs": UPDATE_INITRAMFS})
    installed = [image, Package("linux-image-amd64", version, f"linux-image-{release}"), initramfs]
    headers = Package(f"linux-headers-{release}", version)
    headers.files = {f"{src}/.config": "CONFIG_MODULES=y\n", f"{src}/Makefile": "all:\n"}
    headers.links = {f"lib/modules/{release}/build": f"/{src}"}
    return installed, [headers, Package("linux-headers-amd64", version, f"linux-headers-{release}")]


def module_file(source: Path, work: Path, driver: Driver, flavour: str, kernel: str) -> bytes:
    """Compile the module file of a driver and flavour for a kernel."""
    licence = "Dual MIT/GPL" if flavour == "open" else "NVIDIA"
    defines = {"VERSION": driver.version, "LICENSE": licence, "KERNEL": kernel}
    out = work / "nvidia.ko"
    run(
        "gcc",
        "-c",
        *(f'-DMODULE_{key}="{value}"' for key, value in defines.items()),
        "-o",
        str(out),
        str(source),
    )
    return out.read_bytes()


def driver_packages(sources: Path, work: Path, driver: Driver, kernel: str, compress: bool) -> list[Package]:
    """Return the packages of one driver release, under the names that its packager gives them."""
    v, version = driver.version, driver.package_version
    defines = [f'-DLIB_VERSION="{v}"', f"-DLIB_CUDA={driver.cuda}"]
    cuda = compile_library(sources / "libcuda.c", work / "libcuda", "-Wl,-soname,libcuda.so.1", *defines)
    nvml = compile_library(
        sources / "libnvidia-ml.c", work / "nvml", "-Wl,-soname,libnvidia-ml.so.1", *defines
    )
    support = Package("nvidia-kernel-support", version, "nvidia-modprobe, kmod")
    support.files = {"etc/modprobe.d/nvidia-blacklists-nouveau.conf": NOUVEAU}
    start = DAEMON_POSTINST.format(unit="nvidia-persistenced.service")
    daemon = Package("nvidia-persistenced", version, "libnvidia-ml1", scripts={"postinst": start})
    daemon.files = {
        "usr/bin/nvidia-persistenced": PERSISTENCED_BIN,
        "usr/lib/systemd/system/nvidia-persistenced.service": PERSISTENCED,
    }
    smi = Package("nvidia-smi" if driver.debian else "nvidia-driver-cuda", version, "libnvidia-ml1, python3")
    smi.files = {"usr/bin/nvidia-smi": (sources / "nvidia-smi.py").read_text()}
    packages = [
        Package("libcuda1", version, files={f"{LIB}/libcuda.so.{v}": cuda}),
        Package("libnvidia-ml1", version, files={f"{LIB}/libnvidia-ml.so.{v}": nvml}),
        Package("nvidia-modprobe", version),
        Package("firmware-nvidia-gsp", version),
        support,
        daemon,
        smi,
    ]
    packages[0].links = {f"{LIB}/libcuda.so.1": f"libcuda.so.{v}"}
    packages[1].links = {f"{LIB}/libnvidia-ml.so.1": f"libnvidia-ml.so.{v}"}
    for library in packages[:2]:
        library.scripts = {"postinst": "#!/bin/sh\nldconfig\n", "postrm": "#!/bin/sh\nldconfig\n"}
    names = {
        "proprietary": ("nvidia-kernel-dkms", "nvidia-current"),
        "open": (
            "nvidia-open-kernel-dkms" if driver.debian else "nvidia-kernel-open-dkms",
            "nvidia-current-open",
        ),
    }
    for flavour, (package, renamed) in names.items():
        name = renamed if driver.debian else "nvidia"
        file = f"{name}.ko.xz" if compress else f"{name}.ko"
        content = module_file(sources / "nvidia.c", work, driver, flavour, kernel)
        source = f"{name}-{v}" if flavour == "proprietary" else f"{name}-open-{v}"
        packages.append(
            Package(
                package,
                version,
                "dkms, nvidia-kernel-support",
                "nvidia-kernel-dkms-any",
                files={f"usr/src/{source}/{file}": lzma.compress(content) if compress else content},
                scripts={
                    "postinst": DKMS_POSTINST.format(name=name, source=source, file=file),
                    "prerm": DKMS_PRERM.format(file=file),
                },
            )
        )
    meta = "nvidia-driver" if driver.debian else f"cuda-drivers-{v.partition('.')[0]}"
    if driver.debian:
        packages.append(
            Package(meta, version, "nvidia-kernel-dkms-any, libcuda1, nvidia-smi, nvidia-persistenced")
        )
    else:
        packages.append(Package(meta, version, "libcuda1, nvidia-driver-cuda, nvidia-persistenced"))
    return packages


def fabric_manager(driver: Driver) -> Package:
    """Return Fabric Manager, which hosts with NVSwitch need beside a driver of the same version."""
    start = DAEMON_POSTINST.format(unit="nvidia-fabricmanager.service")
    package = Package("nvidia-fabricmanager", driver.package_version, scripts={"postinst": start})
    package.files = {
        "usr/bin/nv-fabricmanager": FABRIC_MANAGER_BIN,
        "usr/lib/systemd/system/nvidia-fabricmanager.service": FABRIC_MANAGER,
    }
    return package


def index(archive: Path) -> None:
    """Write the index of a flat apt repository; its origin is what the pin in the image names."""
    stanzas = []
    for deb in sorted(archive.glob("*.deb")):
        data = deb.read_bytes()
        stanzas.append(
            run("dpkg-deb", "--field", str(deb)).strip()
            + f"\nFilename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
    packages = "\n".join(stanzas).encode()
    (archive / "Packages").write_bytes(packages)
    digest = hashlib.sha256(packages).hexdigest()
    (archive / "Release").write_text(
        "Origin: torchfleet-sim\nLabel: torchfleet-sim\nSuite: sim\nArchitectures: amd64\n"
        f"Date: Mon, 02 Nov 2026 00:00:00 UTC\nSHA256:\n {digest} {len(packages)} Packages\n"
    )


def main(release: str, sources: Path, out: Path) -> None:
    """Build everything into ``out``."""
    work = out / "work"
    kernel, kernel_version = kernel_release()
    installed, headers = kernel_packages(kernel, kernel_version)
    dkms = Package("dkms", "3.0.10-8" if release == "debian12" else "3.2.2-1", "kmod")
    compress = release == "debian13"  # its kernel has CONFIG_MODULE_COMPRESS, so DKMS compresses too
    for package in installed:
        package.build(work, out / "kernel")
    own = driver_packages(sources, work, DRIVERS[release], kernel, compress)
    for package in [*headers, dkms, *own]:
        package.build(work, out / "archive")
    index(out / "archive")
    for driver in (DRIVERS[release], *NVIDIA_DRIVERS):
        packages = (
            own if driver is DRIVERS[release] else driver_packages(sources, work, driver, kernel, compress)
        )
        for flavour, other in (("proprietary", "open"), ("open", "proprietary")):
            wanted = [
                p
                for p in packages
                if not (p.name.endswith("-dkms") and (other == "open") == ("open" in p.name))
            ]
            for package in [*headers, dkms, *wanted]:
                package.build(work, out / "prebuilt" / driver.version / flavour)
        if not driver.debian:
            fabric_manager(driver).build(work, out / "prebuilt" / driver.version / "fabricmanager")
    for source, name in (("libcudart.c", "libsimcudart.so"), ("libsimkernel.c", "libsimkernel.so")):
        compile_library(sources / source, out / "lib" / name)
    shutil.rmtree(work)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
