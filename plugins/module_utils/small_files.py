"""Bring small text files of a host to their declared content, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule


class Small(NamedTuple):
    """A file as it shall be; content None: it shall not be."""

    path: str
    content: str | None
    mode: int = 0o644
    # Begins every file that this collection writes there; a file that begins otherwise is somebody else's.
    marker: str = ""


def read(path: Path) -> str | None:
    """Return the text of the file, or None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_whole(path: Path, text: str, mode: int) -> None:
    """Replace the file in one step; a link stays, and what it points to is replaced."""
    target = Path(os.path.realpath(str(path)))
    # One name, so that the next run takes up what a killed one left.
    part = target.with_name(f".{target.name}.torchfleet")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(str(part), flags, 0o600), "wb") as handle:
            handle.write(text.encode("utf-8", "surrogateescape"))
            handle.flush()
            os.fchmod(handle.fileno(), mode)
            os.fsync(handle.fileno())
        part.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def difference(path: str, before: str | None, after: str | None, notes: str = "") -> dict[str, str]:
    """Return a diff as Ansible shows it."""
    return {
        "before_header": path,
        "after_header": path + notes,
        "before": before or "",
        "after": after or "",
    }


def change(wanted: Small) -> dict[str, str] | None:
    """Return the difference between what is and what shall be, None where there is none."""
    path = Path(wanted.path)
    before = read(path)
    if wanted.content is None:
        ours = before is not None and before.startswith(wanted.marker)
        return difference(wanted.path, before, None) if ours else None
    notes = ""
    if before is not None:
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        if mode != wanted.mode:
            notes = f" (mode {wanted.mode:04o} instead of {mode:04o})"
        if status.st_uid != os.geteuid():
            notes += f" (owner {os.geteuid()} instead of {status.st_uid})"
    if before == wanted.content and not notes:
        return None
    return difference(wanted.path, before, wanted.content, notes)


def put(module: AnsibleModule, wanted: Small) -> None:
    """Make the file so; what somebody else had there is backed up."""
    path = Path(wanted.path)
    if wanted.content is None:
        path.unlink()
        return
    before = read(path)
    if before is not None and not before.startswith(wanted.marker):
        module.backup_local(wanted.path)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(path, wanted.content, wanted.mode)
