"""Print what a host has of NVIDIA's driver as one JSON object, from dpkg, DKMS, modinfo and apt alone."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

DRIVER = re.compile(r"nvidia|^libcuda1$")


def run(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def modules(kernel: str) -> dict[str, dict[str, str]]:
    """The modules that could be loaded for a kernel, by their file's name, without their parts."""
    found = {}
    for path in sorted(Path(f"/lib/modules/{kernel}/updates/dkms").glob("nvidia*.ko*")):
        name = path.name.partition(".ko")[0]
        if not re.search(r"-(drm|modeset|uvm|peermem)$", name):
            fields = ("version", "license", "vermagic")
            found[name] = {field: run("modinfo", "-F", field, str(path)).strip() for field in fields}
    return found


def packages() -> dict[str, dict[str, object]]:
    layout = "${Package}\\t${Version}\\t${db:Status-Status}\\t${db:Status-Want}\\n"
    rows = (line.split("\t") for line in run("dpkg-query", "--show", "--showformat", layout).splitlines())
    return {
        name: {"version": version, "state": state, "held": want == "hold"}
        for name, version, state, want in rows
        if DRIVER.search(name)
    }


def main() -> None:
    kernel = run("uname", "-r").strip()
    print(
        json.dumps(
            {
                "kernel": kernel,
                "modules": modules(kernel),
                "packages": packages(),
                "kernels": sorted(path.name for path in Path("/boot").glob("vmlinuz-*")),
                "dkms": run("dkms", "status").splitlines() if Path("/usr/sbin/dkms").exists() else [],
                "blacklisted": "blacklist nouveau" in run("modprobe", "--showconfig"),
                "broken": run("dpkg", "--audit"),
                "policy": run("apt-get", "--simulate", "dist-upgrade"),
                "files": [
                    str(path)
                    for top in ("/etc", "/lib/modprobe.d", "/usr/share/keyrings", "/var/lib/torchfleet")
                    for path in sorted(Path(top).rglob("*nvidia*"))
                    if not path.is_dir()
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
