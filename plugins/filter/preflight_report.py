"""The findings of a fleet, for people and for programs."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_report
short_description: Lay out the findings of a fleet for people and for programs
version_added: 0.1.0
author: The torchfleet authors
description:
  - Takes the findings (C(torchfleet_findings)) of each host, and of one that failed without any error among
    them what stopped it (C(torchfleet_failure)), with its variables of the wrong type
    (C(__preflight_checked)).
positional: hostvars, time
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
  time:
    description: When it was found, UTC in ISO 8601.
    type: str
    required: true
  stop:
    description: With V(run) no host goes on where more than O(percentage) of them have errors.
    type: str
    default: host
  percentage:
    description: The share of hosts that may have errors, in percent; what is no number counts as 0.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Show what was found
  ansible.builtin.debug:
    msg: "{{ (groups.all | torchfleet.gpu.preflight_report(hostvars, now(utc=true).isoformat())).lines }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: The report.
  type: dict
  contains:
    lines:
      description: A table with a row for each finding; hosts with the same one share a row.
      type: list
      elements: str
    document:
      description: As C(docs/preflight.md) describes it.
      type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import findings, preflight
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import number, plain


def _of(variables: Any) -> list[findings.Finding]:
    found: list[findings.Finding] = plain(variables.get("torchfleet_findings") or [])
    failure = plain(variables.get("torchfleet_failure"))
    if failure and not any(row["severity"] == findings.ERROR for row in found):
        # A variable of the wrong type may be why.
        checked = plain(variables.get("__preflight_checked") or {})
        wrong = preflight.type_problems(checked.get("argument_errors", ()))
        found = [
            findings.error("failed", "preflight", failure, "a preflight that ends", "see its task"),
            *map(findings.of_problem, wrong),
            *found,
        ]
    return found


def preflight_report(
    names: Any, hostvars: Any, time: str, stop: str = "host", percentage: Any = 0
) -> dict[str, Any]:
    if not isinstance(names, (list, tuple)):
        raise AnsibleFilterError(
            "torchfleet.gpu.preflight_report: the input is not a list of host names; "
            "pass ansible_play_hosts_all"
        )
    rows = [(str(name), _of(hostvars[name])) for name in names]
    return findings.report(rows, str(time), str(stop), number(percentage))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"preflight_report": preflight_report}
