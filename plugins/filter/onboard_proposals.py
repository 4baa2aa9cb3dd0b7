"""What becomes of each address that is to be onboarded."""

from __future__ import annotations

DOCUMENTATION = r"""
name: onboard_proposals
short_description: Propose names and groups for new hosts
version_added: 0.2.0
author: The torchfleet authors
description:
  - A host is named as it calls itself, and grouped by its hardware. One that cannot be taken in is told with
    the reason.
positional: asked, hostvars, existing, groups, names
options:
  _input:
    description: The addresses, as P(torchfleet.gpu.onboard_addresses#filter) returns them.
    type: list
    elements: dict
    required: true
  asked:
    description: Their host keys, as M(torchfleet.gpu.ssh_host_keys) returns them.
    type: list
    elements: dict
    required: true
  hostvars:
    description: >-
      The variables of all hosts. C(__onboard_seen) of an address is what was seen there: C(truth), C(name),
      C(machine_id) and C(boot_id), or C(why) there is nothing.
    type: dict
    required: true
  existing:
    description: The hosts of the inventory (P(torchfleet.gpu.onboard_existing#filter)).
    type: list
    elements: dict
    required: true
  groups:
    description: The names of the inventory's groups.
    type: list
    elements: str
    required: true
  names:
    description: Names that the administrator gives, by address.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Propose
  ansible.builtin.set_fact:
    proposals: "{{ rows | torchfleet.gpu.onboard_proposals(asked, hostvars, existing, groups) }}"
  vars:
    existing: "{{ groups.all | torchfleet.gpu.onboard_existing(hostvars) }}"
"""

RETURN = r"""
_value:
  description: The proposals.
  type: dict
  contains:
    rows:
      description: The addresses with C(name), C(groups) and C(result), V(new) where the host can be added.
      type: list
      elements: dict
    lines:
      description: A table for people.
      type: list
      elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import onboard
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain

UNKNOWN = "its host key is not known, and was not accepted"
UNWRITTEN = "its host key is new, and check mode writes none"


def _seen(row: dict[str, Any], keys: dict[str, Any], hostvars: Any) -> dict[str, Any]:
    """The row with what was seen of the host, or why there is nothing."""
    if row["name"]:
        return {**row, "why": f"{onboard.THERE} as {row['name']}"}
    seen = plain(hostvars[row["alias"]].get("__onboard_seen")) if row["alias"] in hostvars else None
    if seen:
        return {**row, "why": seen["why"], "seen": seen}
    return {**row, "why": keys["why"] or (UNKNOWN if keys["state"] == "new" else UNWRITTEN)}


def onboard_proposals(
    rows: Any, asked: Any, hostvars: Any, existing: Any, groups: Any, names: Any = None
) -> dict[str, Any]:
    given = plain(names or {})
    strange = set(given) - {row["label"] for row in rows}
    if strange:
        raise AnsibleFilterError(
            f"onboard_names: found {', '.join(sorted(strange))}, expected addresses of this run "
            "(with a port other than 22 as [gpu05]:2222)"
        )
    keys = {item["name"]: item for item in plain(asked)}
    looked = [_seen(row, keys.get(row["label"], {}), hostvars) for row in plain(rows)]
    found = onboard.propose(looked, plain(existing), plain(list(groups)), given)
    return {"rows": found, "lines": onboard.lines(found)}


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"onboard_proposals": onboard_proposals}
