#!/usr/bin/env python3
"""What torch_env costs beside pip by hand: the first environment on a host, and the second.

    bench_pytorch.py CONDA_PREFIX CHANNEL UV REQUIREMENT VARIANT INDEX [FIND_LINKS]

CONDA_PREFIX holds bin/conda, CHANNEL has Python; REQUIREMENT is one pin of torch, such as torch===2.7.1,
VARIANT its build (cpu, cu126), INDEX an address that pip takes. Prints seconds, the bytes that the disk
holds more (hard links once), and the load. All is fetched once before, so that a mirror that caches serves
both alike. The environments are removed, with the cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.argv[2].encode(), "legacy"
from ansible_collections.torchfleet.gpu.plugins.modules import torch_env
torch_env.main()
"""


def bytes_of(*paths: Path) -> int:
    there = [str(path) for path in paths if path.exists()]
    done = subprocess.run(["du", "-sxB1", "--total", *there], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def main(arguments: list[str]) -> None:
    prefix = Path(arguments[0])
    channel, uv, requirement, variant, index, *links = arguments[1:]
    envs = prefix / "envs"
    names = ("torch-by-hand", "torch-first", "torch-second")
    cache = Path(tempfile.mkdtemp(prefix="cache-", dir=prefix))
    source = {"name": "bench", "method": "pip", "index_url": index, "find_links": links}
    row = {
        "python": "3.11",
        "torch": requirement.split("=")[-1].partition("+")[0],
        "variant": variant,
        "cuda": None if variant == "cpu" else f"{variant[2:-1]}.{variant[-1]}",
        "requirements": [requirement],
        "sources": [source],
    }

    def torch_env(name: str, changed: bool = True) -> None:
        options = {
            "prefix": str(envs),
            "cache_dir": str(cache),
            "uv": uv,
            "environments": [{**row, "name": name}],
        }
        given = json.dumps({"ANSIBLE_MODULE_ARGS": options})
        command = [sys.executable, "-c", MODULE, str(ROOT / "collections"), given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        result: dict[str, Any] = json.loads(done.stdout)
        assert not result.get("failed"), result["msg"]
        assert result["changed"] is changed, result

    def by_hand() -> None:
        pip = [str(envs / names[0] / "bin" / "python"), "-m", "pip", "install", "-q", "--no-cache-dir"]
        place = [word for link in links for word in ("--find-links", link)]
        subprocess.run([*pip, "--index-url", index, *place, requirement], check=True)

    def warm() -> None:
        pip = [str(envs / names[0] / "bin" / "python"), "-m", "pip", "download", "-q", "--no-cache-dir"]
        place = [word for link in links for word in ("--find-links", link)]
        with tempfile.TemporaryDirectory(dir=prefix) as target:
            subprocess.run([*pip, "-d", target, "--index-url", index, *place, requirement], check=True)

    def measure(what: str, function: Callable[[], None], *paths: Path) -> None:
        before, started = bytes_of(*paths), time.monotonic()
        function()
        seconds, more = time.monotonic() - started, bytes_of(*paths) - before
        print(f"{what:<24} {seconds:7.1f} s {more / 1e6:9.1f} MB  load {os.getloadavg()[0]:.1f}", flush=True)

    try:
        for name in names:
            shutil.rmtree(envs / name, ignore_errors=True)
            conda = [str(prefix / "bin" / "conda"), "create", "-y", "-q", "-p", str(envs / name)]
            conda += ["--override-channels", "-c", channel]
            subprocess.run([*conda, "python=3.11", "pip"], check=True, capture_output=True)
        mine = [cache, envs / names[1], envs / names[2]]
        warm()
        measure("pip by hand", by_hand, envs / names[0])
        measure("first environment", lambda: torch_env(names[1]), *mine)
        measure("second environment", lambda: torch_env(names[2]), *mine)
        measure("nothing to do", lambda: torch_env(names[2], changed=False), *mine)
    finally:
        for path in (cache, *(envs / name for name in names)):
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
