"""The plans of a fleet, for people and for programs."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_report
short_description: Lay out the plans of a fleet for people and for programs
version_added: 0.1.0
author: The torchfleet authors
description:
  - Takes the plan (C(torchfleet_plan)) of each host, and what stopped it (C(torchfleet_failure)).
positional: hostvars
options:
  _input:
    description: The names of the hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the plans
  ansible.builtin.debug:
    msg: "{{ (ansible_play_hosts_all | torchfleet.gpu.plan_report(hostvars)).lines | join('\n') }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: The report.
  type: dict
  contains:
    lines:
      description: A table with a row for each host, then the reasons, warnings and problems of each.
      type: list
      elements: str
    document:
      description:
        - C(hosts), the plan of each host (C(docs/contracts.md); null where there is none).
        - C(failures), what stopped a host.
      type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import plan_report as report
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def plan_report(names: Any, hostvars: Any) -> dict[str, Any]:
    if not isinstance(names, (list, tuple)):
        raise AnsibleFilterError(
            "torchfleet.gpu.plan_report: the input is not a list of host names; pass ansible_play_hosts_all"
        )
    return report.report(
        (str(name), *(plain(hostvars[name].get(f"torchfleet_{key}")) for key in ("plan", "failure")))
        for name in names
    )


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"plan_report": plan_report}
