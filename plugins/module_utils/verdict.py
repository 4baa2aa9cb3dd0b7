"""The one-word state of a host's NVIDIA driver, from the facts alone."""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple

Json = Dict[str, Any]


def driver_verdict(truth: Json) -> tuple[str, str]:
    """(verdict, reason) for a Truth whose ``driver`` lacks only these two.

    The first rule that matches wins, so what hides other causes comes first.
    """
    for rule in RULES:
        found = rule(truth)
        if found:
            return found
    return "ok", f"module {_name(truth['driver']['loaded'])} is loaded and fits its library"


def _not_wanted(truth: Json) -> tuple[str, str] | None:
    kind, detail = truth["virtualization"]["type"], truth["virtualization"]["detail"]
    if kind == "container":
        which = f" ({detail})" if detail else ""
        return "not wanted", f"this is a container{which}: the kernel driver is its host's affair"
    if kind == "wsl2":
        return (
            "not wanted",
            "this is WSL2: the driver is Windows' affair; install or upgrade it there, never here",
        )
    if not truth["gpus"]:
        machine = "; none is passed through to this virtual machine" if kind == "vm" else ""
        return "not wanted", f"there is no NVIDIA GPU on the PCI bus{machine}"
    return None


def _foreign(truth: Json) -> tuple[str, str] | None:
    foreign = truth["driver"]["foreign"]
    if not foreign:
        return None
    return "foreign (.run)", (
        f"driver {foreign['version'] or 'of unknown version'} was installed by NVIDIA's .run file"
        f" ({foreign['path']}), not by the package manager: remove it with nvidia-uninstall, or have it"
        " adopted"
    )


def _absent(truth: Json) -> tuple[str, str] | None:
    driver = truth["driver"]
    if driver["loaded"] or driver["on_disk"] or driver["package"]:
        return None
    held = any(gpu["driver"] == "nouveau" for gpu in truth["gpus"])
    rest = "; nouveau drives it" if held else "; nouveau is loaded" if driver["nouveau"]["loaded"] else ""
    broken = driver["half_configured"]
    names = ", ".join(row["name"] for row in broken[:3]) + (" and others" if len(broken) > 3 else "")
    half = f"; dpkg was interrupted and left half done: {names}" if broken else ""
    return "absent", f"no NVIDIA driver is installed or loaded{rest}{half}"


def _other_kernel(truth: Json) -> tuple[str, str] | None:
    driver, kernel = truth["driver"], truth["kernel"]
    disk, package, boots = driver["on_disk"], driver["package"], _boots(truth)
    if (disk and disk["kernel"] == boots) or not (disk or package):
        return None
    if driver["loaded"]:
        there = f"module {_name(driver['loaded'])} is loaded"
    elif disk:
        there = f"module {_name(disk)} is there for kernel {disk['kernel']}"
    else:
        there = f"package {package['name']} {package['version']} is installed"
    if disk is None and driver["loaded"]:
        # Loaded out of the initramfs or a directory that depmod does not know; only the file is missing.
        found = f"{there}, but no kernel has its module on the disk"
    elif disk is None:
        found = f"{there}, but no kernel has its module"
    else:
        found = f"{there}, but there is none for kernel {boots}, which boots next"
    return "built for another kernel", f"{found}: {_why_not_built(truth, boots, kernel['headers'])}"


def _why_not_built(truth: Json, boots: str, headers: list[str]) -> str:
    failed = [
        row for row in truth["driver"]["dkms"] if row["state"] == "failed" and row["kernel"] in (boots, None)
    ]
    if failed:
        return f"its DKMS build failed or was interrupted, see {failed[0]['log'] or '/var/lib/dkms'}"
    if boots not in headers:
        return f"the headers of {boots} are not installed, and DKMS needs them to build it"
    return "build it with dkms autoinstall, or install the package of modules for that kernel"


def _removed(truth: Json) -> tuple[str, str] | None:
    driver = truth["driver"]
    if driver["on_disk"] or driver["package"]:
        return None
    return "reboot pending", (
        f"module {_name(driver['loaded'])} is loaded still, and neither its file nor a package is there:"
        " a reboot lets it go"
    )


def _wrong_flavour(truth: Json) -> tuple[str, str] | None:
    driver = truth["driver"]
    disk = driver["on_disk"]
    module = disk or driver["loaded"]
    # vfio-pci and the like hold a GPU on purpose.
    ours = [gpu for gpu in truth["gpus"] if gpu["driver"] in (None, "nvidia", "nouveau")]
    unfit = [
        gpu
        for gpu in ours
        if module and module["flavour"] and gpu["flavours"] and module["flavour"] not in gpu["flavours"]
    ]
    if unfit:
        needed = sorted({flavour for gpu in unfit for flavour in gpu["flavours"]})
        others = [gpu for gpu in ours if gpu not in unfit and gpu["flavours"] == [module["flavour"]]]
        state = "on disk" if disk else "loaded"
        found = (
            f"module {_name(module)} is {state}, but {_gpus(unfit)} can only be driven by the"
            f" {' or '.join(needed)} one"
        )
        if others:
            return "wrong flavour", (
                f"{found}, and {_gpus(others)} only by the {module['flavour']} one: no driver serves both,"
                " so take one kind out"
            )
        return "wrong flavour", f"{found}: change the flavour"
    return None


def _secure_boot(truth: Json) -> tuple[str, str] | None:
    driver = truth["driver"]
    loaded, disk = driver["loaded"], driver["on_disk"]
    if not truth["secure_boot"] or disk is None or (loaded and not _differs(loaded, disk)):
        return None
    row = next(row for row in driver["modules"] if row["kernel"] == disk["kernel"])
    if row["signed"] and row["trusted"]:
        return None
    module = f"module {_name(disk)} is on disk"
    if row["signed"] is False:
        return "blocked by Secure Boot", (
            f"{module}, and Secure Boot is on: it is unsigned, so the kernel refuses it; install signed"
            " modules, or sign it with a key of the machine owner's and enrol that"
        )
    signer = f"signed by {row['signer']!r}" if row["signer"] else "signed"
    if row["trusted"] is False:
        pending = row["signer"] in (truth["mok"] or {}).get("pending", [])
        following = (
            "is waiting for its confirmation at the console at the next boot"
            if pending
            else "is not enrolled: enrol it (mokutil --import) and confirm that at the console"
        )
        return (
            "blocked by Secure Boot",
            f"{module}, and Secure Boot is on: it is {signer}, whose key {following}",
        )
    if loaded or driver["nouveau"]["loaded"] or disk["kernel"] != truth["kernel"]["running"]:
        return None  # something else explains that it is not loaded
    return "blocked by Secure Boot", (
        f"{module} and not loaded, and Secure Boot is on: it is unsigned, or its key is not enrolled"
        " (mokutil --list-enrolled)"
    )


def _nouveau(truth: Json) -> tuple[str, str] | None:
    driver = truth["driver"]
    nouveau = driver["nouveau"]
    if driver["loaded"]:
        held = [gpu["slot"] for gpu in truth["gpus"] if gpu["driver"] == "nouveau"]
        if not held:
            return None
        return "nouveau active", (
            f"nouveau holds {', '.join(held)} beside the loaded module {_name(driver['loaded'])}:"
            f" {_without_nouveau(nouveau)}"
        )
    if not nouveau["loaded"]:
        return None
    return "nouveau active", (
        f"module {_name(driver['on_disk'])} is on disk, but nouveau is loaded: {_without_nouveau(nouveau)}"
    )


def _without_nouveau(nouveau: Json) -> str:
    if nouveau["blacklisted"]:
        return "it is blacklisted, so a reboot leaves it out"
    return "it is not blacklisted, so blacklist it, renew the initramfs and reboot"


def _reboot(truth: Json) -> tuple[str, str] | None:
    driver, kernel = truth["driver"], truth["kernel"]
    loaded, disk, library = driver["loaded"], driver["on_disk"], driver["library"]
    if loaded is None:
        if disk["kernel"] != kernel["running"]:
            return "reboot pending", (
                f"module {_name(disk)} is there for kernel {disk['kernel']}, and {kernel['running']} runs:"
                " a reboot brings it in"
            )
        return "reboot pending", f"module {_name(disk)} is on disk and not loaded yet: load it, or reboot"
    if not _differs(loaded, disk):
        return None
    stale = bool(library and library["version"] and loaded["version"] not in (None, library["version"]))
    return "reboot pending", (
        f"module {_name(loaded)} is loaded and {_name(disk)} is on disk: a reboot brings it in"
        f"{', until then no program can start on the GPUs, for libcuda is new already' if stale else ''}"
    )


def _library(truth: Json) -> tuple[str, str] | None:
    driver = truth["driver"]
    library, version = driver["library"], driver["loaded"]["version"]
    module = f"module {version or 'of unknown version'} is loaded"
    if library is None:
        return (
            "library mismatch",
            f"{module}, but the library libcuda.so.1 is missing: install the driver's libraries",
        )
    if library["version"] and version and library["version"] != version:
        return "library mismatch", (
            f"{module}, but libcuda is {library['version']} ({library['path']}): install both of one version"
        )
    if not truth["nvswitches"]:
        return None
    manager = driver["fabric_manager"]
    switches = f"{module} on a host with {truth['nvswitches']} NVSwitches"
    if manager is None:
        return "library mismatch", f"{switches}, but Fabric Manager is missing: CUDA cannot start without it"
    if manager["version"] and version and manager["version"] != version:
        return "library mismatch", (
            f"{switches}, but Fabric Manager is {manager['version']}: it must be exactly the driver's"
        )
    if not manager["active"]:
        return "library mismatch", (
            f"{switches}, but Fabric Manager does not run: start nvidia-fabricmanager.service, without it"
            " CUDA cannot start"
        )
    return None


def _refused(truth: Json) -> tuple[str, str] | None:
    loaded = truth["driver"]["loaded"]
    refused = [gpu for gpu in truth["gpus"] if gpu["driver"] is None]
    if not refused:
        return None
    return "wrong flavour", (
        f"module {_name(loaded)} is loaded but does not drive {_gpus(refused)}: such a GPU needs the other"
        " flavour or another branch; the kernel's log says which (journalctl -k -g NVRM)"
    )


# What hides other causes comes first; docs/contracts.md has the same order.
Rule = Callable[[Json], "Tuple[str, str] | None"]
RULES: tuple[Rule, ...] = (
    _not_wanted, _foreign, _absent, _other_kernel, _removed, _wrong_flavour, _secure_boot, _nouveau, _reboot,
    _library, _refused,
)  # fmt: skip


def _boots(truth: Json) -> str:
    kernel = truth["kernel"]
    return str(kernel["next"] or kernel["running"])


def _differs(loaded: Json, disk: Json | None) -> bool:
    """Whether the module on the disk is another one than the loaded one."""
    return disk is not None and any(
        disk[what] and loaded[what] and disk[what] != loaded[what] for what in ("version", "flavour")
    )


def _name(module: Json) -> str:
    return " ".join(part for part in (module["version"] or "of unknown version", module["flavour"]) if part)


def _gpus(gpus: list[Json]) -> str:
    return ", ".join(f"{gpu['slot']} ({gpu['vendor']}:{gpu['device']})" for gpu in gpus)
