"""The report of a fleet as data: one document for the page, for programs and for the next comparison.

docs/report.md describes the document. All times are UTC in ISO 8601, all texts are as the hosts gave them:
whoever shows them escapes them.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet, outcome
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import mapping, sequence

SCHEMA = 2
# The worst first: a host is what the worst of its environments is.
STATES = ("failed", "unreachable", "unverified", "simulated", "cpu", "verified")
Json = dict[str, Any]


def record(
    host: str,
    truth: Json | None,
    plan: Json | None,
    results: list[Json] | None,
    failure: str | None,
    held: str | None = None,
    untouched: str | None = None,
    *,
    groups: Iterable[str] = (),
    reboot: str = "",
    drift: Sequence[str] | None = None,
    conda_drift: Sequence[str] = (),
    findings: Sequence[Json] = (),
) -> Json:
    """One host of the document. Whatever is missing is told as missing; nothing here raises for it.

    ``drift``: what the role pytorch found to differ from the plan and has not changed; null where it did not
    look, and the results, which may be of an earlier run, must tell. ``conda_drift``: likewise that of the
    role conda_envs. ``findings``: those of preflight.
    """
    entry = outcome.entry(host, truth, plan, results, failure, held, untouched)
    quarantine = mapping(mapping(truth).get("quarantine")).get("reason")
    environments = _environments(plan, results)
    driver = mapping((truth or {}).get("driver"))
    module = mapping(driver.get("on_disk")) or mapping(driver.get("loaded"))
    planned = mapping((plan or {}).get("driver"))
    return {
        "host": host,
        "groups": sorted(groups),
        "state": _state(truth, plan, environments, failure, findings),
        "failure": failure,
        "held": held,
        "quarantine": quarantine,
        "untouched": untouched,
        "os": mapping((truth or {}).get("os")).get("name"),
        "machine": (truth or {}).get("machine"),
        "kernel": mapping((truth or {}).get("kernel")).get("running"),
        "gpus": _gpus(truth, plan),
        "driver": {
            "version": module.get("version"),
            "flavour": module.get("flavour"),
            "verdict": driver.get("verdict"),
            "reason": driver.get("reason"),
            "planned": {key: planned.get(key) for key in ("action", "branch", "version", "flavour")}
            if planned
            else None,
        },
        "environments": environments,
        "drift": [*_drift(planned, module, environments, drift), *conda_drift],
        "pending": [
            *([f"reboot: {reboot}"] if reboot else []),
            *([f"quarantine: {quarantine}"] if quarantine else []),
            *([held] if held else []),
        ],
        "warnings": _texts(plan, "warnings") + _of_preflight(findings, failure),
        "reasons": _texts(plan, "reasons"),
        "rows": entry["rows"],
        "results": entry["results"],
    }


def _texts(plan: Json | None, key: str) -> list[str]:
    return [str(mapping(note).get("text", note)) for note in sequence((plan or {}).get(key))]


def _of_preflight(findings: Sequence[Json], failure: str | None) -> list[str]:
    """What is not of the plan, whose own warnings are of its last state.

    Errors too where they stopped nothing (preflight_stop: report); else they are the failure, or beside it.
    """
    told = ("warning",) if failure else ("error", "warning")
    return [
        f"{row['what']}: {row['found']}"
        for row in findings
        if row["severity"] in told and row["what"] != "the plan"
    ]


def _gpus(truth: Json | None, plan: Json | None) -> list[Json]:
    known = {gpu.get("device"): gpu for gpu in map(mapping, sequence((plan or {}).get("gpus")))}
    rows = []
    for gpu in map(mapping, sequence((truth or {}).get("gpus"))):
        of_plan = known.get(gpu.get("device"), {})
        rows.append(
            {
                "slot": gpu.get("slot"),
                "device": gpu.get("device"),
                "name": of_plan.get("name") or f"10de:{gpu.get('device')}",
                "capability": of_plan.get("capability"),
            }
        )
    return rows


def _environments(plan: Json | None, results: list[Json] | None) -> list[Json]:
    planned = {row.get("name"): row for row in map(mapping, sequence((plan or {}).get("environments")))}
    done = {row.get("environment"): row for row in results or []}
    rows = []
    for name in dict.fromkeys([*planned, *done]):
        wish, result = planned.get(name, {}), done.get(name, {})
        rows.append(
            {
                "name": name,
                "python": result.get("python") or wish.get("python"),
                "planned": {key: wish.get(key) for key in ("torch", "variant", "cuda")} if wish else None,
                "torch": result.get("torch"),
                "cuda": result.get("cuda"),
                "is_available": result.get("cuda_available"),
                "verdict": result.get("verdict"),
                "devices": [
                    {key: device.get(key) for key in ("index", "name", "capability", "kernel", "error")}
                    for device in map(mapping, sequence(result.get("devices")))
                ],
                "problems": sequence(result.get("problems")),
            }
        )
    return rows


def _state(
    truth: Json | None,
    plan: Json | None,
    environments: list[Json],
    failure: str | None,
    findings: Sequence[Json],
) -> str:
    silent = not findings or any(row["code"] == "unreachable" for row in findings)
    if failure:
        return "unreachable" if truth is None and silent else "failed"
    if truth is None or plan is None:
        return "unreachable"
    found = {row["verdict"] or "unverified" for row in environments} or {"unverified"}
    return next(state for state in STATES if state in found or state == STATES[-1])


def _drift(planned: Json, module: Json, environments: list[Json], found: Sequence[str] | None) -> list[str]:
    """Where host and plan differ; nothing is said of what was not looked at."""
    lines = []
    if planned.get("action") in ("install", "upgrade", "remove"):
        has, will = module.get("version") or "none", planned.get("version") or "none"
        lines.append(f"driver: {has}; planned: {will}")
    for row in environments:
        wish, has = row["planned"], row["torch"]
        if wish is None:
            lines.append(f"{row['name']}: torch {has}; no such environment is wished")
        elif found is not None:  # it looked at this one too
            continue
        elif has and wish["torch"] and has.partition("+")[0] != wish["torch"]:
            lines.append(f"{row['name']}: torch {has}; planned: {wish['torch']} {wish['variant']}")
        elif has and wish["torch"] and row["cuda"] != wish["cuda"]:
            lines.append(f"{row['name']}: torch for CUDA {row['cuda']}; planned: {wish['cuda']}")
    return [*lines, *(found or ())]


def document(records: list[Json], run: Json, runs: Iterable[Json] = (), since: Json | None = None) -> Json:
    """The whole report. ``run``: time, by, limit, check_mode...; ``runs``: those of the reports before, and
    ``since``: from when each of their warnings is, by host."""
    states = Counter(row["state"] for row in records)
    summary = {
        "hosts": len(records),
        "states": {state: states[state] for state in STATES if states[state]},
        "gpus": dict(Counter(gpu["name"] for row in records for gpu in row["gpus"]).most_common()),
        "torch": dict(
            Counter(
                env["torch"] for row in records for env in row["environments"] if env["torch"]
            ).most_common()
        ),
        "drivers": dict(
            Counter(row["driver"]["version"] for row in records if row["driver"]["version"]).most_common()
        ),
        "pending": sum(bool(row["pending"]) for row in records),
        "drift": sum(bool(row["drift"]) for row in records),
        "warnings": sum(bool(row["warnings"]) for row in records),
    }
    own = {**run, "hosts": summary["hosts"], "states": summary["states"]}
    return {
        "schema": SCHEMA,
        "run": own,
        "runs": list(runs),
        "summary": summary,
        "since": _since(records, run["time"], since or {}),
        "hosts": records,
    }


def _since(records: list[Json], now: str, before: Json) -> Json:
    """Of a host that is not in this run, or told nothing, what was known stays."""
    found = dict(before)
    for row in records:
        if row["state"] == "unreachable":
            continue
        known = mapping(before.get(row["host"]))
        texts = [*row["warnings"], *row["pending"], *row["drift"]]
        found[row["host"]] = {text: known.get(text, now) for text in texts}
    return {host: texts for host, texts in found.items() if texts}


DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def moment(told: str, today: datetime.date) -> str | None:
    """The last moment that is meant, as UTC in ISO 8601: of a day its end. Null: it is no time."""
    word = told.strip().lower()
    if word in DAYS:  # the last one that is over
        back = (today.weekday() - DAYS.index(word)) % 7 or 7
        word = (today - datetime.timedelta(days=back)).isoformat()
    elif word in ("today", "yesterday"):
        word = (today - datetime.timedelta(days=word == "yesterday")).isoformat()
    word = word.upper()
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"):
        try:
            found = datetime.datetime.strptime(word, form)  # UTC by its form
        except ValueError:
            continue
        return f"{found:%Y-%m-%d}T23:59:59Z" if form == "%Y-%m-%d" else word
    return None


# What is compared between two reports, and how it is called.
_COMPARED = {
    "state": "state",
    "os": "operating system",
    "kernel": "kernel",
    "drift": "drift",
    "pending": "pending",
}


def compare(old: Json, new: Json) -> list[Json]:
    """What changed between two documents: {host, what, before, after}, hosts in the order of the new one."""
    before = {row["host"]: row for row in sequence(old.get("hosts")) if "state" in row}
    after = {row["host"]: row for row in new["hosts"]}
    # A run on some hosts alone says nothing of the others.
    partial = any(mapping(item.get("run")).get("limit") for item in (old, new))
    changes = []
    for host in [*after, *(name for name in before if name not in after)]:
        was, now = before.get(host), after.get(host)
        if partial and not (was and now):
            continue
        if was is None or now is None:
            changes.append(_change(host, "host", *("in the fleet" if row else None for row in (was, now))))
            continue
        if "unreachable" in (was["state"], now["state"]):
            # Of a host that did not answer nothing else is known.
            pairs = [("state", was["state"], now["state"])]
        else:
            pairs = [(name, was[key], now[key]) for key, name in _COMPARED.items()]
            gpus = [fleet.counted(gpu["name"] for gpu in row["gpus"]) for row in (was, now)]
            pairs.append(("GPUs", gpus[0], gpus[1]))
            pairs += [
                (f"driver {key}", was["driver"][key], now["driver"][key])
                for key in ("version", "flavour", "verdict")
            ]
            envs = [{env["name"]: env for env in row["environments"]} for row in (was, now)]
            for name in dict.fromkeys([*envs[0], *envs[1]]):
                one, other = (env.get(name, {}) for env in envs)
                pairs += [
                    (f"{name}: {key}", one.get(key), other.get(key))
                    for key in ("torch", "is_available", "verdict")
                ]
        changes += [_change(host, what, one, other) for what, one, other in pairs if one != other]
    return changes


def _change(host: str, what: str, before: Any, after: Any) -> Json:
    def told(value: Any) -> str | None:
        return (
            "; ".join(map(str, value)) or None
            if isinstance(value, list)
            else None
            if value is None
            else str(value)
        )

    return {"host": host, "what": what, "before": told(before), "after": told(after)}


def lines(changes: Iterable[Json]) -> list[str]:
    return [
        f"{row['host']}: {row['what']}: {row['before'] or '-'} -> {row['after'] or '-'}" for row in changes
    ]


def _label(value: Any) -> str:
    return str("" if value is None else value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def metrics(report: Json, timestamp: float) -> str:
    """The report for Prometheus' textfile collector; ``timestamp`` is the run's, in seconds since 1970."""
    families: dict[str, tuple[str, list[tuple[Json, float]]]] = {
        "torchfleet_run_timestamp_seconds": ("When the report was made.", [({}, timestamp)]),
        "torchfleet_host_state": ("1 for the state that the host is in.", []),
        "torchfleet_gpus": ("GPUs on the PCI bus of the host, by name.", []),
        "torchfleet_driver_info": ("1 for the driver that the host has.", []),
        "torchfleet_environment_cuda_available": (
            "What torch.cuda.is_available() says in the environment.",
            [],
        ),
        "torchfleet_reboot_required": ("Whether the host waits for a reboot.", []),
        "torchfleet_drift": ("In how many things the host differs from its plan.", []),
        "torchfleet_warnings": ("Warnings of the host's plan.", []),
    }

    def add(metric: str, value: float, /, **labels: Any) -> None:
        families[f"torchfleet_{metric}"][1].append((labels, value))

    for row in report["hosts"]:
        host = row["host"]
        for state in STATES:
            add("host_state", float(row["state"] == state), host=host, state=state)
        for name, number in Counter(gpu["name"] for gpu in row["gpus"]).items():
            add("gpus", number, host=host, name=name)
        if row["driver"]["version"]:
            labels = {key: row["driver"][key] for key in ("version", "flavour", "verdict")}
            add("driver_info", 1, host=host, **labels)
        for env in row["environments"]:
            if env["is_available"] is not None:
                labels = {"environment": env["name"], "torch": env["torch"], "verdict": env["verdict"]}
                add("environment_cuda_available", float(env["is_available"]), host=host, **labels)
        add("reboot_required", float(any(text.startswith("reboot") for text in row["pending"])), host=host)
        add("drift", len(row["drift"]), host=host)
        add("warnings", len(row["warnings"]), host=host)
    text = []
    for name, (meaning, samples) in families.items():
        text += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        for labels, value in samples:
            inner = ",".join(f'{key}="{_label(given)}"' for key, given in labels.items())
            text.append(f"{name}{{{inner}}} {value:.15g}" if inner else f"{name} {value:.15g}")
    return "\n".join(text) + "\n"
