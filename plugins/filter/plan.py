"""The planner's face in playbooks."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
short_description: Decide which driver and which build of PyTorch a host gets, and say why
version_added: 0.1.0
author: The torchfleet authors
description:
  - Maps what a host is (the truth, as M(torchfleet.gpu.gpu_facts) collects it) and what its owner wants
    (the wish) to a plan. Needs no network and no host; C(docs/contracts.md) describes the three structures.
  - Whatever is wrong with the truth or the wish is listed in the plan's C(problems), all at once; each has
    C(code), C(what), C(found), C(expected) and C(fix).
positional: wish
options:
  _input:
    description: The truth of the host.
    type: dict
    required: true
  wish:
    description:
      - The wish, with the keys C(driver), C(environments), C(sources) and C(pypi_urls). An unknown key is a
        problem.
    type: dict
    required: true
  host:
    description: The name of the host, for the plan.
    type: str
  today:
    description: The date to compare ends of life with, as C(YYYY-MM-DD); by default the controller's.
    type: str
"""

EXAMPLES = r"""
- name: Plan for the host
  ansible.builtin.set_fact:
    torchfleet_plan: "{{ torchfleet_truth | torchfleet.gpu.plan(wish, host=inventory_hostname) }}"
  vars:
    wish:
      driver: {state: auto}
      environments:
        - {name: torch, python: "3.11"}
      sources:
        - {name: tuna, kind: pypi, urls: [https://pypi.tuna.tsinghua.edu.cn/simple]}
      pypi_urls: [https://pypi.tuna.tsinghua.edu.cn/simple]
"""

RETURN = r"""
_value:
  description:
    - The plan, with the keys C(schema), C(host), C(gpus), C(driver), C(environments), C(expect), C(reasons),
      C(warnings) and C(problems).
  type: dict
"""

import datetime
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import planner

# Users of playbooks know the wish by the variables that the role preflight gathers it from.
ROLE_VARIABLES = {
    "driver": "nvidia_driver_",
    "environments": "pytorch_environments",
    "sources": "pytorch_sources",
    "pypi_urls": "mirrors_pypi_urls",
}


def plan(truth: Any, wish: Any, host: str | None = None, today: str | None = None) -> dict[str, Any]:
    for name, value, source in (
        ("truth", truth, "torchfleet_truth as torchfleet.gpu.gpu_facts returns it"),
        ("wish", wish, "the mapping of docs/contracts.md"),
    ):
        if not isinstance(value, dict):
            raise AnsibleFilterError(
                f"torchfleet.gpu.plan: the {name} is {type(value).__name__}, not a mapping; pass {source}"
            )
    try:
        day = datetime.date.fromisoformat(str(today)) if today is not None else None
    except ValueError as error:
        raise AnsibleFilterError(
            f"torchfleet.gpu.plan: today is {today!r}; write a date as YYYY-MM-DD"
        ) from error
    return planner.plan(truth, wish, host, day, ROLE_VARIABLES)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"plan": plan}
