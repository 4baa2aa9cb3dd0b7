"""The plans of a fleet: a row for each host, and beneath them why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet, outcome

COLUMNS = ("host", "gpu", "driver", "environment", "torch", "cuda", "source", "problems")
NOTES = (("reasons", "Reason"), ("warnings", "Warning"))
# What is decided of the driver, as against what lost.
DRIVER = re.compile("driver_(?!offer).*|no_gpu|wsl2|container")
Json = dict[str, Any]


def _row(host: str, plan: Json | None, failure: str | None) -> Json:
    # Of a failure that is no list of problems: that there is one.
    count = re.search(r"(\d+) problems?;", failure or "")
    row = {"host": host, "problems": count[1] if count else "failed" if failure else "0"}
    if plan is None:
        return row
    driver, environments = plan["driver"], plan["environments"]
    return {
        **row,
        "gpu": fleet.counted(gpu["name"] for gpu in plan["gpus"]) or "none",
        "driver": " ".join(filter(None, (driver["action"], driver["version"], driver["flavour"]))),
        "environment": ", ".join(item["name"] for item in environments),
        "torch": ", ".join(
            f"{item['torch']} {item['variant']}" if item["torch"] else "none" for item in environments
        ),
        "cuda": ", ".join(item["cuda"] or "-" for item in environments),
        "source": ", ".join(item["sources"][0]["name"] if item["sources"] else "-" for item in environments),
    }


def _why(plan: Json | None, failure: str | None) -> tuple[str, ...]:
    notes = [
        f"{label}: {fleet.cell(row['text'])}" for key, label in NOTES for row in (plan or {}).get(key, [])
    ]
    return (*notes, *(failure or "").splitlines())


def report(plans: Iterable[tuple[str, Json | None, str | None]]) -> Json:
    """Of (host, its plan, what stopped it): the lines for people, and the document for programs."""
    found = list(plans)
    lines = fleet.table([_row(*entry) for entry in found], COLUMNS)
    # Hosts of one kind have the same reasons.
    alike: dict[tuple[str, ...], list[str]] = {}
    for host, plan, failure in found:
        alike.setdefault(_why(plan, failure), []).append(host)
    for notes, hosts in alike.items():
        if notes:
            lines += ["", f"{', '.join(hosts)}:", *(f"  {line}" for line in notes)]
    return {
        "lines": lines,
        "document": {
            "hosts": {host: plan for host, plan, _failure in found},
            "failures": {host: failure for host, _plan, failure in found if failure},
        },
    }


def line(plan: Json) -> str:
    """What was decided for a host, and why."""
    driver = plan["driver"]
    why = next((row["text"] for row in plan["reasons"] if DRIVER.fullmatch(row["code"])), driver["version"])
    said = [f"driver {driver['action']}" + (f": {why}" if why else "")]
    for item in plan["environments"]:
        build = (
            f"{item['torch']} {item['variant']} from {item['sources'][0]['name']}"
            if item["torch"]
            else "none"
        )
        lost = outcome.decisive(item, plan)
        said.append(f"{item['name']}: torch {build}" + (f", for {lost[0]}" if lost and item["torch"] else ""))
    return fleet.cell("; ".join(said))
