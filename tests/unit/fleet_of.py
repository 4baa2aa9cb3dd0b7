"""A fleet of made-up hosts with the facts of a run: plans by the real planner, results written."""

from __future__ import annotations

from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import findings, planner, report
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

WORK = "python3 pid 4242, torchrun pid 4243, jupyter-lab pid 977"
FOUND = [
    findings.warning(
        "disk",
        "the file system of /opt/conda, /opt/conda/envs/torch, /var/cache/torchfleet",
        "9.4 GB free",
        "about 9.1 GB (the environment torch 5.8 GB, the wheels of torch 3.3 GB), and 2.0 GB in reserve",
        "free some, or move conda_envs_prefix",
    ),
    findings.warning("gpus_busy", "the GPUs of the host", f"in use by {WORK}", None, None),
    findings.error(
        "clock", "the clock of the host", "2.0 h behind the controller's", "at most 10 s", "set it"
    ),
]
DRIFT = ["torch: torch 2.6.0 (cu124) is installed, planned is 2.10.0 cu128", "torch: it has no pip"]
CONDA_DRIFT = [
    f"analysis: package{number} 1.{number}.0 is installed, the lock has 1.{number}.1" for number in range(12)
]


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
    """The first is sound; every ninth failed, every thirteenth is silent, every eleventh must reboot.

    Every fifth has drifted and has findings, every seventeenth was at work, every nineteenth is set aside.
    """
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
            "held": None,
            "groups": ["gpu", f"rack{number // 20 + 1:02d}"],
            "reboot": "",
            "drift": None,
            "conda_drift": [],
            "findings": [],
        }
        if number % 9 == 8:
            row.update(failure="provision: conda create: no space left on /opt (1.2 of 9.8 GiB free)")
        elif number % 13 == 12:
            row.update(truth=None, plan=None, results=None, failure=None)
        elif number % 11 == 10:
            row.update(reboot="driver 580.178.04 is on the disk; 535.261.03 is loaded")
        elif number % 7 == 6:
            row["results"][0].update(torch="2.6.0+cu124", cuda="12.4")
        if number % 5 == 4 and row["truth"]:
            row.update(findings=FOUND, drift=DRIFT, conda_drift=CONDA_DRIFT)
        if number % 17 == 16:
            row.update(held=f"skipped: at work ({WORK}; slurm runs jobs there); rolling_busy is skip")
        if number % 19 == 18 and row["truth"]:
            since = {"reason": "torch: a kernel fails on 2 of 8 devices", "since": "2026-11-20T18:00:00Z"}
            row["truth"] = {**row["truth"], "quarantine": since}
        rows.append(row)
    return rows


def recorded(row: Json) -> Json:
    """The row as the report has it."""
    facts = (row[name] for name in ("host", "truth", "plan", "results", "failure", "held"))
    more = ("groups", "reboot", "drift", "conda_drift", "findings")
    return report.record(*facts, **{name: row[name] for name in more})
