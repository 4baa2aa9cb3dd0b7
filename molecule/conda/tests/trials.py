"""Runs on a host: the module with the real conda, every state and every fault, counting what was lost.

    trials.py PACKAGE_ROOT {states|kill|disk|mirror|corrupt|together} JSON

PACKAGE_ROOT holds ansible/module_utils and the collection. Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONDA = "/opt/miniconda3"
MODULE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.argv[2].encode(), "legacy"
from ansible_collections.torchfleet.gpu.plugins.modules import conda_env
conda_env.main()
"""
Result = dict[str, Any]


def start(**options: Any) -> subprocess.Popen[str]:
    # The system's own Python, as Ansible would.
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {"conda_prefix": CONDA, **options}})
    return subprocess.Popen(
        ["/usr/bin/python3", "-c", MODULE, sys.argv[1], arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(**options: Any) -> Result:
    process = start(**options)
    stdout, stderr = process.communicate()
    if not stdout:
        raise SystemExit(f"no result: {stderr}")
    result: Result = json.loads(stdout)
    return result


def manifest(prefix: Path) -> dict[str, str]:
    """Every file but conda's own log of what it did, and byte code, which comes and goes."""
    found = {}
    for path in prefix.rglob("*"):
        name = str(path.relative_to(prefix))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and name != "conda-meta/history" and path.suffix != ".pyc":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def works(prefix: Path) -> bool:
    command = [str(prefix / "bin" / "python"), "-c", "import six, click; print(six.__version__)"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def leftovers(prefix: Path) -> list[str]:
    found = prefix.parent.glob(f".torchfleet-{prefix.name}.*")
    return [path.name for path in found if path.suffix != ".lock"]


def base(name: str, **options: Any) -> Path:
    """A fresh environment to be hurt."""
    prefix = Path(CONDA, "envs", name)
    run(prefix=str(prefix), state="absent")
    result = run(prefix=str(prefix), **options)
    assert result["changed"], result
    return prefix


def states(given: Result) -> Result:
    """Each state after the other, for one owner; what each run answered."""
    who = {"name": "states", **({"owner": given["owner"]} if given.get("owner") else {})}
    wish = {"python": "3.11", "packages": ["six=1.16"], "variables": {"A": "1"}}
    seen: Result = {}

    def note(step: str, **options: Any) -> Result:
        result = run(**{**who, **options})
        if result.get("failed"):
            raise SystemExit(f"{step}: {result['msg']}")
        seen[step] = {key: result[key] for key in ("changed", "drift", "actions", "prefix") if key in result}
        return result

    run(**who, state="absent")
    prefix = note("present", **wish)["prefix"]
    note("present again", **wish)
    note("frozen", frozen=True, python="3.11", packages=["six=1.17", "click"])
    note("latest", state="latest", python="3.11", packages=["six"])
    note("latest again", state="latest", python="3.11", packages=["six"])
    note("more", packages=["click"], pip=["einops==0.8.1"])
    note("exact", state="exact", python="3.11", packages=["six"])
    note("exact again", state="exact", python="3.11", packages=["six"])
    seen["owner"] = Path(prefix).owner()
    seen["own packages work"] = works_as(prefix, given.get("owner"))
    note("absent", state="absent")
    note("absent again", state="absent")
    seen["left"] = leftovers(Path(prefix))
    return seen


def works_as(prefix: str, owner: str | None) -> bool:
    head = ["runuser", "-u", owner, "--"] if owner else []
    command = [*head, f"{prefix}/bin/python", "-c", "import six"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def kill(given: Result) -> Result:
    """kill -9 at many points of a change: the module with its conda, every other time it alone."""
    prefix = base("faulty", lock=given["lock"])
    original = manifest(prefix)
    timing = time.monotonic()
    run(prefix=str(prefix), packages=["six=1.16"], pip=["colorama==0.4.6"])
    whole = time.monotonic() - timing
    run(prefix=str(prefix), lock=given["lock"], state="exact")
    counted = {"trials": 0, "in the change": 0, "lost": 0, "files": len(original)}
    points = int(given["points"])
    for number in range(points):
        process = start(prefix=str(prefix), packages=["six=1.16"], pip=["colorama==0.4.6"])
        time.sleep(whole * (number + 0.5) / points)
        if number % 2:
            os.kill(process.pid, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        counted["trials"] += 1
        counted["in the change"] += bool(leftovers(prefix)) or manifest(prefix) != original
        result = run(prefix=str(prefix), lock=given["lock"], state="exact")
        same = manifest(prefix) == original and works(prefix) and not leftovers(prefix)
        counted["lost"] += bool(result.get("failed")) or not same
    return counted


def disk(given: Result) -> Result:
    """An environment on a file system that is full: a change, and a removal."""
    mount = Path("/srv/small")
    mount.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(mount)], check=True)
    try:
        prefix = mount / "envs" / "full"
        result = run(prefix=str(prefix), python="3.11", packages=["six", "click"])
        assert result.get("changed"), result
        original = manifest(prefix)
        free = shutil.disk_usage(mount).free
        (mount / "filler").write_bytes(b"x" * max(0, free - (2 << 20)))
        failed = run(prefix=str(prefix), packages=["numpy", "flask"])
        lost = manifest(prefix) != original or not works(prefix) or bool(leftovers(prefix))
        removed = run(prefix=str(prefix), state="absent")
        return {
            "code": failed.get("code"),
            "lost": int(lost),
            "msg": failed.get("msg"),
            "removed": removed.get("changed", False) and not prefix.exists() and not leftovers(prefix),
        }
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def changed_lock(given: Result, **change: Any) -> str:
    """The lock with another six in it, which is not as the mirror has it."""
    lock = json.loads(given["lock"])
    for package in lock["conda"]:
        if package["fn"].startswith("six-1.17"):
            package.update({"fn": "six-1.16.0-pyh8abb2f1_0.conda", **change})
            package.pop("sha256", None)
    lock["channels"]["dead"] = "https://mirrors.tuna.tsinghua.edu.cn/faults/closed"
    return json.dumps(lock)


def mirror(given: Result) -> Result:
    """The mirror dies in the middle: what comes from one channel comes, and from another nothing does."""
    return failing(given, changed_lock(given, channel="dead", md5="0" * 32))


def corrupt(given: Result) -> Result:
    """A package that is not what the lock says."""
    return failing(given, changed_lock(given, md5="0" * 32))


def failing(given: Result, lock: str) -> Result:
    prefix = base("faulty", lock=given["lock"])
    original = manifest(prefix)
    failed = run(prefix=str(prefix), lock=lock)
    lost = manifest(prefix) != original or not works(prefix) or bool(leftovers(prefix))
    return {"code": failed.get("code"), "msg": failed.get("msg"), "lost": int(lost)}


def together(given: Result) -> Result:
    """Two runs that change one environment at once."""
    prefix = base("faulty", python="3.11", packages=["six", "click"])
    processes = [start(prefix=str(prefix), packages=[name]) for name in ("idna", "blinker", "certifi")]
    results = [json.loads(process.communicate()[0]) for process in processes]
    names = {path.name.rsplit("-", 2)[0] for path in (prefix / "conda-meta").glob("*.json")}
    lost = {"six", "click", "idna", "blinker", "certifi", "python"} - names
    return {"failed": sum("failed" in one for one in results), "lost": len(lost) + (not works(prefix))}


if __name__ == "__main__":
    trial = {one.__name__: one for one in (states, kill, disk, mirror, corrupt, together)}[sys.argv[2]]
    print(json.dumps(trial(json.loads(sys.argv[3]))))
