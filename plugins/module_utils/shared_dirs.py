"""Directories in which the members of one group create conda environments and keep one package cache."""

from __future__ import annotations

import errno
import grp
import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

# Of the kernel's extended attribute for default ACLs: version, then tag, permissions and id of each entry.
_ACL = "system.posix_acl_default"
_NO_ID = 0xFFFFFFFF
# user::rwx group::rwx other::r-x. Whatever umask a member has, the others can go on with the cache's indexes.
GROUP_WRITES = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, _NO_ID) for tag, rights in ((0x01, 7), (0x04, 7), (0x20, 5))
)


class Wanted(NamedTuple):
    path: str
    mode: int
    directory: bool
    group: bool  # of the group, else of root's
    acl: bool = False


def wanted(top: str) -> list[Wanted]:
    """Sticky, so that nobody renames or removes an environment of somebody else; never writable for all.

    The two files are those by which conda finds out whether it may write in the directory.
    """
    return [
        Wanted(top, 0o755, True, False),
        Wanted(f"{top}/envs", 0o3775, True, True),
        Wanted(f"{top}/envs/.conda_envs_dir_test", 0o664, False, True),
        Wanted(f"{top}/pkgs", 0o2775, True, True, acl=True),
        Wanted(f"{top}/pkgs/urls.txt", 0o664, False, True),
    ]


def _acl(path: str) -> bytes | None:
    """Return the default ACL, or None where the file system knows none."""
    try:
        return os.getxattr(path, _ACL)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return b""
        if error.errno == errno.ENOTSUP:
            return None
        raise


def wrong(row: Wanted, gid: int | None) -> list[str]:
    """Say what is not as it shall be; gid None: the group is still to be made."""
    try:
        status = os.lstat(row.path)
    except FileNotFoundError:
        return ["missing"]
    if stat.S_ISDIR(status.st_mode) is not row.directory or stat.S_ISLNK(status.st_mode):
        raise NotADirectoryError(
            errno.ENOTDIR, "not what conda needs there (a link, or another type)", row.path
        )
    found = []
    if stat.S_IMODE(status.st_mode) != row.mode:
        found.append(f"mode {stat.S_IMODE(status.st_mode):04o}")
    if status.st_uid != os.geteuid():
        found.append(f"owner {status.st_uid}")
    if row.group and status.st_gid != gid:
        found.append(f"group {status.st_gid}")
    if row.acl and _acl(row.path) not in (GROUP_WRITES, None):
        found.append("no default ACL")
    return found


def put(row: Wanted, gid: int) -> str | None:
    """Make it so; return a warning where the file system has no ACLs."""
    path = Path(row.path)
    if row.directory:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    else:
        path.touch(mode=0o600)
    os.lchown(row.path, os.geteuid(), gid if row.group else os.getegid())
    path.chmod(row.mode)  # after chown, which takes the setgid bit away
    if row.acl:
        try:
            os.setxattr(row.path, _ACL, GROUP_WRITES)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            return f"the file system of {row.path} has no ACLs: members of the group need umask 002"
    return None


def gid_of(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None
