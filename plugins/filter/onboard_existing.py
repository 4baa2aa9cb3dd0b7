"""The hosts that the inventory has, as onboarding compares new ones with them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: onboard_existing
short_description: Tell the addresses and machine-ids of the inventory's hosts
version_added: 0.2.0
author: The torchfleet authors
description:
  - The machine-id is known of hosts that C(playbooks/onboard.yml) added.
positional: hostvars
options:
  _input:
    description: Names of hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is there
  ansible.builtin.debug:
    msg: "{{ groups.all | torchfleet.gpu.onboard_existing(hostvars) }}"
"""

RETURN = r"""
_value:
  description: The hosts, each by its address, and by its name where that is another.
  type: list
  elements: dict
  contains:
    name: {description: The host., type: str}
    address: {description: Where it is., type: str}
    port: {description: The port of its ssh server., type: int}
    machine_id: {description: Its machine-id; empty where it is not known., type: str}
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def onboard_existing(names: Any, hostvars: Any) -> list[dict[str, Any]]:
    found = []
    for name in plain(list(names)):
        variables = hostvars[name]
        port = int(variables.get("ansible_port") or 22)
        machine = plain(variables.get("torchfleet_machine_id")) or ""
        for address in {name, plain(variables.get("ansible_host") or name)}:
            found.append({"name": name, "address": address, "port": port, "machine_id": machine})
    return found


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"onboard_existing": onboard_existing}
