# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""What belongs to an environment beside its packages: variables, kernelspec, group, registration."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any, Mapping, NamedTuple

from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import UNSET, write_whole


def write_variables(prefix: str, wanted: Mapping[str, str], prune: bool) -> None:
    """conda-meta/state, as C(conda env config vars) keeps it."""
    path = Path(prefix, "conda-meta", "state")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        content = {"version": 1}
    known = {
        key: value for key, value in (content.get("env_vars") or {}).items() if value == UNSET or not prune
    }
    content["env_vars"] = {**known, **wanted}
    write_whole(path, json.dumps(content, indent=2), 0o644)


class Kernel(NamedTuple):
    """One kernelspec of Jupyter, written without starting it."""

    path: Path
    content: dict[str, Any]

    def current(self) -> bool:
        return _read(self.path) == self.content

    def write(self) -> None:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.content, indent=1) + "\n", 0o644)


def kernel(python: str, directory: Path, name: str, display_name: str) -> Kernel:
    return Kernel(
        directory / name / "kernel.json",
        {
            "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": display_name,
            "language": "python",
            "metadata": {"debugger": True},
        },
    )


def kernels_directory(prefix: str | None) -> Path:
    """Where Jupyter looks: for everyone where root installs, else for the user."""
    if prefix:
        return Path(prefix, "share", "jupyter", "kernels")
    return Path(
        "/usr/local/share/jupyter/kernels" if os.geteuid() == 0 else _home() / ".local/share/jupyter/kernels"
    )


def kernels_of(python: str, directory: Path) -> list[Path]:
    """The kernelspecs that start this very Python."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(directory.glob("*/kernel.json")):
            argv = _read(path).get("argv")
            if isinstance(argv, list) and argv[:1] == [python]:
                found.append(path.parent)
    return found


def remove_kernels(python: str, directory: Path) -> None:
    for path in kernels_of(python, directory):
        shutil.rmtree(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_shared(prefix: str, group: str) -> bool:
    """Whether members of the group can change the environment, judged by what conda needs for that."""
    gid = grp.getgrnam(group).gr_gid
    for name in ("", "bin", "lib", "conda-meta", "conda-meta/history"):
        with contextlib.suppress(FileNotFoundError):
            status = Path(prefix, name).stat()
            directory = stat.S_ISDIR(status.st_mode)
            if status.st_gid != gid or not status.st_mode & stat.S_IWGRP:
                return False
            if directory and not status.st_mode & stat.S_ISGID:
                return False
    return True


def share(prefix: str, group: str, lock: int) -> None:
    """Directories, the records of conda and the lock: other files are links into the cache of packages."""
    gid = grp.getgrnam(group).gr_gid
    os.fchown(lock, -1, gid)
    os.fchmod(lock, 0o660)
    for directory, _directories, _files in os.walk(prefix):
        os.chown(directory, -1, gid)
        Path(directory).chmod(0o2775)
    for path in Path(prefix, "conda-meta").iterdir():
        if path.is_file() and not path.is_symlink():
            os.chown(path, -1, gid)
            path.chmod(0o664)


def unregister(prefix: str) -> None:
    """Out of conda's list of known environments; an entry that is left does no harm."""
    path = _home() / ".conda" / "environments.txt"
    with contextlib.suppress(OSError):
        lines = path.read_text("utf-8").splitlines()
        if prefix in lines:
            write_whole(path, "".join(line + "\n" for line in lines if line != prefix), 0o644)


def _home() -> Path:
    return Path(os.environ.get("HOME") or Path.home())
