#!/usr/bin/env python3
"""What conda_env costs beside conda itself, for environments made of one local channel.

    bench_conda_env.py CONDA_PREFIX CHANNEL [REPETITIONS] [PACKAGE...]

CONDA_PREFIX holds bin/conda, CHANNEL is an address that conda takes. Compared, each way in its turn:

  converged   the module on an environment with nothing to do: `conda env update` and `conda list` on the same
  lock        an environment from a lock: from a solve
  links       bytes that the first environment adds, and the tenth with the same packages
  hosts       ten environments from one lock, the solve of the lock included: ten that are solved each. They
              stand for ten hosts and share the package cache: the solve is compared, not the download.

CPU seconds count the children. The environments are CONDA_PREFIX/envs/bench-*, and are removed.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HOSTS = 10
MODULE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.argv[2].encode(), "legacy"
from ansible_collections.torchfleet.gpu.plugins.modules import conda_env
conda_env.main()
"""
Times = tuple[float, float]


class Bench:
    def __init__(self, conda: Path, channel: str, packages: list[str], repetitions: int) -> None:
        self.conda, self.channel, self.repetitions = conda, channel, repetitions
        self.wish: dict[str, Any] = {"python": "3.11", "packages": packages, "channels": [channel]}

    def module(self, name: str, changed: bool = True, **options: Any) -> dict[str, Any]:
        arguments = {"name": name, "conda_prefix": str(self.conda), **options}
        command = [sys.executable, "-c", MODULE, str(ROOT / "collections")]
        command.append(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        result: dict[str, Any] = json.loads(done.stdout)
        assert not result.get("failed"), result["msg"]
        assert result["changed"] is changed, result
        return result

    def run(self, *arguments: str) -> None:
        command = [str(self.conda / "bin" / "conda"), *arguments]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)

    def prefix(self, name: str) -> Path:
        return self.conda / "envs" / name

    def clear(self) -> None:
        for path in sorted((self.conda / "envs").glob("bench-*")):
            self.module(path.name, state="absent")

    def compare(
        self, title: str, ways: dict[str, Callable[[], object]], before: Callable[[], object]
    ) -> None:
        times: dict[str, list[Times]] = {name: [] for name in ways}
        for _ in range(self.repetitions):
            for name, action in ways.items():
                before()
                times[name].append(timed(action))
        medians = {
            name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
            for name, rows in times.items()
        }
        print(f"{title} (median of {self.repetitions}, load {os.getloadavg()[0]:.1f})")
        ours = next(iter(medians.values()))
        for name, (wall, used) in medians.items():
            print(
                f"  {name:34s} wall {wall:8.2f} s  CPU {used:8.2f} s"
                f"   to the first: wall {wall / ours[0]:6.1f}  CPU {used / ours[1]:6.1f}"
            )

    def converged(self) -> None:
        prefix = self.prefix("bench-converged")
        self.module(prefix.name, **self.wish)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "environment.yml")
            lines = ["channels:", f"  - {self.channel}", "  - nodefaults", "dependencies:", "  - python=3.11"]
            file.write_text("\n".join(lines + [f"  - {one}" for one in self.wish["packages"]]) + "\n")
            self.compare(
                f"Converged, {len(list(prefix.glob('conda-meta/*.json')))} packages",
                {
                    "conda_env": lambda: self.module(prefix.name, changed=False, **self.wish),
                    "conda list": lambda: self.run("list", "-p", str(prefix), "--json"),
                    "conda env update": lambda: self.run(
                        "env", "update", "-q", "-p", str(prefix), "-f", str(file)
                    ),
                },
                lambda: None,
            )

    def locked(self) -> None:
        text = self.module("bench-lock", state="locked", **self.wish)["lock"]
        self.compare(
            "Creation, package cache warm",
            {
                "from the lock": lambda: self.module("bench-new", lock=text),
                "from a solve": lambda: self.module("bench-new", **self.wish),
            },
            lambda: self.module("bench-new", state="absent", changed=self.prefix("bench-new").exists()),
        )
        self.clear()

    def hosts(self) -> None:
        with_lock, used = timed(self.ten_from_one_lock)
        used_bytes = [self.bytes_of_envs(count) for count in (1, HOSTS - 1, HOSTS)]
        mib = [one / 2**20 for one in used_bytes]
        print(
            f"Links: one environment {mib[0]:.1f} MiB on its own, "
            f"the tenth adds {mib[2] - mib[1]:.1f} MiB (du, beside the package cache)"
        )
        self.clear()
        solved, solved_used = timed(self.ten_solved)
        self.clear()
        print(f"{HOSTS} hosts (load {os.getloadavg()[0]:.1f})")
        print(f"  one solve and its lock for all     wall {with_lock:8.2f} s  CPU {used:8.2f} s")
        print(
            f"  each solves                        wall {solved:8.2f} s  CPU {solved_used:8.2f} s"
            f"   to the first: wall {solved / with_lock:6.1f}  CPU {solved_used / used:6.1f}"
        )

    def ten_from_one_lock(self) -> None:
        text = self.module("bench-lock", state="locked", **self.wish)["lock"]
        for number in range(HOSTS):
            self.module(f"bench-{number}", lock=text)

    def ten_solved(self) -> None:
        for number in range(HOSTS):
            self.module(f"bench-{number}", **self.wish)

    def bytes_of_envs(self, count: int) -> int:
        """What the first C(count) environments take, where a file that is linked counts once, as du does.

        What the package cache has is counted before them: they only add what is not a link into it.
        """
        paths = [str(self.conda / "pkgs"), *(str(self.prefix(f"bench-{number}")) for number in range(count))]
        command = ["du", "-s", "--block-size=1", "-c", *(paths if count > 1 else paths[1:])]
        total = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        return int(total.split()[0])


def cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(action: Callable[[], object]) -> Times:
    wall, used = time.perf_counter(), cpu()
    action()
    return time.perf_counter() - wall, cpu() - used


def main() -> None:
    packages = sys.argv[4:] or [
        "pip",
        "numpy",
        "flask",
        "six",
        "requests",
        "pyyaml",
        "tqdm",
        "python-dateutil",
    ]
    repetitions = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    bench = Bench(Path(sys.argv[1]), sys.argv[2], packages, repetitions)
    print(f"{len(packages)} named packages, {os.cpu_count()} cores")
    bench.clear()
    try:
        bench.converged()
        bench.locked()
        bench.hosts()
    finally:
        bench.clear()


if __name__ == "__main__":
    main()
