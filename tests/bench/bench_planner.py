"""How many plans a second of CPU gives: ``python tests/bench/bench_planner.py``.

What hosts have in common is decided once. So this measures the fleet of a lab (500 hosts of 40 kinds, each
with its own slots, versions and processes), one in which hardly two hosts are of a kind, and one in which
every host has a wish of its own too. CPU time counts, for other work on the machine would slow the rest.
"""

from __future__ import annotations

import copy
import datetime
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "unit")]

import conftest  # type: ignore[import-not-found,unused-ignore]  # noqa: E402, F401
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import (  # noqa: E402
    choice,
    planner,
    problems,
    tables,
    wish,
)
from plan_hosts import ALL, GPUS, truth  # type: ignore[import-not-found,unused-ignore]  # noqa: E402
from plan_hosts import wish as wished  # type: ignore[import-not-found,unused-ignore]  # noqa: E402

Pair = tuple[dict[str, Any], dict[str, Any]]
TODAY = datetime.date(2026, 11, 23)
HOSTS = 500
DRIVERS = (None, "470.256.02", "535.261.03", "550.163.01", "570.133.07", "580.95.05", "595.112.07")
SYSTEMS = ("debian12", "debian13", "ubuntu2204", "ubuntu2404", "rhel9", "rocky9")
# Run in a process of its own: what a command pays for its one plan, but for Python's own start.
FIRST = """
import sys, time
sys.path[:0] = {path!r}
import conftest
start = time.process_time()
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import planner
loaded = time.process_time()
from plan_hosts import truth, wish
host, wanted = truth(["H100"], "535.261.03"), wish({sources!r})
begin = time.process_time()
planner.plan(host, wanted)
print(loaded - start, time.process_time() - begin)
"""


def fleet(chance: random.Random, kinds: int) -> list[Pair]:
    """Hosts of so many kinds: 26 GPUs, 1 to 8 of them, 7 drivers, 6 systems; 12 wishes of groups."""
    groups = [
        wished(sources, {"upgrade": upgrade}, torch=torch, torchvision=True)
        for sources in (("pypi",), ("pypi", "wheels"), ALL)
        for torch in ("auto", ">=2.5,<2.11")
        for upgrade in (False, True)
    ]
    models = [
        (
            [chance.choice(list(GPUS))] * chance.choice((1, 2, 4, 8)),
            chance.choice(DRIVERS),
            chance.choice(SYSTEMS),
            chance.choice(groups),
        )
        for _ in range(kinds)
    ]
    rows = []
    for number in range(HOSTS):
        gpus, driver, system, wanted = models[number % kinds]
        host = truth(gpus, driver, os=system)
        for gpu in host["gpus"]:
            gpu["slot"] = f"0000:{chance.randrange(256):02x}:{chance.randrange(32):02x}.0"
        host["processes"] = [{"pid": number, "name": "python3", "user": "u", "container": None}]
        host["disks"] = [{"path": "/opt", "free_bytes": chance.randrange(10**12), "total_bytes": 10**12}]
        host["python"] = f"3.11.{chance.randrange(12)}"
        rows.append((host, copy.deepcopy(wanted)))
    chance.shuffle(rows)
    return rows


def other_wishes(rows: list[Pair]) -> list[Pair]:
    """Every host with a wish that no other has: names, ranges, Pythons and URLs differ."""
    found = copy.deepcopy(rows)
    for number, (_host, wanted) in enumerate(found):
        wanted["environments"][0].update(
            name=f"torch{number}",
            python=f"3.{9 + number % 6}.{number}",
            torch=f">=1.{number % 13},<{3 + number}",
        )
        for source in wanted["sources"]:
            source["urls"] = [f"{url}/{number}" for url in source["urls"]]
    return found


def forget() -> None:
    """Nothing but the parsed tables stays."""
    for module in (planner, choice, wish, problems):
        for item in vars(module).values():
            if hasattr(item, "cache_clear") and getattr(item, "__module__", "") == module.__name__:
                item.cache_clear()


def plans(rows: list[Pair], forgetful: bool = False) -> float:
    """CPU seconds for one plan."""
    start = time.process_time()
    for number, (host, wanted) in enumerate(rows):
        if forgetful:
            forget()
        planner.plan(host, wanted, f"gpu{number}", TODAY)
    return (time.process_time() - start) / len(rows)


def first(sources: tuple[str, ...]) -> tuple[float, float]:
    """CPU seconds of the imports, and of the first plan, in a process of its own."""
    path = [str(ROOT / "tests"), str(ROOT / "tests" / "unit")]
    command = [sys.executable, "-c", FIRST.format(path=path, sources=sources)]
    rows = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)
    ]
    return min(float(row[0]) for row in rows), min(float(row[1]) for row in rows)


def main() -> None:
    lab = fleet(random.Random(20261123), 40)
    zoo = fleet(random.Random(20261123), HOSTS)
    tables.releases(), tables.systems()
    alone = plans(zoo, forgetful=True)
    print(
        f"{HOSTS} hosts, one plan each, CPU time of one core; nothing but the parsed tables is known before"
    )
    print(f"  {'each host by itself, nothing kept from one to the next':60} {1 / alone:8,.0f} plans/s")
    for text, rows in (
        ("a lab: 40 kinds of hosts", lab),
        ("a zoo: every host of another kind", zoo),
        ("every host of another kind and with another wish", other_wishes(zoo)),
    ):
        forget()
        cost = plans(rows)
        print(f"  {text:60} {1 / cost:8,.0f} plans/s, {alone / cost:.1f} times as fast")
        if rows is lab:
            cost = min(plans(rows) for _ in range(5))
            print(f"  {'the same again, all decided before':60} {1 / cost:8,.0f} plans/s, {alone / cost:.1f}")
    for label, names in (("PyPI", ("pypi",)), ("all sources", ALL)):
        load, plan = first(names)
        print(f"  the first plan of a process ({label}): {plan * 1e3:.0f} ms, imports {load * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
