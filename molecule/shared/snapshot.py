"""Print a picture of a host's file system and packages as one JSON object: a name, and what it was like.

Left out is what changes by itself on any host that is looked at: logs, caches, the traces of a login, and
Ansible's own temporary directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path

ROOTS = ("/boot", "/etc", "/home", "/lib/modules", "/opt", "/root", "/srv", "/usr", "/var")
VOLATILE = (
    "/var/log/",
    "/var/cache/",
    "/var/tmp/",
    "/var/run",
    "/var/lock",
    "/var/lib/systemd/",
    "/var/lib/private",
    "/var/lib/sudo",
    "/var/lib/apt/lists/",
    "/var/lib/apt/periodic",
    "/var/lib/dnf/history.sqlite-shm",  # who reads such a database maps it
    "/var/lib/rpm/rpmdb.sqlite-shm",
)
VOLATILE_PARTS = ("/.ansible", "/__pycache__")
LAYOUT = "${Package}:${Architecture} ${Version} ${db:Status-Status}\\n"


def describe(path: Path) -> str:
    info = path.lstat()
    text = f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid}"
    if stat.S_ISLNK(info.st_mode):
        return f"{text} -> {os.readlink(path)}"
    if stat.S_ISREG(info.st_mode):
        # dnf opens its history to write even where it only asks.
        written = "" if path.suffix == ".sqlite" else info.st_mtime_ns
        return f"{text} {written} {hashlib.sha1(path.read_bytes()).hexdigest()}"
    return text


def look(folder: Path, seen: dict[str, str]) -> None:
    for path in folder.iterdir():
        name = str(path)
        if name.startswith(VOLATILE) or any(part in name for part in VOLATILE_PARTS):
            continue
        try:
            seen[name] = describe(path)
            if path.is_dir() and not path.is_symlink():
                look(path, seen)
        except FileNotFoundError:  # removed meanwhile
            continue


def picture() -> dict[str, str]:
    seen: dict[str, str] = {}
    for root in ROOTS:
        if Path(root).is_dir():
            look(Path(root), seen)
    query = ["dpkg-query", "--show", f"--showformat={LAYOUT}"]
    for line in subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        name, version, state = line.split(" ")
        seen[f"package {name}"] = f"{version} {state}"
    return seen


if __name__ == "__main__":
    print(json.dumps(picture()))
