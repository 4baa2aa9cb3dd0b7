"""The one-word state of a host's NVIDIA driver, from the facts alone."""

from __future__ import annotations

from typing import Any, Dict

Json = Dict[str, Any]


def driver_verdict(truth: Json) -> tuple[str, str]:
    """(verdict, reason) for a Truth whose ``driver`` lacks only these two.

    The first rule that matches wins, so what hides other causes comes first.
    """
    driver, gpus = truth["driver"], truth["gpus"]
    kind = truth["virtualization"]["type"]
    if kind in ("container", "wsl2"):
        owner = "its host's" if kind == "container" else "Windows'"
        return "not wanted", f"this is a {kind}: the kernel driver is {owner} affair"
    if not gpus:
        return "not wanted", "there is no NVIDIA GPU on the PCI bus"
    if driver["foreign"]:
        foreign = driver["foreign"]
        return "foreign (.run)", (
            f"driver {foreign['version'] or 'of unknown version'} was installed by NVIDIA's .run file"
            f" ({foreign['path']}), not by the package manager"
        )
    if driver["loaded"]:
        return _loaded(truth)
    return _not_loaded(truth)


def _loaded(truth: Json) -> tuple[str, str]:
    driver, kernel = truth["driver"], truth["kernel"]
    loaded, disk, library = driver["loaded"], driver["on_disk"], driver["library"]
    version = loaded["version"]
    module = f"module {version or 'of unknown version'}"
    boots = kernel["next"] or kernel["running"]
    if disk and disk["kernel"] != boots:
        return "built for another kernel", (
            f"{module} is loaded, but there is none for kernel {boots}, which boots next"
        )
    for what in ("version", "flavour"):
        if disk and disk[what] and loaded[what] and disk[what] != loaded[what]:
            return "reboot pending", (
                f"module {_name(loaded)} is loaded and {_name(disk)} is on disk: a reboot brings it in"
            )
    if library is None:
        return "library mismatch", f"{module} is loaded, but the library libcuda.so.1 is missing"
    if library["version"] and version and library["version"] != version:
        return "library mismatch", (
            f"{module} is loaded, but libcuda is {library['version']} ({library['path']})"
        )
    # vfio-pci and the like hold a GPU on purpose; one that nobody holds was refused by the module.
    refused = [gpu for gpu in truth["gpus"] if gpu["driver"] is None]
    if refused:
        names = ", ".join(f"{gpu['slot']} ({gpu['vendor']}:{gpu['device']})" for gpu in refused)
        return "wrong flavour", (
            f"module {_name(loaded)} is loaded but does not drive {names}:"
            " such a GPU needs the other flavour or another branch"
        )
    held = [gpu["slot"] for gpu in truth["gpus"] if gpu["driver"] == "nouveau"]
    if held:
        return "nouveau active", f"nouveau holds {', '.join(held)} beside the loaded {module}"
    return "ok", f"module {_name(loaded)} is loaded and fits its library"


def _not_loaded(truth: Json) -> tuple[str, str]:
    driver, kernel = truth["driver"], truth["kernel"]
    disk, package, nouveau = driver["on_disk"], driver["package"], driver["nouveau"]
    if disk is None and package is None:
        rest = "; nouveau drives it" if nouveau["loaded"] else ""
        return "absent", f"no NVIDIA driver is installed or loaded{rest}"
    if disk is None:
        return "built for another kernel", (
            f"package {package['name']} {package['version']} is installed, but no kernel has its module"
            f"{'' if kernel['headers'] else ' and no kernel headers are installed'}"
        )
    if disk["kernel"] not in (kernel["running"], kernel["next"]):
        return "built for another kernel", (
            f"module {_name(disk)} is there for kernel {disk['kernel']},"
            f" not for {kernel['next'] or kernel['running']}"
        )
    if nouveau["loaded"]:
        ban = "it is blacklisted: reboot" if nouveau["blacklisted"] else "it is not blacklisted"
        return "nouveau active", f"module {_name(disk)} is on disk, but nouveau is loaded; {ban}"
    if disk["kernel"] != kernel["running"]:
        return "reboot pending", (
            f"module {_name(disk)} is there for kernel {disk['kernel']}, and {kernel['running']} runs"
        )
    if truth["secure_boot"]:
        return "blocked by Secure Boot", (
            f"module {_name(disk)} is on disk and not loaded, and Secure Boot is on:"
            " it is unsigned, or its key is not enrolled"
        )
    return "reboot pending", f"module {_name(disk)} is on disk and not loaded yet"


def _name(module: Json) -> str:
    return " ".join(part for part in (module["version"] or "of unknown version", module["flavour"]) if part)
