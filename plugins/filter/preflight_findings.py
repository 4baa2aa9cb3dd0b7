"""List all that speaks against a host, and what else there is to tell of it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_findings
short_description: List all that speaks against a host, and what else there is to tell of it
version_added: 0.1.0
author: The torchfleet authors
description:
  - Errors are the problems of the plan, misspelt variables, values of the wrong type, a pin of Miniconda's
    installer that cannot hold, names of environments that cannot be directories, contradictory wishes, and
    mirrors that do not answer; of the host that it does not answer, that the way to root is closed, a wrong
    clock, a resolver that is down, file systems that are full, read-only or noexec, and what would stop a
    change of its driver.
  - Warnings are those of the plan, and what is only inconvenient.
positional: plan, variables, installer
options:
  _input:
    description: The truth; empty where there is none.
    type: dict
    required: true
  plan:
    description: The plan; empty where there is none.
    type: dict
    required: true
  variables:
    description: The values of the roles' variables, by name.
    type: dict
    required: true
  installer:
    description: The C(file) of Miniconda's installer and the C(sha256) known of it (empty when none is).
    type: dict
    required: true
  unknown:
    description: What P(torchfleet.gpu.unknown_variables#filter) found.
    type: list
    elements: dict
    default: []
  argument_errors:
    description: What M(ansible.builtin.validate_argument_spec) found.
    type: list
    elements: str
    default: []
  probed:
    description: The result C(groups) of M(torchfleet.gpu.mirror_probe).
    type: dict
    default: {}
  lost:
    description: What M(torchfleet.gpu.gpu_facts) returned in place of a truth, with the C(host).
    type: dict
    default: {}
  bundle:
    description: What P(torchfleet.gpu.bundle_problems#filter) found.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Stop before the first change
  ansible.builtin.assert:
    that: findings | selectattr('severity', 'eq', 'error') | length == 0
  vars:
    findings: "{{ torchfleet_truth | torchfleet.gpu.preflight_findings(torchfleet_plan, variables, pin) }}"
"""

RETURN = r"""
_value:
  description:
    - Each with C(severity) (V(error) or V(warning)), C(code), C(what), C(found), C(expected) and C(fix), the
      errors first. The last two may be null in a warning.
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import findings, preflight
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def preflight_findings(
    truth: Any,
    plan: Any,
    variables: Any,
    installer: Any,
    unknown: Any = (),
    argument_errors: Any = (),
    probed: Any = None,
    lost: Any = None,
    bundle: Any = (),
) -> list[findings.Finding]:
    known, planned, told = plain(truth or {}), plain(plan or {}), plain(lost or {})
    values, pin = plain(variables), plain(installer)
    if not known:  # nor is it known which installer it needs
        pin["sha256"] = str(values["miniconda_sha256"] or "not needed")
    asked = plain(probed or {})
    wrong = preflight.problems(planned, values, pin, plain(unknown), plain(argument_errors), asked)
    found = [findings.lost(str(told.get("host")), told)] if told else []
    found += map(findings.of_problem, [*wrong, *plain(bundle)])
    # Of a host without a plan its own state is told all the same.
    found += [*findings.of_host(known, planned, values), *findings.of_mirrors(asked, known, values)]
    errors = {row["code"] for row in found if row["severity"] == findings.ERROR}
    found += [findings.of_note(row) for row in planned.get("warnings", ()) if row["code"] not in errors]
    return sorted(found, key=lambda row: row["severity"])


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"preflight_findings": preflight_findings}
