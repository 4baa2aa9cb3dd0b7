"""The report of a fleet as data."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_document
short_description: Gather what each host of a run has to tell into the report's document
version_added: 0.1.0
author: The torchfleet authors
description:
  - Takes the facts C(torchfleet_truth), C(torchfleet_plan), C(torchfleet_results), C(torchfleet_failure),
    C(torchfleet_held), C(torchfleet_quarantine) and C(nvidia_driver_reboot_reason) of each host. A host that
    lacks them has an entry as well, which says so.
positional: hostvars, run, previous
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
  run:
    description: The run that tells, with the keys C(time) (UTC, ISO 8601), C(by), C(limit) and C(check_mode).
    type: dict
    required: true
  previous:
    description: The document of the report before; its run joins the list of runs.
    type: dict
"""

EXAMPLES = r"""
- name: Show the fleet
  ansible.builtin.debug:
    msg: "{{ report.hosts | map(attribute='rows') | flatten(1) | torchfleet.gpu.fleet_table }}"
  vars:
    run: {time: "{{ now(utc=true).isoformat() }}", by: alice, limit: "", check_mode: false}
    report: "{{ groups.all | torchfleet.gpu.fleet_document(hostvars, run) }}"
"""

RETURN = r"""
_value:
  description: The document, as C(docs/report.md) describes it.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import outcome, report
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain

RUNS = 30  # of which the page tells


def _record(name: str, variables: Any) -> dict[str, Any]:
    return report.record(
        name,
        *(plain(variables.get(f"torchfleet_{fact}")) for fact in outcome.FACTS),
        groups=[str(group) for group in variables.get("group_names") or ()],
        reboot=str(variables.get("nvidia_driver_reboot_reason") or ""),
    )


def fleet_document(names: Any, hostvars: Any, run: Any, previous: Any = None) -> dict[str, Any]:
    if not isinstance(names, (list, tuple)):
        raise AnsibleFilterError(
            "torchfleet.gpu.fleet_document: the input is not a list of host names; pass groups.all"
        )
    before = plain(previous) or {}
    runs = [before["run"], *before["runs"]][:RUNS] if before.get("schema") == report.SCHEMA else []
    return report.document([_record(str(name), hostvars[name]) for name in names], plain(run), runs)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fleet_document": fleet_document}
