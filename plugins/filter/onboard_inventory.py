"""The inventory file that takes new hosts in."""

from __future__ import annotations

DOCUMENTATION = r"""
name: onboard_inventory
short_description: Add hosts to the inventory file of onboarding
version_added: 0.2.0
author: The torchfleet authors
description:
  - What is in the file stays; a host or group that is there already is not added again.
positional: rows, variables
options:
  _input:
    description: The content of the file; empty where there is none.
    type: str
    required: true
  rows:
    description: The hosts, as P(torchfleet.gpu.onboard_proposals#filter) proposes them.
    type: list
    elements: dict
    required: true
  variables:
    description: Variables for each of the new hosts.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Write it
  ansible.builtin.copy:
    content: "{{ '' | torchfleet.gpu.onboard_inventory(proposals.rows) }}"
    dest: inventory/onboarded.yml
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The new content.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import onboard
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def onboard_inventory(text: Any, rows: Any, variables: Any = None) -> str:
    try:
        return onboard.inventory(plain(text), plain(rows), plain(variables or {}))
    except ValueError as error:
        raise AnsibleFilterError(f"onboard_file: {error}; or name another file") from error


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"onboard_inventory": onboard_inventory}
