#!/usr/bin/python3
"""A stand-in for dkms: installs module files that can be read, and never used, where dkms puts its own.

dkms add SOURCE          of /usr/src
dkms install NAME/VERSION   for every kernel with headers
dkms status
dkms remove NAME/VERSION --all

As with the real one /etc/dkms/NAME-VERSION.conf can replace the command that builds: MAKE[0]=false breaks it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, "/usr/lib")
sys.dont_write_bytecode = True
from shaped.module_file import module  # type: ignore[import-not-found]  # noqa: E402

TREE = Path("/var/lib/dkms")
# Where the real one puts modules.
PLACES = {"/usr/bin/apt-get": "updates/dkms", "/usr/bin/dnf": "extra", "/usr/bin/zypper": "updates"}
PLACE = next(place for path, place in reversed(PLACES.items()) if Path(path).exists())


def conf(source: Path) -> dict[str, str]:
    return dict(re.findall(r'^(\w+)="(.*)"$', (source / "dkms.conf").read_text(), re.M))


def add(source: Path) -> None:
    values = conf(source)
    place = TREE / values["PACKAGE_NAME"] / values["PACKAGE_VERSION"]
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "source").is_symlink():
        (place / "source").symlink_to(source)


def install(name: str, version: str) -> None:
    kernels = [path.parent.parent.name for path in Path("/lib/modules").glob("*/build/Makefile")]
    place = TREE / name / version
    flavour = conf(place / "source")["FLAVOUR"]
    for kernel in kernels:
        built = place / kernel / os.uname().machine / "module"
        override = Path("/etc/dkms", f"{name}-{version}.conf")
        if override.exists() and "MAKE[0]=false" in override.read_text():
            fail(place, name, version, kernel)
        for folder in (built, Path("/lib/modules", kernel, PLACE)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "nvidia.ko").write_bytes(module(version, flavour, kernel))
        print(f"{name}/{version}, {kernel}: installed")
    if not kernels:
        print("No kernel headers are installed: the module was not built", file=sys.stderr)


def fail(place: Path, name: str, version: str, kernel: str) -> None:
    """End as the real one does where a build fails."""
    log = place / "build/make.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(
        f"DKMS make.log for {name}-{version} for kernel {kernel} (x86_64)\nmake: *** [shaped] Error 1\n"
    )
    print(f"Error! Bad return status for module build on kernel: {kernel}\nConsult {log}", file=sys.stderr)
    sys.exit(10)


def remove(name: str, version: str) -> None:
    place = TREE / name / version
    for built in place.glob("*/*/module/nvidia.ko"):
        file = Path("/lib/modules", built.parents[2].name, PLACE, built.name)
        # rpm removes the old package when the new one has installed its own.
        if file.exists() and file.read_bytes() == built.read_bytes():
            file.unlink()
    shutil.rmtree(place, ignore_errors=True)


def status() -> None:
    for link in TREE.glob("*/*/source"):
        built = sorted(link.parent.glob("*/*/module"))
        what = f"{link.parent.parent.name}/{link.parent.name}"
        print(
            "\n".join(f"{what}, {b.parent.parent.name}, {b.parent.name}: installed" for b in built)
            or f"{what}: added"
        )


if __name__ == "__main__":
    command, rest = sys.argv[1], sys.argv[2:]
    if command == "add":
        add(Path("/usr/src", rest[0]))
    elif command == "install":
        install(*rest[0].split("/"))
    elif command == "remove":
        remove(*rest[0].split("/"))
    else:
        status()
