"""A change that rolls over the fleet: which hosts go together, and when no further batch begins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import outcome
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import mapping

Json = dict[str, Any]
SIZE = re.compile(r"(100|[1-9]?[0-9])%\Z|[1-9][0-9]*\Z")


def bad_sizes(sizes: Any) -> list[str]:
    """The sizes that are none; a list without any is one too."""
    if not isinstance(sizes, (list, tuple)) or not sizes:
        return [repr(sizes)]
    return [repr(size) for size in sizes if not SIZE.match(str(size)) or str(size) == "0%"]


def batches(
    hosts: Sequence[str], sizes: Sequence[Any], again: Iterable[str] = (), late: Iterable[str] = ()
) -> list[Json]:
    """The hosts in their order, those of ``late`` after the others, by sizes of which the last repeats.

    ``again``: the hosts in quarantine. They are tried with the first batch, beside its own, and tell nothing
    of whether the change is good.
    """
    tried, last = set(again), set(late)
    fresh = sorted((host for host in hosts if host not in tried), key=last.__contains__)
    found: list[Json] = []
    place = 0
    while place < len(fresh):
        text = str(sizes[min(len(found), len(sizes) - 1)])
        size = max(1, len(fresh) * int(text[:-1]) // 100) if text.endswith("%") else int(text)
        found.append({"hosts": fresh[place : place + size], "again": []})
        place += size
    retried = [host for host in hosts if host in tried]
    if retried:
        found = found or [{"hosts": [], "again": []}]
        found[0]["again"] = retried
    for number, batch in enumerate(found):
        first = number == 0 and len(found) > 1
        batch["name"] = "canary" if first else f"batch {number + 1} of {len(found)}"
    return found


def judge(rolled: Sequence[Mapping[str, Any]], number: int, facts: Mapping[str, Json], limit: int) -> Json:
    """How batch ``number`` ended, a line for each host; ``stopped``: why no further one begins, or empty.

    ``facts``: of each host those of outcome.FACTS.
    """
    batch = rolled[number]
    begun = [host for one in rolled[: number + 1] for host in one["hosts"]]
    tried = [host for host in begun if not facts[host]["held"]]
    failed = [host for host in tried if facts[host]["failure"] or aside(facts[host])]
    if tried:
        stop, why = len(failed) * 100 > limit * len(tried), f"{len(failed)} of {len(tried)} failed"
    else:  # nothing is known of the change
        stop, why = number == 0, "it was tried on none of its hosts"
    return {
        "lines": [f"{host}: {_line(host, facts[host])}" for host in [*batch["again"], *batch["hosts"]]],
        "stopped": f"stopped after {batch['name']}: {why}" if stop and number + 1 < len(rolled) else "",
    }


def aside(facts: Mapping[str, Any]) -> bool:
    """Whether the host is in quarantine, by its truth."""
    return bool(mapping(facts["truth"]).get("quarantine"))


def _line(host: str, facts: Mapping[str, Any]) -> str:
    rows = outcome.entry(host, *(facts[name] for name in outcome.FACTS))["rows"]
    told = (": ".join(filter(None, (row.get("environment"), row["why"]))) for row in rows)
    return " | ".join(dict.fromkeys(told))
