"""The report of a fleet as data."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_document
short_description: Gather what each host of a run has to tell into the report's document
version_added: 0.1.0
author: The torchfleet authors
description:
  - Takes the facts C(torchfleet_truth), C(torchfleet_plan), C(torchfleet_results), C(torchfleet_failure),
    C(torchfleet_held), C(torchfleet_drift), C(torchfleet_conda_drift),
    C(torchfleet_findings), C(torchfleet_untouched) and C(nvidia_driver_reboot_reason) of each host. A host
    that lacks them has an entry as well, which says so.
  - Adds to the run the names of its playbooks and its tags.
positional: hostvars, run, previous, lost
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
    description: The document of the report before; its run joins the list, its warnings keep their dates.
    type: dict
  lost:
    description: The hosts that fell out of the run before this play.
    type: list
    elements: str
    default: []
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
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import outcome, report
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain

RUNS = 30  # of which the page tells


def _record(name: str, variables: Any, lost: bool) -> dict[str, Any]:
    facts = {fact: plain(variables.get(f"torchfleet_{fact}")) for fact in outcome.FACTS}
    if lost and not facts["failure"]:
        facts["failure"] = "it fell out of the run: it failed or stopped answering; see its last task"
    return report.record(
        name,
        *facts.values(),
        drift=plain(variables.get("torchfleet_drift")),
        conda_drift=plain(variables.get("torchfleet_conda_drift")) or [],
        findings=plain(variables.get("torchfleet_findings")) or [],
        groups=[str(group) for group in variables.get("group_names") or ()],
        reboot=str(variables.get("nvidia_driver_reboot_reason") or ""),
    )


def _what() -> dict[str, list[str]]:
    """What was run; outside of ansible-playbook that is not told."""
    tags = [tag for tag in context.CLIARGS.get("tags") or () if tag != "all"]
    return {"playbooks": [Path(name).name for name in context.CLIARGS.get("args") or ()], "tags": tags}


def fleet_document(
    names: Any, hostvars: Any, run: Any, previous: Any = None, lost: Any = ()
) -> dict[str, Any]:
    if not isinstance(names, (list, tuple)):
        raise AnsibleFilterError(
            "torchfleet.gpu.fleet_document: the input is not a list of host names; pass groups.all"
        )
    before = plain(previous) or {}
    runs = [before["run"], *before["runs"]][:RUNS] if before.get("schema") == report.SCHEMA else []
    gone = set(plain(lost))
    records = [_record(str(name), hostvars[name], str(name) in gone) for name in names]
    return report.document(records, {**plain(run), **_what()}, runs, before.get("since"))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fleet_document": fleet_document}
