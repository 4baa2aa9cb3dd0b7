"""Print a picture of a host's file system and packages as one JSON object: a name, and what it was like.

Left out is what changes by itself on any host that is looked at: logs, caches, the traces of a login, and Ansible's
own temporary directory (which is listed only when something else is in it).
"""

import hashlib
import json
import os
import stat
import subprocess

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
)
VOLATILE_PARTS = ("/.ansible", "/__pycache__")


def describe(path):
    info = os.lstat(path)
    text = f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid}"
    if stat.S_ISLNK(info.st_mode):
        return f"{text} -> {os.readlink(path)}"
    if stat.S_ISREG(info.st_mode):
        with open(path, "rb") as file:
            return f"{text} {info.st_mtime_ns} {hashlib.sha1(file.read()).hexdigest()}"
    return text


def picture():
    seen = {}
    for root in ROOTS:
        for folder, folders, files in os.walk(root):
            for name in folders + files:
                path = os.path.join(folder, name)
                if path.startswith(VOLATILE) or any(part in path for part in VOLATILE_PARTS):
                    continue
                try:
                    seen[path] = describe(path)
                except FileNotFoundError:  # removed meanwhile
                    continue
            folders[:] = [name for name in folders if os.path.join(folder, name) in seen]
    query = ["dpkg-query", "--show", "--showformat=${Package}:${Architecture} ${Version} ${db:Status-Status}\\n"]
    for line in subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        name, version, state = line.split(" ")
        seen[f"package {name}"] = f"{version} {state}"
    return seen


if __name__ == "__main__":
    print(json.dumps(picture()))
