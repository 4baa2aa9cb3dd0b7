"""Second run of site.yml against the course's shell commands, on a fleet that is up and converged.

Prints tasks, seconds and CPU seconds per host on the controller and on the hosts, for both, and the ratios.
The hosts are containers on this machine; their CPU time is what the Docker engine counts for each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import docker

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Run:
    """One playbook run: tasks in its recap, wall seconds, CPU seconds of controller and hosts."""

    name: str
    tasks: int
    wall: float
    controller: float
    target: float
    changed: int


def container_cpu(names: list[str]) -> float:
    """CPU seconds that the containers have used since they started."""
    client = docker.from_env()
    stats = [client.containers.get(name).stats(stream=False) for name in names]
    return float(sum(row["cpu_stats"]["cpu_usage"]["total_usage"] for row in stats)) / 1e9


def play(name: str, fleet: str, playbook: str, hosts: list[str], extra: list[str]) -> Run:
    """Run one playbook and measure it; stops with its output when it fails."""
    inventory = ROOT / ".torchfleet" / fleet / "inventory"
    containers = [f"{fleet}-{host}" for host in hosts]
    before, cpu = container_cpu(containers), resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), playbook, *extra],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(
            f"{playbook} failed with status {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        )
    stats = json.loads(done.stdout[done.stdout.index("{") :])["stats"]
    return Run(
        name,
        sum(s["ok"] + s["skipped"] for h, s in stats.items() if h in hosts),
        wall,
        after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime,
        container_cpu(containers) - before,
        sum(s["changed"] for s in stats.values()),
    )


def main() -> None:
    """Measure both on the fleet of the given inventory and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--fleet", default="demo", help="a fleet that './torchfleet demo' brought up (default: demo)"
    )
    args = parser.parse_args()
    report = ROOT / ".torchfleet" / args.fleet / "report" / "report.json"
    if not report.exists():
        raise SystemExit(f"found no {report}; bring the fleet up with './torchfleet demo' first")
    # The course installs what site.yml has found out: the same declared state.
    torch = {
        row["host"]: result["torch"].partition("+")[0]
        for row in json.loads(report.read_text(encoding="utf-8"))["hosts"]
        for result in row["results"]
    }
    hosts = sorted(torch)
    runs = [
        play("site.yml", args.fleet, "site.yml", hosts, []),
        play(
            "course shell commands",
            args.fleet,
            "tests/bench/course.yml",
            hosts,
            ["-e", json.dumps({"bench_torch": torch})],
        ),
    ]
    print(f"second run on {len(hosts)} hosts of fleet '{args.fleet}', per host")
    print(f"{'':24}{'tasks':>8}{'seconds':>10}{'CPU controller':>16}{'CPU host':>10}{'changed':>9}")
    for run in runs:
        n = len(hosts)
        print(
            f"{run.name:24}{run.tasks / n:8.1f}{run.wall / n:10.2f}{run.controller / n:16.2f}"
            f"{run.target / n:10.2f}{run.changed:9d}"
        )
    ours, course = runs
    print(
        f"course / site.yml: tasks {course.tasks / ours.tasks:.2f}x, "
        f"seconds {course.wall / ours.wall:.2f}x, "
        f"CPU controller {course.controller / ours.controller:.2f}x, "
        f"CPU host {course.target / ours.target:.2f}x"
    )


if __name__ == "__main__":
    main()
