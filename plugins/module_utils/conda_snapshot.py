# Copyright: torchfleet contributors
# SPDX-License-Identifier: Apache-2.0
"""The environment as it was before a change: a tree of hard links beside it, put back when the change fails.

Scripts hold the path of their environment, so nothing is built elsewhere and moved in: the change works on
the environment itself, and only what conda had made under that very path is ever moved back. The names say
what is under way, so a kill at any point leaves one of few states:

  .torchfleet-NAME.new    a copy that is not complete: the environment was not touched yet
  .torchfleet-NAME.old    a complete copy: the change was not finished, and is taken back
  .torchfleet-NAME.trash  what goes
  .torchfleet-NAME.solve  the scratch environment of a lock
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from ansible_collections.torchfleet.gpu.plugins.module_utils.conda_prefix import PrefixError

# Changed in place by conda, so never shared between the environment and its copy.
_OWN = "conda-meta"
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS)


class Snapshot:
    def __init__(self, prefix: str) -> None:
        self.prefix = Path(os.path.realpath(prefix))
        self.path, self.partial, self.trash, self.scratch = (
            self.prefix.parent / f".torchfleet-{self.prefix.name}.{kind}"
            for kind in ("old", "new", "trash", "solve")
        )

    def possible(self) -> bool:
        """A mount point cannot be renamed, and a copy on another file system would be a whole one."""
        return not os.path.ismount(self.prefix) and os.access(self.prefix.parent, os.W_OK)

    def leftovers(self) -> bool:
        return any(map(os.path.lexists, (self.path, self.partial, self.trash, self.scratch)))

    def pending(self) -> bool:
        """Whether a change was begun and not finished."""
        try:
            owner = self.path.lstat().st_uid
        except (FileNotFoundError, NotADirectoryError):
            return False
        if owner not in (0, os.geteuid()):
            raise PrefixError(f"{self.path} belongs to user {owner}: remove it after a look")
        # Another environment was made under that name since.
        return not os.path.lexists(self.prefix) or born(self.prefix) in ("", born(self.path))

    def take(self) -> None:
        for leftover in (self.partial, self.path):
            _remove(leftover)
        _copy_tree(str(self.prefix), str(self.partial), top=True)
        self.partial.rename(self.path)

    def unchanged(self) -> bool:
        return _same_tree(str(self.prefix), str(self.path), top=True)

    def restore(self) -> None:
        if os.path.lexists(self.prefix):
            _remove(self.trash)
            self.prefix.rename(self.trash)
        self.path.rename(self.prefix)
        self.clear()

    def drop(self) -> None:
        """The change stands: from the rename on there is no way back."""
        _remove(self.trash)
        self.path.rename(self.trash)
        self.clear()

    def discard_prefix(self) -> None:
        """Removes the environment: gone at once, and its files soon."""
        _remove(self.trash)
        try:
            self.prefix.rename(self.trash)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM):
                raise
            _empty(self.prefix)  # a mount point, or not the owner of the directory that it is in
        self.clear()

    def clear(self) -> None:
        for leftover in (self.partial, self.trash, self.scratch):
            _remove(leftover)


def born(prefix: Path) -> str:
    """When the environment was created: the first line of its history, empty where there is none."""
    try:
        with (prefix / "conda-meta" / "history").open(encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _empty(directory: Path) -> None:
    # What says that it is an environment goes last: a kill leaves what the next run can remove.
    for entry in sorted(directory.iterdir(), key=lambda path: path.name == _OWN):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _copy_tree(source: str, target: str, top: bool = False, own: bool = False) -> None:
    Path(target).mkdir(mode=0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            new = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                _copy_tree(entry.path, new, own=own or (top and entry.name == _OWN))
            elif own:
                shutil.copy2(entry.path, new, follow_symlinks=False)
            else:
                _link(entry.path, new)
    status = Path(source).stat()
    with contextlib.suppress(PermissionError):
        os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        # Another user's file, too many links, or a file system without them.
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _same_tree(one: str, two: str, top: bool = False, own: bool = False) -> bool:
    with os.scandir(one) as entries:
        mine = {entry.name: entry for entry in entries}
    with os.scandir(two) as entries:
        theirs = {entry.name: entry for entry in entries}
    if mine.keys() != theirs.keys():
        return False
    for name, entry in mine.items():
        other = theirs[name]
        directory = entry.is_dir(follow_symlinks=False)
        if directory != other.is_dir(follow_symlinks=False):
            return False
        if directory:
            if not _same_tree(entry.path, other.path, own=own or (top and name == _OWN)):
                return False
        elif own:
            status, known = entry.stat(follow_symlinks=False), other.stat(follow_symlinks=False)
            if (status.st_size, status.st_mtime_ns) != (known.st_size, known.st_mtime_ns):
                return False
        elif entry.inode() != other.inode():
            return False
    return True
