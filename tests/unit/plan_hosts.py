"""Truths and wishes of docs/contracts.md for the tests of the planner, in a few words each."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import planner

TODAY = datetime.date(2026, 11, 23)

# PCI ids, by NVIDIA's names and pci.ids.
GPUS = {
    "GTX 480": "06c0",
    "GTX 680": "1180",
    "K40": "1023",
    "K80": "102d",
    "GTX 980": "13c0",
    "P100": "15f8",
    "GTX 1080 Ti": "1b06",
    "TITAN V": "1d81",
    "V100": "1db6",
    "RTX 2080 Ti": "1e07",
    "T4": "1eb8",
    "T4G": "1eb4",
    "A100": "20b0",
    "RTX 3090": "2204",
    "L40S": "26b9",
    "RTX 4090": "2684",
    "H100": "2330",
    "H200": "2335",
    "GH200": "2342",
    "B200": "2901",
    "GB200": "2941",
    "B300": "3182",
    "Thor": "2b00",
    "RTX 5090": "2b85",
    "GB10": "2e12",
    "Rubin": "3002",
}

# Name: ID, VERSION_ID and ID_LIKE of /etc/os-release, and the C library.
SYSTEMS: dict[str, tuple[str, str, list[str], str]] = {
    "debian11": ("debian", "11", [], "2.31"),
    "debian12": ("debian", "12", [], "2.36"),
    "debian13": ("debian", "13", [], "2.41"),
    "ubuntu2004": ("ubuntu", "20.04", ["debian"], "2.31"),
    "ubuntu2204": ("ubuntu", "22.04", ["debian"], "2.35"),
    "ubuntu2404": ("ubuntu", "24.04", ["debian"], "2.39"),
    "ubuntu2604": ("ubuntu", "26.04", ["debian"], "2.43"),
    "rhel8": ("rhel", "8.10", ["fedora"], "2.28"),
    "rhel9": ("rhel", "9.6", ["fedora"], "2.34"),
    "rhel10": ("rhel", "10.0", ["fedora"], "2.39"),
    "rocky9": ("rocky", "9.6", ["rhel", "centos", "fedora"], "2.34"),
    "alma8": ("almalinux", "8.10", ["rhel", "centos", "fedora"], "2.28"),
    "fedora44": ("fedora", "44", [], "2.43"),
    "sles15": ("sles", "15.6", ["suse"], "2.38"),
    "sles16": ("sles", "16.0", ["suse"], "2.40"),
    "plan9": ("plan9", "4", [], "2.40"),
}

DRIVERS = [
    "390.157",
    "450.80.02",
    "470.256.02",
    "525.60.12",
    "525.60.13",
    "535.261.03",
    "550.163.01",
    "570.133.07",
    "580.65.05",
    "580.65.06",
    "580.178.04",
    "590.48.01",
    "595.112.07",
    "610.57.04",
    "615.71.10",
    "620.70.06",
]
PYTHONS = [f"3.{minor}" for minor in range(7, 17)]

MIRROR = "https://pypi.example.org/simple"
WHEELS = "https://wheels.example.org/whl"
CARRIED = ["torch==2.13.0+cu126", "torch==2.13.0+cpu"]
SOURCES: dict[str, dict[str, Any]] = {
    "pypi": {"name": "pypi", "kind": "pypi", "urls": [MIRROR]},
    "wheels": {"name": "wheels", "kind": "index", "urls": [WHEELS]},
    "cpu-wheels": {"name": "cpu-wheels", "kind": "index", "urls": [WHEELS], "variants": ["cpu"]},
    "wheels-cu128": {"name": "wheels-cu128", "kind": "index", "urls": [WHEELS], "variants": ["cu128"]},
    "site": {
        "name": "site",
        "kind": "find_links",
        "urls": ["https://site.example.org/wheels/"],
        "carries": CARRIED,
    },
    "bundle": {"name": "bundle", "kind": "bundle", "urls": ["/media/usb/wheels"], "carries": CARRIED},
    "conda-forge": {
        "name": "conda-forge",
        "kind": "conda-forge",
        "urls": ["https://conda.example.org/cloud/conda-forge"],
    },
    "pytorch-channel": {
        "name": "pytorch-channel",
        "kind": "pytorch-channel",
        "urls": ["https://conda.example.org/cloud/pytorch"],
        "nvidia_urls": ["https://conda.example.org/cloud/nvidia"],
    },
}
ALL = ("pypi", "wheels", "conda-forge", "pytorch-channel")


def truth(
    gpus: Iterable[str] = (),
    driver: str | None = None,
    *,
    os: str = "debian12",
    machine: str = "x86_64",
    glibc: str | None = "of the system",
    virtualization: str = "none",
    secure_boot: bool | None = None,
    nvswitches: int = 0,
    foreign: bool = False,
    loaded: str | None = None,
) -> dict[str, Any]:
    """A host. ``gpus``: names of the table or PCI ids; ``driver``: its version, and its flavour or not."""
    devices = [GPUS.get(name, name) for name in gpus]
    system, release, like, libc = SYSTEMS[os]
    kernel = "6.1.0-41-amd64"
    on_disk = None
    if driver:
        version, _, flavour = driver.partition(" ")
        # NVIDIA's packages install the open modules by default from branch 560 on; GPUs before Turing cannot.
        modern = int(version.split(".")[0]) >= 560 and all(device >= "1e00" for device in devices)
        on_disk = {
            "version": version,
            "flavour": flavour or ("open" if modern else "proprietary"),
            "kernel": kernel,
            "path": f"/lib/modules/{kernel}/updates/dkms/nvidia.ko",
        }
    running = None
    if on_disk:
        running = {"version": loaded or on_disk["version"], "flavour": on_disk["flavour"]}
    verdict = "absent" if on_disk is None else "reboot pending" if loaded else "ok"
    return {
        "schema": 1,
        "os": {
            "id": system,
            "version": release,
            "codename": None,
            "like": like,
            "name": f"{system} {release}",
        },
        "machine": machine,
        "kernel": {"running": kernel, "next": kernel, "installed": [kernel], "headers": [kernel]},
        "glibc": libc if glibc == "of the system" else glibc,
        "python": "3.11.2",
        "virtualization": {"type": virtualization, "detail": None},
        "secure_boot": secure_boot,
        "mok": None,
        "gpus": [
            {"slot": f"0000:{number:02x}:00.0", "vendor": "10de", "device": device, "class": "0302"}
            for number, device in enumerate(devices, 0x18)
        ],
        "nvswitches": nvswitches,
        "driver": {
            "package": None,
            "packages": [],
            "on_disk": on_disk,
            "loaded": running,
            "library": None,
            "foreign": {"kind": "run", "version": (on_disk or {}).get("version"), "path": "/usr/bin"}
            if foreign
            else None,
            "verdict": "foreign (.run)" if foreign else verdict,
            "reason": "",
        },
        "processes": [],
        "disks": [],
    }


def wish(
    sources: Iterable[str] = ("pypi",), driver: dict[str, Any] | None = None, **environment: Any
) -> dict[str, Any]:
    names = ALL if sources == "all" else sources
    return {
        "driver": driver or {},
        "environments": [{"name": "torch", "python": "3.11", **environment}],
        "sources": [SOURCES[name] for name in names],
        "pypi_urls": [MIRROR],
    }


def plan(facts: Any, wanted: Any, today: datetime.date = TODAY) -> dict[str, Any]:
    return planner.plan(facts, wanted, "gpu07", today)


def codes(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [row["code"] for row in rows]


def sample() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Some hosts and wishes of each kind, mixed and faulty ones among them; the same in every process."""
    chance = random.Random(20261123)
    found = []
    for _ in range(60):
        gpus = chance.choices(sorted(GPUS), k=chance.choice([0, 1, 1, 1, 2, 3]))
        facts = truth(gpus, chance.choice([None, *DRIVERS]), os=chance.choice(sorted(SYSTEMS)))
        asked = {"python": chance.choice(PYTHONS), "torchvision": True}
        for more in ({}, {"typo": 1}):
            names = chance.sample(sorted(SOURCES), chance.randint(1, 6))
            found.append((facts, wish(names, {"upgrade": chance.random() < 0.5}, **asked, **more)))
    return found
