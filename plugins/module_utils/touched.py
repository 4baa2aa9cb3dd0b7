"""Tell whether anything in files and trees was touched, by what the kernel notes of each entry."""

from __future__ import annotations

import hashlib
import os
from typing import Dict, Iterator, Optional, Sequence, Tuple

Snapshot = Dict[str, Optional[str]]
Entry = Tuple[str, os.stat_result]


def entries(path: str, leave_out: Sequence[str] = ()) -> Iterator[Entry]:
    """The entry itself and, without following links, all beneath it in a lasting order."""
    try:
        yield path, os.lstat(path)
        with os.scandir(path) as found:
            below = sorted((entry.name, entry) for entry in found)
    except (FileNotFoundError, NotADirectoryError):
        return
    for _name, entry in below:
        if entry.path in leave_out:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from entries(entry.path, leave_out)
        else:
            try:
                yield entry.path, entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone meanwhile: what is left differs
                continue


def snapshot(paths: Sequence[str], leave_out: Sequence[str] = ()) -> Snapshot:
    """A digest of each path, null where there is none.

    ctime is what no one sets back: writing, chmod, chown, renaming and linking all move it.
    """
    found: Snapshot = {}
    for path in paths:
        digest, seen = hashlib.sha256(), False
        for name, status in entries(path, leave_out):
            seen = True
            row = f"{name}\0{status.st_ino}\0{status.st_ctime_ns}\0{status.st_size}\0{status.st_mode}\n"
            digest.update(row.encode("utf-8", "surrogateescape"))
        found[path] = digest.hexdigest() if seen else None
    return found


def newest(path: str, leave_out: Sequence[str] = ()) -> tuple[str, float] | None:
    """The entry that was touched last, and when; the directory is it, where something was removed."""
    found = [(status.st_ctime, name) for name, status in entries(path, leave_out)]
    if not found:
        return None
    when, name = max(found)
    return name, when


def differing(before: Snapshot, after: Snapshot) -> list[str]:
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
