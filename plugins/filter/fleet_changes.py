"""What changed between two reports of a fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_changes
short_description: Tell what changed between two reports of a fleet
version_added: 0.1.0
author: The torchfleet authors
positional: before
options:
  _input:
    description: The later document, as P(torchfleet.gpu.fleet_document#filter) returns it.
    type: dict
    required: true
  before:
    description: The earlier one.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what changed
  ansible.builtin.debug:
    msg: "{{ report | torchfleet.gpu.fleet_changes(earlier) }}"
"""

RETURN = r"""
_value:
  description: A line for each change.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import report
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def fleet_changes(document: Any, before: Any) -> list[str]:
    return report.lines(report.compare(plain(before), plain(document))) or ["nothing changed"]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fleet_changes": fleet_changes}
