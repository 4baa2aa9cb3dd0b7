"""A fleet of made-up hosts with the facts of a run: plans by the real planner, results written."""

from __future__ import annotations

from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import planner
from plan_hosts import TODAY, truth

Json = dict[str, Any]
# PCI id, number, driver: what labs have.
KINDS: list[tuple[str | None, int, str | None]] = [
    ("2330", 8, "535.261.03"),
    ("20b0", 4, "580.178.04"),
    ("1db6", 2, "570.211.01"),
    ("1b06", 4, "580.178.04"),
    ("2684", 2, "550.163.01"),
    (None, 0, None),
    ("2b85", 1, "595.71.05"),
    ("1eb8", 1, "535.261.03"),
]
WISH: Json = {
    "driver": {"state": "keep"},
    "environments": [{"name": "torch", "python": "3.11"}],
    "sources": [
        {"name": "tuna", "kind": "pypi", "urls": ["https://pypi.tuna.tsinghua.edu.cn/simple"]},
        {"name": "nju", "kind": "index", "urls": ["https://mirror.nju.edu.cn/pytorch/whl"]},
    ],
    "pypi_urls": ["https://pypi.tuna.tsinghua.edu.cn/simple"],
}


def result(plan: Json) -> Json:
    planned = plan["environments"][0]
    devices = [
        {"index": number, "name": gpu["name"], "capability": gpu["capability"], "kernel": True, "error": None}
        for number, gpu in enumerate(plan["gpus"])
    ]
    available = bool(planned["cuda"]) and bool(devices)
    return {
        "environment": "torch",
        "verdict": "verified" if available else "cpu",
        "torch": f"{planned['torch']}+{planned['variant']}",
        "cuda": planned["cuda"],
        "cuda_available": available,
        "device_count": len(devices) if available else 0,
        "devices": devices if available else [],
        "arch_list": [],
        "python": "3.11.14",
        "problems": [],
    }


def fleet(count: int) -> list[Json]:
    """The first is sound; every ninth failed, every thirteenth is silent, every eleventh must reboot."""
    rows: list[Json] = []
    for number in range(count):
        device, gpus, driver = KINDS[number % len(KINDS)]
        facts = truth([device] * gpus if device else [], driver)
        host = f"gpu{number + 1:03d}"
        plan = planner.plan(facts, WISH, host, TODAY)
        row: Json = {
            "host": host,
            "truth": facts,
            "plan": plan,
            "results": [result(plan)],
            "failure": None,
            "groups": ["gpu", f"rack{number // 20 + 1:02d}"],
            "reboot": "",
        }
        if number % 9 == 8:
            row.update(failure="provision: conda create: no space left on /opt (1.2 of 9.8 GiB free)")
        elif number % 13 == 12:
            row.update(truth=None, plan=None, results=None, failure=None)
        elif number % 11 == 10:
            row.update(reboot="driver 580.178.04 is on the disk; 535.261.03 is loaded")
        elif number % 7 == 6:
            row["results"][0].update(torch="2.6.0+cu124", cuda="12.4")
        rows.append(row)
    return rows
