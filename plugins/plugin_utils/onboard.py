"""What becomes of new hosts: their names and groups, and the inventory file that takes them in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import fleet, tables

Json = dict[str, Any]
HEADER = (
    "# Hosts that playbooks/onboard.yml added. It adds to what is here and changes no entry. Comments are\n"
    "# not kept: write what you declare for a host in host_vars/ or group_vars/.\n"
)
COLUMNS = ("address", "name", "groups", "system", "gpu", "result")
NEW, THERE = "new", "in the inventory"
# What of a GPU's name is no part of its model: brands, the board, the memory.
_NO_MODEL = re.compile(
    r"(?i)\b(nvidia|geforce|tesla|quadro|grid|[dh]gx|generation|workstation|server|edition|laptop|embedded|gpu"
    r"|sxm\d*|pcie|nvl|max-q|mobile|hbm\w*|\d+ ?gb?)\b"
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_NOBODY = re.compile(r"localhost(\..*)?|\(none\)|")


def gpu_group(name: str) -> str:
    """The group of a model: gpu_h100, gpu_rtx4090."""
    words = re.findall(r"[a-z0-9]+", _NO_MODEL.sub(" ", name).lower())
    return "gpu_" + ("".join(words) or "other")


def groups(truth: Json) -> list[str]:
    """The groups of a host by its hardware; ``gpu`` or ``cpu`` first."""
    if not truth["gpus"]:
        return ["cpu"]
    models = [tables.model(gpu["device"]) for gpu in truth["gpus"]]
    return ["gpu", *sorted({gpu_group(model.name) for model in models if model})]


def propose(
    rows: Sequence[Json], existing: Sequence[Json], taken: Iterable[str], names: Mapping[str, str]
) -> list[Json]:
    """A copy of the rows with ``result``, and, where a host is new, with ``name`` and ``groups``.

    rows: ``address``, ``port``, ``label``, ``why`` (what kept it from being looked at) or ``seen`` of each.
    existing: ``name``, ``machine_id`` of the inventory's hosts. taken: the names of its groups.
    names: those that the administrator gives, by label.
    """
    done = [{**row, "name": None, "groups": [], "result": row["why"] or NEW} for row in rows]
    for row in done:
        if row["result"] == NEW:
            row["result"] = _judged(row["seen"], existing)
    fit = [row for row in done if row["result"] == NEW]
    _tell_machines(fit)
    fit = [row for row in fit if row["result"] == NEW]
    for row in fit:
        row["name"], row["groups"] = _named(row, names), groups(row["seen"]["truth"])
    count = Counter(row["name"] for row in fit)
    known = {item["name"] for item in existing}
    for row in fit:
        others = [item["label"] for item in fit if item["name"] == row["name"] and item is not row]
        if not _NAME.fullmatch(row["name"]):
            row["result"] = f"its name {row['name']!r} cannot be a host's"
        elif count[row["name"]] > 1:
            row["result"] = f"{', '.join(others)} calls itself {row['name']} too"
        elif row["name"] in known:
            row["result"] = f"the inventory has another address for {row['name']}"
        elif row["name"] in {*taken, "gpu", "cpu"}:
            row["result"] = f"the inventory has a group of its name {row['name']}"
        else:
            continue
        row["result"] += f"; name it: onboard_names={{'{row['label']}': 'NAME'}}"
        row["groups"] = []
    return done


def _judged(seen: Json, existing: Sequence[Json]) -> str:
    ids = {item["machine_id"]: item["name"] for item in existing}
    same = seen["machine_id"] and ids.get(seen["machine_id"])
    if same:
        return f"{THERE} as {same}, at another address (by its machine-id)"
    system = seen["truth"]["os"]
    if not tables.system(system["id"] or "", system["version"] or ""):
        return f"{system['name']} is no system that is supported: {tables.system_names()}"
    return NEW


def _tell_machines(rows: Sequence[Json]) -> None:
    """One machine at two addresses is taken once; two machines with one id not at all."""
    first: dict[str, Json] = {}
    for row in rows:
        seen = row["seen"]
        other = first.setdefault(seen["machine_id"], row) if seen["machine_id"] else row
        if other is row:
            continue
        if other["seen"]["boot_id"] == seen["boot_id"]:
            row["result"] = f"the same machine as {other['label']}"
            continue
        clones = "another machine than {}, with its machine-id; give one of its own to each clone"
        row["result"], other["result"] = clones.format(other["label"]), clones.format(row["label"])


def _named(row: Json, names: Mapping[str, str]) -> str:
    own = str(row["seen"]["name"] or "").lower()
    given = names.get(row["label"])
    return str(given or (row["address"] if _NOBODY.fullmatch(own) else own))


def lines(rows: Sequence[Json]) -> list[str]:
    """The table for people."""
    shown = []
    for row in rows:
        truth = (row.get("seen") or {}).get("truth")
        models = [tables.model(gpu["device"]) for gpu in truth["gpus"]] if truth else []
        shown.append(
            {
                "address": row["label"],
                "name": row["name"],
                "groups": ", ".join(row["groups"]),
                "system": truth and truth["os"]["name"],
                "gpu": truth and (fleet.counted(m.name if m else "unknown" for m in models) or "none"),
                "result": row["result"],
            }
        )
    return fleet.table(shown, COLUMNS)


def entry(row: Json, variables: Mapping[str, Any]) -> Json:
    """What the inventory has of a host."""
    found: Json = {} if row["name"] == row["address"] else {"ansible_host": row["address"]}
    if row["port"] != 22:
        found["ansible_port"] = row["port"]
    found |= variables
    if row["seen"]["machine_id"]:
        found["torchfleet_machine_id"] = row["seen"]["machine_id"]
    return found


def inventory(text: str, rows: Iterable[Json], variables: Mapping[str, Any]) -> str:
    """The file with the new hosts among those that are in it.

    Raises ValueError for a file that is not one of these.
    """
    own = text.removeprefix(HEADER)
    if text.strip() and own == text:
        raise ValueError("found a file that onboarding did not write, expected none or one of its own")
    comments = [number for number, line in enumerate(text.splitlines(), 1) if re.match(r"\s*#", line)][2:]
    if comments:
        raise ValueError(f"found a comment in line {comments[0]}, which would be lost; move it to host_vars/")
    data = yaml.safe_load(own) or {}
    whole = data.setdefault("all", {})
    hosts = whole.setdefault("hosts", {})
    children = whole.setdefault("children", {})
    for row in rows:
        hosts.setdefault(row["name"], entry(row, variables))
        top, *models = row["groups"]
        group = children.setdefault(top, {})
        for place in [group.setdefault("children", {}).setdefault(name, {}) for name in models] or [group]:
            place.setdefault("hosts", {}).setdefault(row["name"], {})
    return HEADER + yaml.safe_dump(data, sort_keys=True, default_flow_style=False, allow_unicode=True)
