"""What else a run meets on a host: who it is there, the time, names that resolve, and its file systems."""

from __future__ import annotations

import os
import pwd
import socket
import threading
import time
from typing import Any, Dict, Sequence

from ansible_collections.torchfleet.gpu.plugins.module_utils.host import Host

Json = Dict[str, Any]
RESOLVE_SECONDS = 5.0  # for all names together; a resolver that is down takes longer


def user() -> Json:
    uid = os.geteuid()
    try:
        return {"name": pwd.getpwuid(uid).pw_name, "uid": uid}
    except KeyError:
        return {"name": str(uid), "uid": uid}


def clock() -> Json:
    """The action plugin, which knows the controller's clock, tells the skew."""
    return {"time": time.time(), "skew_seconds": None}


def names(wanted: Sequence[str], seconds: float = RESOLVE_SECONDS) -> Json:
    """Which of the names do not resolve, the host's own among them; without names nothing is asked."""
    own = socket.gethostname()
    asked = list(dict.fromkeys([*wanted, own])) if wanted else []
    resolved: list[str] = []

    def resolve(name: str) -> None:
        try:
            socket.getaddrinfo(name, None)
        except (OSError, UnicodeError):
            return
        resolved.append(name)

    threads = [threading.Thread(target=resolve, args=(name,), daemon=True) for name in asked]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    answered = set(resolved)
    return {"hostname": own, "asked": asked, "unresolved": [name for name in asked if name not in answered]}


def disks(host: Host, paths: Sequence[str]) -> list[Json]:
    """Space for ordinary users where each path is, or will be once its parents are made."""
    found = []
    for path in paths:
        place = host.at(path)
        exists = place.exists()
        while not place.exists() and place != place.parent:
            place = place.parent
        stat = os.statvfs(place)
        found.append(
            {
                "path": path,
                "exists": exists,
                "device": place.stat().st_dev,
                "free_bytes": stat.f_bavail * stat.f_frsize,
                "total_bytes": stat.f_blocks * stat.f_frsize,
                "read_only": bool(stat.f_flag & os.ST_RDONLY),
                "noexec": bool(stat.f_flag & os.ST_NOEXEC),
            }
        )
    return found
