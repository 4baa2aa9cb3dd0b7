"""Finds misspelt role variables: names with a role's prefix that the role does not declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import closest

ROLES = Path(__file__).resolve().parent.parent.parent / "roles"


@cache
def role_specs() -> dict[str, Any]:
    """The argument_specs of every role of this collection, by role."""
    return {
        path.parent.parent.name: (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(
            "argument_specs", {}
        )
        for path in sorted(ROLES.glob("*/meta/argument_specs.yml"))
    }


def unknown(names: Iterable[str], specs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each unknown name with its role and the declared name that comes closest (None when none does)."""
    declared = {
        role: {option for entry in entries.values() for option in (entry.get("options") or {})}
        for role, entries in specs.items()
    }
    every = {option for options in declared.values() for option in options}
    found = []
    for name in sorted(set(names) - every):
        owners = [role for role in declared if name.startswith(f"{role}_")]
        if owners:
            role = max(owners, key=len)
            # Without the prefix, which would make any two names alike.
            ends = {option[len(role) + 1 :]: option for option in sorted(declared[role])}
            guess = closest(name[len(role) + 1 :], ends, cutoff=0.5)
            found.append({"name": name, "role": role, "closest": ends[guess] if guess else None})
    return found
