"""Gather the wish from the variables of the roles."""

from __future__ import annotations

DOCUMENTATION = r"""
name: wish
short_description: Gather the wish from the variables of the roles
version_added: 0.1.0
author: The torchfleet authors
description:
  - Makes the wish of C(docs/contracts.md) of the roles' variables. A source of torch without URLs gets those
    of the mirrors of its kind. What is malformed goes on as it is; the filter P(torchfleet.gpu.plan#filter)
    tells of it.

options:
  _input:
    description: The values of the roles' variables, by name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    torchfleet_plan: "{{ torchfleet_truth | torchfleet.gpu.plan(variables | torchfleet.gpu.wish) }}"
"""

RETURN = r"""
_value:
  description: The wish.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import preflight
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def wish(variables: Any) -> dict[str, Any]:
    return preflight.wish(plain(variables))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"wish": wish}
