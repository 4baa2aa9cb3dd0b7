"""Name the mirrors that a plan needs."""

from __future__ import annotations

DOCUMENTATION = r"""
name: mirror_groups
short_description: Name the mirrors that a plan needs
version_added: 0.1.0
author: The torchfleet authors
description:
  - The groups of mirrors that a host needs to carry out its plan, as M(torchfleet.gpu.mirror_probe) takes
    them.

positional: truth, wish, variables
options:
  _input:
    description: The plan.
    type: dict
    required: true
  truth:
    description: What the host is.
    type: dict
    required: true
  wish:
    description: What the plan was made for.
    type: dict
    required: true
  variables:
    description: The values of the roles' variables, by name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Ask the host what answers
  torchfleet.gpu.mirror_probe:
    groups: "{{ torchfleet_plan | torchfleet.gpu.mirror_groups(torchfleet_truth, wish, variables) }}"
"""

RETURN = r"""
_value:
  description: The groups.
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import preflight
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def mirror_groups(plan: Any, truth: Any, wish: Any, variables: Any) -> list[dict[str, Any]]:
    return preflight.mirror_groups(plain(plan), plain(truth), plain(wish), plain(variables))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"mirror_groups": mirror_groups}
