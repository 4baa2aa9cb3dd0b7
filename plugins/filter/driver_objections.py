"""Tell what speaks against an installation of the driver."""

from __future__ import annotations

DOCUMENTATION = r"""
name: driver_objections
short_description: Tell what speaks against an installation of the driver
version_added: 0.2.0
author: The torchfleet authors
description:
  - Packages of another branch (transitional ones) or version, kernels, and removals of what is no driver.
options:
  _input:
    description: What the package manager would do, as C(name), C(from) and C(to).
    type: list
    required: true
  branch:
    description: The planned branch.
    type: str
    required: true
  version:
    description: The whole version that is asked for, or V(auto).
    type: str
    default: auto
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ changes | torchfleet.gpu.driver_objections('580') }}"
"""

RETURN = r"""
_value:
  description: One sentence for each objection.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def driver_objections(changes: Any, branch: str, version: str = "auto") -> list[str]:
    return driver_packages.driver_objections(plain(changes), str(branch), str(version))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"driver_objections": driver_objections}
