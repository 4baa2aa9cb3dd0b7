#!/usr/bin/env python3
"""A converged environment: what conda_env needs to see that nothing is to do, against `conda list --json`.

    bench_conda_env.py CONDA_PREFIX ENVIRONMENT [REPETITIONS]

CONDA_PREFIX holds bin/conda, ENVIRONMENT is the path of an environment of it. The wish names every package of
the environment with its version. Three ways are timed, one after the other in each repetition: the decision
alone, the whole module as a process of its own, and conda. CPU seconds count the children.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.torchfleet.gpu.plugins.module_utils import (  # noqa: E402
    conda_prefix,
    conda_spec,
    pip_spec,
)

MODULE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.argv[2].encode(), "legacy"
from ansible_collections.torchfleet.gpu.plugins.modules import conda_env
conda_env.main()
"""


def cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(action: Callable[[], None]) -> tuple[float, float]:
    wall, used = time.perf_counter(), cpu()
    action()
    return time.perf_counter() - wall, cpu() - used


def main() -> None:
    conda, environment = Path(sys.argv[1]), sys.argv[2]
    repetitions = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    prefix = conda_prefix.Prefix(environment)
    packages = [f"{record.name}=={record.version}" for record in prefix.conda.values()]
    pip = [f"{dist.name}=={dist.version}" for dist in prefix.dists.values()]
    if not packages:
        sys.exit(f"{environment} is no environment with packages")

    def decision() -> None:
        seen = conda_prefix.Prefix(environment)
        for text in packages:
            spec = conda_spec.parse(text)
            assert spec.matches(seen.conda[spec.name])
        for text in pip:
            requirement = pip_spec.parse(text)
            assert requirement.satisfied(seen.dists[requirement.name].version, None)

    options = {"prefix": environment, "conda_prefix": str(conda), "packages": packages, "pip": pip}
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": options})

    def module() -> None:
        command = [sys.executable, "-c", MODULE, str(ROOT / "collections"), arguments]
        result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert result["changed"] is False, result

    def conda_list() -> None:
        command = [str(conda / "bin" / "conda"), "list", "-p", environment, "--json"]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)

    ways = {"decision alone": decision, "conda_env as a process": module, "conda list --json": conda_list}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for action in ways.values():
        action()  # a warm page cache for all
    for _ in range(repetitions):
        for name, action in ways.items():
            times[name].append(timed(action))
    print(
        f"{len(packages)} conda packages, {len(pip)} Python distributions; median of {repetitions}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in times.items()
    }
    for name, (wall, used) in medians.items():
        wall_ratio, cpu_ratio = (
            reference / own for own, reference in zip((wall, used), medians["conda list --json"], strict=True)
        )
        print(
            f"{name:24s} wall {wall * 1000:8.1f} ms  CPU {used * 1000:8.1f} ms"
            f"   conda list / this: wall {wall_ratio:6.1f}  CPU {cpu_ratio:6.1f}"
        )


if __name__ == "__main__":
    main()
