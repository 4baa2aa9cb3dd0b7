"""Tell what dnf would do."""

from __future__ import annotations

DOCUMENTATION = r"""
name: dnf_changes
short_description: Tell what dnf would do
version_added: 0.2.0
author: The torchfleet authors
description:
  - Reads the table of a transaction that C(dnf --assumeno) prints; of dnf 4 and dnf 5.
options:
  _input:
    description: Its output.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ tried.stdout | torchfleet.gpu.dnf_changes }}"
"""

RETURN = r"""
_value:
  description: Rows of C(name), C(from) (null for a new package) and C(to) (null for one that goes).
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import rpm_changes


def dnf_changes(text: str) -> list[dict[str, Any]]:
    return rpm_changes.dnf_changes(str(text))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"dnf_changes": dnf_changes}
