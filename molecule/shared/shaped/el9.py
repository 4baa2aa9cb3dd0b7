"""The packages of a Rocky-9-shaped host: the distribution's, EPEL's dkms, NVIDIA's and its streams."""

from __future__ import annotations

from .module_file import library
from .package import Package
from .parts import DKMS_FILES, NOUVEAU, PERSISTENCED, dkms_source, dracut

KERNEL, NEWER = "5.14.0-611.5.1.el9_7", "5.14.0-611.11.1.el9_7"
RELEASE = "1.el9"
# dnf never upgrades such a package: it installs the newer one beside it.
INSTALL_ONLY = "installonlypkg(kernel)"
# NVIDIA's packages carry epoch 3. A branch has more than one release there, as in the real repository.
VERSIONS = ("570.211.01", "580.126.09", "580.178.04", "595.71.05")
META = {"open": "nvidia-open", "proprietary": "cuda-drivers"}
DKMS = {"open": "nvidia-open", "proprietary": "nvidia"}
KMOD = {"open": "kmod-nvidia-open-dkms", "proprietary": "kmod-nvidia-latest-dkms"}


def kernel_packages(version: str) -> list[Package]:
    """Return a kernel, and what modules are built with; the newest kernel is what a plain name gets."""
    release = f"{version}.x86_64"
    core = Package("kernel-core", version, provides=f"kernel-core-uname-r = {release}, {INSTALL_ONLY}")
    core.files = {f"boot/vmlinuz-{release}": "shaped\n", f"lib/modules/{release}/vmlinuz": "shaped\n"}
    core.files |= {f"lib/modules/{release}/modules.{name}": "" for name in ("builtin", "order")}
    source = f"usr/src/kernels/{release}"
    devel = Package("kernel-devel", version, provides=f"kernel-devel-uname-r = {release}, {INSTALL_ONLY}")
    devel.files = {f"{source}/.config": "CONFIG_MODULES=y\n", f"{source}/Makefile": "all:\n"}
    devel.links = {f"lib/modules/{release}/build": f"/{source}"}
    matched = f"kernel-core = {version}, kernel-devel = {version}"
    return [
        core,
        devel,
        Package("kernel", version, f"kernel-core = {version}", INSTALL_ONLY),
        Package("kernel-devel-matched", version, matched),
        Package("kernel-headers", version),
    ]


def driver(version: str) -> list[Package]:
    """Return one release of NVIDIA's driver, without the metas, which are of a stream."""
    evr = f"3:{version}-{RELEASE}"
    same = f" = {evr}"
    libs = Package("nvidia-driver-cuda-libs", evr, f"libnvidia-ml{same}")
    libs.files = {f"usr/lib64/libcuda.so.{version}": library(f"libcuda {version}")}
    libs.links = {"usr/lib64/libcuda.so.1": f"libcuda.so.{version}"}
    common = Package("nvidia-kmod-common", evr, f"nvidia-kmod{same}")
    common.files = {"usr/lib/modprobe.d/nvidia.conf": NOUVEAU}
    cuda = (
        f"nvidia-driver-cuda-libs{same}, nvidia-kmod-common{same}, nvidia-persistenced{same}, nvidia-modprobe"
    )
    packages = [
        libs,
        common,
        Package("libnvidia-ml", evr),
        Package("nvidia-modprobe", evr),
        Package("nvidia-persistenced", evr, files=dict(PERSISTENCED)),
        Package("nvidia-driver-cuda", evr, cuda),
        Package("nvidia-driver-libs", evr, f"libnvidia-ml{same}"),
        Package("nvidia-driver", evr, f"nvidia-driver-libs{same}, nvidia-kmod-common{same}"),
        Package("nvidia-fabricmanager", f"{version}-1"),
        Package("nvidia-imex", f"{version}-1"),
        Package("libnvidia-nscq", f"{version}-1"),
    ]
    for flavour, name in KMOD.items():
        kmod = Package(name, evr, f"dkms, nvidia-kmod-common{same}", f"nvidia-kmod{same}")
        kmod.conflicts = next(other for other in KMOD.values() if other != name)
        # Two names, as in NVIDIA's specs: rpm takes the old package off once the new module is built.
        kmod.files, kmod.scripts = dkms_source(DKMS[flavour], version, flavour)
        meta = f"nvidia-driver{same}, nvidia-driver-cuda{same}, {name}{same}"
        packages += [kmod, Package(META[flavour], evr, meta)]
    return packages


def modules() -> str:
    """Return the modulemd documents: a stream for each branch and flavour, and two that follow the newest."""
    documents = []
    newest = VERSIONS[-1].partition(".")[0]
    for flavour, end, follows in (("open", "open", "open-dkms"), ("proprietary", "dkms", "latest-dkms")):
        for branch in sorted({version.partition(".")[0] for version in VERSIONS}):
            of_branch = [package for v in VERSIONS if v.startswith(branch) for package in driver(v)]
            other = KMOD["proprietary" if flavour == "open" else "open"]
            rows = sorted(package.nevra for package in of_branch if package.name != other)
            for stream in (f"{branch}-{end}", *([follows] if branch == newest else [])):
                artifacts = "".join(f"      - {row}\n" for row in rows)
                documents.append(
                    "---\ndocument: modulemd\nversion: 2\ndata:\n  name: nvidia-driver\n"
                    f'  stream: "{stream}"\n  version: 20261102000000\n  context: c0ffee42\n  arch: x86_64\n'
                    "  summary: shaped\n  description: shaped, not real\n  license:\n    module: [MIT]\n"
                    f"  profiles:\n    default:\n      rpms: [{KMOD[flavour]}, nvidia-driver-cuda]\n"
                    f"  artifacts:\n    rpms:\n{artifacts}...\n"
                )
    # Without this document dnf knows no default profile.
    profiles = "".join(f'    "{branch}-open": [default]\n' for branch in ("580",))
    documents.append(
        "---\ndocument: modulemd-defaults\nversion: 1\ndata:\n  module: nvidia-driver\n"
        f"  profiles:\n{profiles}...\n"
    )
    return "".join(documents)


def installed() -> list[Package]:
    """Return what the host comes with."""
    own = [package for package in kernel_packages(KERNEL) if package.name in ("kernel", "kernel-core")]
    release = Package("rocky-release", "9.7-1.4.el9")
    initramfs = Package("dracut", "057-104.git20250919.el9_7", files=dracut("initramfs-$kernel.img"))
    shell = Package("bash", "5.1.8-9.el9", provides="/bin/sh")
    return [*own, release, initramfs, shell]


def baseos() -> list[Package]:
    """Return the packages of the distribution."""
    plugin = Package("python3-dnf-plugin-versionlock", "4.3.0-24.el9_7")
    return [*installed(), *kernel_packages(KERNEL), *kernel_packages(NEWER), plugin]


def epel() -> list[Package]:
    """Return EPEL's packages; the rich dependency is the real one's, and what brings new kernels along."""
    return [Package("dkms", "3.2.2-1.el9", "(kernel-devel-matched if kernel-core)", files=dict(DKMS_FILES))]


def nvidia() -> list[Package]:
    """Return the packages of NVIDIA's repository."""
    return [package for version in VERSIONS for package in driver(version)]
