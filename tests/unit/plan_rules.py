"""The rules of compatibility a second time, in plain words, to judge plans by: nothing here asks the planner.

The bounds are NVIDIA's and PyTorch's own statements; what each build holds is read from the rows of data/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "plugins" / "plugin_utils" / "data"
CUDA_FLOORS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}
# Capability: first driver, last branch, flavours, first and last CUDA.
BOTH, CLOSED, OPEN = {"open", "proprietary"}, {"proprietary"}, {"open"}
BOUNDS: dict[str, tuple[str | None, int | None, set[str], str | None, str | None]] = {
    "2.0": (None, 390, CLOSED, None, "8.0"),
    "2.1": (None, 390, CLOSED, None, "8.0"),
    "3.0": (None, 470, CLOSED, None, "10.2"),
    "3.5": (None, 470, CLOSED, None, "11.8"),
    "3.7": (None, 470, CLOSED, None, "11.8"),
    "5.0": (None, 580, CLOSED, None, "12.9"),
    "5.2": (None, 580, CLOSED, None, "12.9"),
    "6.0": (None, 580, CLOSED, None, "12.9"),
    "6.1": (None, 580, CLOSED, None, "12.9"),
    "7.0": (None, 580, CLOSED, None, "12.9"),
    "7.5": (None, None, BOTH, None, None),
    "8.0": (None, None, BOTH, None, None),
    "8.6": (None, None, BOTH, None, None),
    "8.9": ("520.61.05", None, BOTH, "11.8", None),
    "9.0": ("520.61.05", None, BOTH, "11.8", None),
    "10.0": ("570", None, OPEN, "12.8", None),
    "10.3": ("575", None, OPEN, "12.9", None),
    "10.7": ("615", None, OPEN, "13.4", None),
    "11.0": (None, None, OPEN, "12.8", None),
    "12.0": ("570", None, OPEN, "12.8", None),
    "12.1": ("580", None, OPEN, "12.9", None),
}
GRACE_HOPPER = {"2342", "2348"}  # open modules only
# Code for these does not run on that device although the majors agree and the minor is lower.
NOT_ON = {("5.0", "5.3"), ("5.2", "5.3"), ("6.0", "6.2"), ("6.1", "6.2"), ("7.0", "7.2"), ("10.0", "10.1")}
NOT_ON_BEFORE_13_2 = {("8.0", "8.7"), ("8.6", "8.7")}


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def at_least(version: str, floor: str) -> bool:
    return numbers(version) >= numbers(floor)


def load(name: str) -> Any:
    text = (DATA / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


PCI = load("pci_gpus.json")
TORCH = load("torch.yml")["releases"]
CHANNELS = {row["kind"]: row for row in load("channels.yml")["channels"]}


def capability(device: str) -> str:
    return str(PCI["chips"][PCI["devices"][device][0]]["capability"])


def runs(code: str, device: str, cuda: str) -> bool:
    """Same major, and built for a minor that is not above the device's; Thor was 10.1 before CUDA 13."""
    if code == "10.1" or device == "10.1":
        return {code, device} <= {"10.1", "11.0"}
    if (code, device) in NOT_ON:
        return False
    if (code, device) in NOT_ON_BEFORE_13_2 and numbers(cuda) < (13, 2):
        return False
    (major, minor), (device_major, device_minor) = numbers(code), numbers(device)
    return major == device_major and minor <= device_minor


def cuda_of(variant: str) -> str:
    return f"{variant[2:-1]}.{variant[-1]}"


@dataclass(frozen=True)
class Row:
    """A build of torch: ``codes`` is what it can run on, by machine."""

    torch: str
    variant: str
    machines: dict[str, dict[str, Any]]

    @property
    def cuda(self) -> str | None:
        return None if self.variant == "cpu" else cuda_of(self.variant)


@cache
def rows() -> dict[tuple[str, str], Row]:
    """Every wheel, by release and variant."""
    found = {}
    for release in TORCH:
        for build in [*release["builds"], *([{"variant": "cpu"}] * release["cpu_index"])]:
            machines = {}
            for machine in build.get("capabilities", release["python"]):
                floor = (build.get("glibc") or release["glibc"])[machine]
                machines[machine] = {
                    "codes": set(build.get("capabilities", {}).get(machine, []))
                    - set(build.get("nominal", [])),
                    "python": release["python"][machine],
                    "glibc": floor,
                    "pypi": release["pypi"][machine] == build["variant"],
                    "low": build.get("confidence", {}).get(machine) == "low",
                }
            found[release["torch"], build["variant"]] = Row(release["torch"], build["variant"], machines)
    return found


def companion(torch: str, package: str) -> str | None:
    release = next(row for row in TORCH if row["torch"] == torch)
    return torch if package == "torch" else release[package]


def driver_fits(version: str, flavour: str | None, devices: Iterable[str]) -> bool:
    """Whether this driver knows, still knows, and has modules for, every one of these GPUs."""
    for device in devices:
        first, last, flavours, _first_cuda, _last_cuda = BOUNDS[capability(device)]
        if first and numbers(version) < numbers(first):
            return False
        if last and numbers(version)[0] > last:
            return False
        if flavour and flavour not in (OPEN if device in GRACE_HOPPER else flavours):
            return False
    return True


def cuda_fits(version: str, cuda: str) -> bool:
    return at_least(version, CUDA_FLOORS[cuda.split(".")[0]])


def has_code(torch: str, cuda: str, machine: str, devices: Iterable[str], known: bool = True) -> bool:
    """``known`` is false for builds whose lists nobody has read: CUDA itself must then know the GPU."""
    if not known:
        for device in devices:
            *_, first, last = BOUNDS[capability(device)]
            if (first and numbers(cuda) < numbers(first)) or (last and numbers(cuda) > numbers(last)):
                return False
        return True
    row = rows().get((torch, "cu" + cuda.replace(".", "")))
    codes = row.machines.get(machine, {}).get("codes", ()) if row else ()
    return all(any(runs(code, capability(device), cuda) for code in codes) for device in devices)


def carries(source: dict[str, Any], torch: str, variant: str, machine: str, packages: Iterable[str]) -> bool:
    """Whether a source of wheels has this build and its companions."""
    row = rows().get((torch, variant))
    if row is None or machine not in row.machines:
        return False
    if source.get("variants") and variant not in source["variants"]:
        return False
    default = row.machines[machine]["pypi"]
    if source["kind"] == "pypi":
        return bool(default)
    if not source.get("carries"):
        return True
    for package in packages:
        version = companion(torch, package)
        names = {f"{package}=={version}+{variant}"} | ({f"{package}=={version}"} if default else set())
        if not names & set(source["carries"]):
            return False
    return True


def channel_carries(kind: str, torch: str, cuda: str | None, machine: str) -> bool:
    return any(
        row["torch"] == torch and machine in row["machines"] and (cuda is None or cuda in row["cuda"])
        for row in CHANNELS[kind]["releases"]
    )


def conda_release(specs: Iterable[str]) -> str:
    """The release that a conda source names: ``pytorch=2.5.1=*cuda12.4*``."""
    found = [match[1] for spec in specs if (match := re.fullmatch(r"pytorch=([0-9.]+)=.+", spec))]
    assert len(found) == 1, specs
    return found[0]
