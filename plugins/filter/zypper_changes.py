"""Tell what zypper would do."""

from __future__ import annotations

DOCUMENTATION = r"""
name: zypper_changes
short_description: Tell what zypper would do
version_added: 0.2.0
author: The torchfleet authors
description:
  - Reads the plan that C(zypper --xmlout) prints.
options:
  _input:
    description: Its output.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ tried.stdout | torchfleet.gpu.zypper_changes }}"
"""

RETURN = r"""
_value:
  description: Rows of C(name), C(from) (null for a new package) and C(to) (null for one that goes).
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import rpm_changes


def zypper_changes(text: str) -> list[dict[str, Any]]:
    return rpm_changes.zypper_changes(str(text))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"zypper_changes": zypper_changes}
