"""List all that is wrong with what is wished for a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_problems
short_description: List all that is wrong with what is wished for a host
version_added: 0.1.0
author: The torchfleet authors
description:
  - The problems of the plan, misspelt variables, values of the wrong type, a pin of Miniconda's installer
    that cannot hold, names of environments that cannot be directories, and mirrors that do not answer.

positional: variables, installer
options:
  _input:
    description: The plan.
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
"""

EXAMPLES = r"""
- name: Stop before the first change
  ansible.builtin.assert:
    that: torchfleet_plan | torchfleet.gpu.preflight_problems(variables, installer) | length == 0
"""

RETURN = r"""
_value:
  description: Each with C(code), C(what), C(found), C(expected) and C(fix).
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import preflight
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import Problem, plain


def preflight_problems(
    plan: Any,
    variables: Any,
    installer: Any,
    unknown: Any = (),
    argument_errors: Any = (),
    probed: Any = None,
) -> list[Problem]:
    return preflight.problems(
        plain(plan),
        plain(variables),
        plain(installer),
        plain(unknown),
        plain(argument_errors),
        plain(probed or {}),
    )


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"preflight_problems": preflight_problems}
