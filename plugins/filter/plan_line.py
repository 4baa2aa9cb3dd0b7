"""Say a plan in one line."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_line
short_description: Say a plan in one line
version_added: 0.2.0
author: The torchfleet authors
description:
  - The driver and the builds of torch that were decided on, each with the reason that mattered most.
options:
  _input:
    description: The plan.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say it
  ansible.builtin.debug:
    msg: "{{ torchfleet_plan | torchfleet.gpu.plan_line }}"
"""

RETURN = r"""
_value:
  description: The line.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import plan_report
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def plan_line(plan: Any) -> str:
    return plan_report.line(plain(plan))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"plan_line": plan_line}
