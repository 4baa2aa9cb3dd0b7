"""What one host of a run has to tell: the rows of the table, and why each is as it is."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import mapping, sequence

FACTS = ("truth", "plan", "results", "failure", "held", "untouched")
Json = dict[str, Any]
LONG = 200  # characters of a failure; all of it is in the task that failed


def entry(
    host: str,
    truth: Json | None,
    plan: Json | None,
    results: list[Json] | None,
    failure: str | None,
    held: str | None = None,
    untouched: str | None = None,
) -> Json:
    """Every argument but the name may be missing: a host may have failed at any point.

    ``held``: why the run left the host as it was; ``untouched``: when it was verified, where the run passed
    it over.
    """
    common = {"host": host, "gpu": _gpus(truth, plan), "driver": _driver(truth)}
    done = {row["environment"]: row for row in results or []}
    planned = {row["name"]: row for row in (plan or {}).get("environments", [])}
    aside = mapping(mapping(truth).get("quarantine")).get("reason")

    def why(wish: Json | None, result: Json | None) -> str:
        if aside and not (held or failure):
            return f"quarantined: {_short(aside)}"
        told = held or _why(wish, result, plan, truth, failure)
        return f"{told}; verified at {untouched}, untouched since" if untouched else told

    rows: list[Json] = []
    for name in dict.fromkeys([*planned, *done]):
        result = done.get(name)
        rows.append({**common, "environment": name, "why": why(planned.get(name), result)})
        if result:
            rows[-1].update(torch=result["torch"], cuda=result["cuda"], is_available=result["cuda_available"])
    if not rows:
        rows = [{**common, "why": why(None, None)}]
    return {"host": host, "failure": failure, "results": results or [], "rows": rows}


def _gpus(truth: Json | None, plan: Json | None) -> str | None:
    if truth is None:
        return None
    names = {gpu["device"]: gpu["name"] for gpu in (plan or {}).get("gpus", [])}
    devices = [str(mapping(gpu).get("device")) for gpu in sequence(truth.get("gpus"))]
    return fleet.counted(names.get(device, f"10de:{device}") for device in devices) or "none"


def _driver(truth: Json | None) -> str | None:
    """The truth may be written by hand and have faults, which the preflight tells."""
    if truth is None:
        return None
    driver = mapping(truth.get("driver"))
    there = mapping(driver.get("on_disk")) or mapping(driver.get("loaded"))
    verdict = driver.get("verdict")
    if not there:
        return "absent" if truth.get("gpus") and verdict != "not wanted" else None
    version = there.get("version") or "of unknown version"
    return f"{version}" if verdict in (None, "ok", "not wanted") else f"{version} ({verdict})"


def _why(
    planned: Json | None, result: Json | None, plan: Json | None, truth: Json | None, failure: str | None
) -> str:
    if result and result["verdict"] == "failed":
        return "failed: " + _short("; ".join(f"{p['what']} ({p['found']})" for p in result["problems"]))
    if failure:
        return "failed: " + _short(failure)
    if truth is None:
        return "no answer in this run"
    if result:
        verdict = result["verdict"]
        if verdict == "cpu" and plan and not plan["gpus"]:
            verdict = "cpu: no NVIDIA GPU"
        return "; ".join([verdict, *decisive(planned, plan)])
    if planned and planned["torch"]:
        return f"not verified; planned: torch {planned['torch']} {planned['variant']}"
    return "no environment is wished"


def _short(failure: str) -> str:
    """A list of problems by what each is about; any other failure by its first line."""
    found = re.findall(r"^\d+\. (.*)\n\s+found:\s+(.*)$", failure, re.MULTILINE)
    text = "; ".join(f"{what}: {value}" for what, value in found) or failure.strip().partition("\n")[0]
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


def decisive(planned: Json | None, plan: Json | None) -> list[str]:
    """Why it is this torch and not a newer one: what the newest lost by, or else what won."""
    reasons = [row["text"] for row in (plan or {}).get("reasons", [])]
    # With several environments each reason for a build begins with the name of its own.
    start = f"{planned['name'] if planned else None}: torch "
    own = [text for text in reasons if text.startswith(start)]
    own = own or [text for text in reasons if re.match(r"(\S+: )?torch ", text)]
    return [re.sub(r" \(likewise [^)]*\)", "", own[0])] if own else []
