"""A fleet of made-up hosts with the facts of a run: plans by the real planner, results written."""

from __future__ import annotations

import datetime
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import planner

TODAY = datetime.date(2026, 11, 23)
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


def truth(device: str | None, count: int, driver: str | None) -> Json:
    module = {"version": driver, "flavour": "open" if device == "2b85" else "proprietary"} if driver else None
    return {
        "schema": 1,
        "os": {"id": "debian", "version": "12", "codename": "bookworm", "like": [], "name": "Debian 12"},
        "machine": "x86_64",
        "kernel": {"running": "6.1.0-41-amd64", "next": None, "headers": []},
        "glibc": "2.36",
        "python": "3.11.2",
        "virtualization": {"type": "none", "detail": None},
        "secure_boot": False,
        "gpus": [
            {"slot": f"0000:{number:02x}:00.0", "vendor": "10de", "device": device, "class": "0302"}
            for number in range(0x18, 0x18 + count)
        ],
        "nvswitches": 0,
        "driver": {
            "package": None,
            "on_disk": module,
            "loaded": module,
            "library": None,
            "foreign": None,
            "verdict": "ok" if driver else "not wanted",
            "reason": f"driver {driver} is loaded" if driver else "no NVIDIA GPU",
        },
        "processes": [],
        "disks": [],
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
        facts = truth(device, gpus, driver)
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
