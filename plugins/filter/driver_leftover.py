"""Tell what a change of the driver would leave behind."""

from __future__ import annotations

DOCUMENTATION = r"""
name: driver_leftover
short_description: Tell what a change of the driver would leave behind
version_added: 0.2.0
author: The torchfleet authors
description:
  - Packages of another branch or flavour that the package manager would not remove by itself.
options:
  _input:
    description: The installed packages of a driver, as the truth tells them (docs/contracts.md).
    type: list
    required: true
  changes:
    description: What the package manager would do, as C(name), C(from) and C(to).
    type: list
    elements: dict
    required: true
  driver:
    description: The plan's driver.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ installed | torchfleet.gpu.driver_leftover(changes, torchfleet_plan.driver) }}"
"""

RETURN = r"""
_value:
  description: The names of these packages.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def driver_leftover(installed: Any, changes: Any, driver: Any) -> list[str]:
    return driver_packages.driver_leftover(plain(installed), plain(changes), plain(driver))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"driver_leftover": driver_leftover}
