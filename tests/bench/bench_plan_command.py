"""torchfleet-plan against playbooks/plan.yml for the same host, from written facts.

Prints wall and CPU seconds of one call of each, the best of several, and the ratios. Needs no fleet.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FACTS = ROOT / "tests" / "unit" / "fixtures" / "preflight" / "hopper.yml"


@dataclass
class Call:
    """Seconds of one call."""

    wall: float
    cpu: float


def call(command: list[str]) -> Call:
    """Run a command that must end well, and measure it."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return Call(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def best(command: list[str], times: int) -> Call:
    """The best wall and the best CPU time: other work on the machine only ever adds to them."""
    calls = [call(command) for _ in range(times)]
    return Call(min(item.wall for item in calls), min(item.cpu for item in calls))


def main() -> None:
    """Measure both and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="calls of the command (default: 10)")
    times = parser.parse_args().times
    program = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        inventory = Path(folder)
        truth = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
        host = {"ansible_connection": "local", "preflight_truth": truth}
        (inventory / "hosts.json").write_text(
            json.dumps({"all": {"hosts": {"gpu01": host}}}), encoding="utf-8"
        )
        (inventory / "group_vars").symlink_to(ROOT / "group_vars")
        command = best([str(program / "torchfleet-plan"), "--facts", str(FACTS)], times)
        plays = max(1, times // 4)
        playbook = best([str(program / "ansible-playbook"), "-i", folder, "playbooks/plan.yml"], plays)
    print(f"a plan for one host from written facts, the best of {times} calls ({plays} of the playbook)")
    print(f"{'':22}{'wall s':>8}{'CPU s':>8}")
    for name, item in (("torchfleet-plan", command), ("playbooks/plan.yml", playbook)):
        print(f"{name:22}{item.wall:8.2f}{item.cpu:8.2f}")
    wall, cpu = playbook.wall / command.wall, playbook.cpu / command.cpu
    print(f"plan.yml / torchfleet-plan: wall {wall:.1f}x, CPU {cpu:.1f}x")


if __name__ == "__main__":
    main()
