"""The packages of an Ubuntu-24.04-shaped host, Ubuntu's and NVIDIA's: their names and their relations."""

from __future__ import annotations

from .module_file import library, module
from .package import Package
from .parts import DKMS_FILES, NOUVEAU, PERSISTENCED, dkms_source, update_initramfs

KERNEL, NEWER = "6.8.0-88-generic", "6.8.0-90-generic"
KERNEL_VERSION = {KERNEL: "6.8.0-88.89", NEWER: "6.8.0-90.91"}
LIB = "usr/lib/x86_64-linux-gnu"
# The archive's branches; 590 and 535-server are empty packages that lead to another branch.
ARCHIVE = {
    "570": "570.211.01-0ubuntu0.24.04.1",
    "580": "580.178.04-0ubuntu0.24.04.1",
    "580-server": "580.173.02-0ubuntu0.24.04.1",
    "595": "595.71.05-0ubuntu0.24.04.1",
    "595-server": "595.71.05-0ubuntu0.24.04.1",
}
TRANSITIONAL = {
    "535-server": "580-server",
    "570-server": "580-server",
    "590": "595",
    "590-server": "595-server",
}
NVIDIA_BRANCHES = {"570": "570.211.01-0ubuntu1", "580": "580.178.04-0ubuntu1"}
NVIDIA_NEWEST = ("595", "595.71.05-1ubuntu1")


def kernel_packages(release: str) -> list[Package]:
    """Return a kernel and its headers."""
    version = KERNEL_VERSION[release]
    common = release.removesuffix("-generic")
    image = Package(f"linux-image-{release}", version, f"linux-modules-{release}")
    image.files = {f"boot/vmlinuz-{release}": "shaped\n", f"boot/config-{release}": "CONFIG_MODULES=y\n"}
    modules = Package(f"linux-modules-{release}", version)
    modules.files = {f"lib/modules/{release}/modules.{name}": "" for name in ("builtin", "order")}
    source = f"usr/src/linux-headers-{release}"
    headers = Package(f"linux-headers-{release}", version, f"linux-headers-{common}")
    headers.files = {f"{source}/.config": "CONFIG_MODULES=y\n", f"{source}/Makefile": "all:\n"}
    headers.links = {f"lib/modules/{release}/build": f"/{source}"}
    return [image, modules, headers, Package(f"linux-headers-{common}", version)]


def meta_packages(release: str) -> list[Package]:
    """Return the packages that follow the newest kernel."""
    version = KERNEL_VERSION[release].replace("-", ".", 1)
    return [
        Package("linux-image-generic", version, f"linux-image-{release}"),
        Package("linux-headers-generic", version, f"linux-headers-{release}"),
        Package("linux-generic", version, "linux-image-generic, linux-headers-generic"),
    ]


def libraries(suffix: str, version: str) -> list[Package]:
    """Return what does not depend on the flavour."""
    v = version.partition("-")[0]
    compute = Package(f"libnvidia-compute{suffix}", version)
    compute.provides = compute.conflicts = "libnvidia-compute" if suffix else "libnvidia-compute-any"
    compute.files = {f"{LIB}/libcuda.so.{v}": library(f"libcuda {v}")}
    compute.links = {f"{LIB}/libcuda.so.1": f"libcuda.so.{v}"}
    daemon = Package(f"nvidia-compute-utils{suffix}", version, f"{compute.name} (= {version})")
    daemon.provides = daemon.conflicts = "nvidia-persistenced"
    daemon.files = dict(PERSISTENCED)
    common = Package(f"nvidia-kernel-common{suffix}", version)
    common.provides = common.conflicts = "nvidia-kernel-common-any"
    common.files = {"usr/lib/modprobe.d/nvidia-graphics-drivers.conf": NOUVEAU}
    utils = Package(f"nvidia-utils{suffix}", version, f"{compute.name} (= {version})")
    utils.provides = utils.conflicts = "nvidia-utils-any"
    fabric = Package(f"nvidia-fabricmanager{suffix}", version)
    return [compute, daemon, common, utils, fabric]


def flavoured(branch: str, version: str, flavour: str) -> list[Package]:
    """Return the packages of one flavour of a branch of Ubuntu's archive, prebuilt modules among them."""
    v, end = version.partition("-")[0], "-open" if flavour == "open" else ""
    b = f"{branch}{end}"
    common = f"nvidia-kernel-common-{branch} (= {version})"
    dkms = Package(f"nvidia-dkms-{b}", version, f"dkms, {common}")
    dkms.provides = dkms.conflicts = "nvidia-dkms-kernel"
    dkms.files, dkms.scripts = dkms_source("nvidia", v, flavour)
    user = f"libnvidia-compute-{branch} (= {version}), nvidia-utils-{branch}, nvidia-compute-utils-{branch}"
    either = f"nvidia-dkms-{b} (= {version}) | linux-modules-nvidia-{b}"
    packages = [
        dkms,
        Package(f"nvidia-headless-no-dkms-{b}", version, f"{common}, {user}"),
        Package(f"nvidia-headless-{b}", version, f"nvidia-headless-no-dkms-{b} (= {version}), {either}"),
        Package(f"nvidia-driver-{b}", version, f"{user}, {either}"),
    ]
    for kernel in (KERNEL, NEWER):
        built = Package(f"linux-modules-nvidia-{b}-{kernel}", KERNEL_VERSION[kernel])
        built.depends = f"linux-image-{kernel}, nvidia-kernel-common-{branch}"
        built.provides = f"linux-modules-nvidia-{b}"
        built.files = {f"lib/modules/{kernel}/kernel/nvidia-{b}/nvidia.ko": module(v, flavour, kernel)}
        packages.append(built)
    follow = f"linux-modules-nvidia-{b}-{NEWER}"
    packages.append(Package(f"linux-modules-nvidia-{b}-generic", KERNEL_VERSION[NEWER], follow))
    return packages


def transitional(old: str, new: str) -> list[Package]:
    """Return the empty packages of a branch that was given up for another one."""
    version = ARCHIVE[new]
    names = ["libnvidia-compute", "nvidia-utils", "nvidia-compute-utils", "nvidia-kernel-common"]
    packages = [Package(f"{name}-{old}", version, f"{name}-{new}") for name in names]
    names = ["nvidia-dkms", "nvidia-headless-no-dkms", "nvidia-headless", "nvidia-driver"]
    packages += [
        Package(f"{name}-{old}{end}", version, f"{name}-{new}{end}")
        for name in names
        for end in ("", "-open")
    ]
    packages += [
        Package(
            f"linux-modules-nvidia-{old}{end}-{kernel}",
            KERNEL_VERSION[NEWER],
            f"linux-modules-nvidia-{new}{end}-{kernel}",
        )
        for end in ("", "-open")
        for kernel in (KERNEL, NEWER, "generic")
    ]
    return packages


def installed() -> list[Package]:
    """Return what the host comes with."""
    return [
        *(package for package in kernel_packages(KERNEL) if "headers" not in package.name),
        Package("linux-image-generic", KERNEL_VERSION[KERNEL].replace("-", ".", 1), f"linux-image-{KERNEL}"),
        Package("initramfs-tools", "0.142ubuntu25", files=update_initramfs()),
    ]


def archive() -> dict[str, list[Package]]:
    """Return the packages of Ubuntu's archive by component."""
    driver = [
        package
        for branch, version in ARCHIVE.items()
        for group in (
            libraries(f"-{branch}", version),
            flavoured(branch, version, "proprietary"),
            flavoured(branch, version, "open"),
        )
        for package in group
    ]
    trap = [package for old, new in TRANSITIONAL.items() for package in transitional(old, new)]
    kernels = [*kernel_packages(KERNEL), *kernel_packages(NEWER), *meta_packages(NEWER)]
    dkms = Package("dkms", "3.0.11-1ubuntu13", files=dict(DKMS_FILES))
    return {"main": [*kernels, dkms], "restricted": [*driver, *trap], "universe": [], "multiverse": []}


def nvidia() -> list[Package]:
    """Return the packages of NVIDIA's repository."""
    packages: list[Package] = []
    for branch, version in NVIDIA_BRANCHES.items():
        packages += libraries(f"-{branch}", version)
        for flavour, end, meta in (("open", "-open", "nvidia-open"), ("proprietary", "", "cuda-drivers")):
            packages += [
                package
                for package in flavoured(branch, version, flavour)
                if not package.name.startswith("linux-modules")
            ]
            packages.append(
                Package(f"{meta}-{branch}", version, f"nvidia-driver-{branch}{end} (= {version})")
            )
    branch, version = NVIDIA_NEWEST
    v = version.partition("-")[0]
    packages += libraries("", version)
    for flavour, end, meta in (("open", "-open", "nvidia-open"), ("proprietary", "", "cuda-drivers")):
        dkms = Package(f"nvidia-dkms{end}", version, f"dkms, nvidia-kernel-common (= {version})")
        dkms.provides = dkms.conflicts = "nvidia-dkms-kernel"
        dkms.files, dkms.scripts = dkms_source("nvidia", v, flavour)
        driver = f"libnvidia-compute (= {version}), nvidia-utils, nvidia-compute-utils, {dkms.name}"
        packages += [dkms, Package(f"nvidia-driver{end}", version, driver)]
        packages.append(Package(meta, version, f"nvidia-driver{end} (= {version})"))
    pins = [("570", "570.211.01"), ("580", "580.178.04"), ("595", "595.71.05")]
    packages += [Package(f"nvidia-driver-pinning-{pin}", f"{v}-1ubuntu1") for pin, v in pins]
    return packages
