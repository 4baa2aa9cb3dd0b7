"""What the hosts of a run have to tell, for the table and for machines."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_report
short_description: Gather what each host of a run has to tell
version_added: 0.1.0
author: The torchfleet authors
description:
  - Takes the facts C(torchfleet_truth), C(torchfleet_plan), C(torchfleet_results) and C(torchfleet_failure)
    of each host. A host that lacks them has an entry as well, which says so.
positional: hostvars
options:
  _input:
    description: The names of the hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts, by host.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the fleet
  ansible.builtin.debug:
    msg: "{{ fleet | map(attribute='rows') | flatten(1) | torchfleet.gpu.fleet_table }}"
  vars:
    fleet: "{{ groups.all | torchfleet.gpu.fleet_report(hostvars) }}"
"""

RETURN = r"""
_value:
  description:
    - One mapping for each host, with C(host), C(failure) (null, or why the host was taken out of the run),
      C(results) and C(rows) (for the filter P(torchfleet.gpu.fleet_table#filter), one for each environment).
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import outcome
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def fleet_report(names: Any, hostvars: Any) -> list[dict[str, Any]]:
    if not isinstance(names, (list, tuple)):
        raise AnsibleFilterError(
            "torchfleet.gpu.fleet_report: the input is not a list of host names; pass groups.all"
        )
    return [
        outcome.entry(str(name), *(plain(hostvars[name].get(f"torchfleet_{fact}")) for fact in outcome.FACTS))
        for name in names
    ]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fleet_report": fleet_report}
