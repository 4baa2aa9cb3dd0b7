"""Finds misspelt role variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: unknown_variables
short_description: Find variables that look like a role's but are declared by none
version_added: 0.1.0
author: The torchfleet authors
description:
  - Ansible passes over a misspelt role variable in silence. Given the names of all variables, this returns
    those that begin with the name of a role and an underscore but are in no role's
    C(meta/argument_specs.yml).
positional: role_specs
options:
  _input:
    description: Names of variables, for instance from the lookup P(ansible.builtin.varnames#lookup).
    type: list
    elements: str
    required: true
  role_specs:
    description: The C(argument_specs) of each role, by role. Defaults to those of this collection's roles.
    type: dict
"""

EXAMPLES = r"""
- name: Refuse misspelt variables
  ansible.builtin.assert:
    that: misspelt | length == 0
    fail_msg: "{{ misspelt }}"
  vars:
    misspelt: "{{ query('ansible.builtin.varnames', '.+') | torchfleet.gpu.unknown_variables }}"
"""

RETURN = r"""
_value:
  description: The names that no role declares.
  type: list
  elements: dict
  contains:
    name:
      description: The variable.
      type: str
    role:
      description: The role whose prefix it has.
      type: str
    closest:
      description: The declared variable that was probably meant; null when none comes near.
      type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.torchfleet.gpu.plugins.plugin_utils import variables
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def unknown_variables(names: Any, role_specs: Any = None) -> list[dict[str, Any]]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise AnsibleFilterError(
            "torchfleet.gpu.unknown_variables: the input is not a list of names; "
            "pass query('ansible.builtin.varnames', '.+')"
        )
    if role_specs is not None and not isinstance(role_specs, dict):
        raise AnsibleFilterError(
            "torchfleet.gpu.unknown_variables: role_specs is not a mapping of role to argument_specs; "
            "leave it out to take those of the collection"
        )
    specs = variables.role_specs() if role_specs is None else plain(role_specs)
    return variables.unknown(plain(names), specs)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"unknown_variables": unknown_variables}
