"""Name the packages that an interrupted rpm left beside newer ones."""

from __future__ import annotations

DOCUMENTATION = r"""
name: driver_duplicates
short_description: Name the packages that an interrupted rpm left beside newer ones
version_added: 0.2.0
author: The torchfleet authors
description:
  - Packages of one name for several architectures are none.
options:
  _input:
    description: The installed packages of a driver, as the truth tells them (docs/contracts.md).
    type: list
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ torchfleet_truth.driver.packages | torchfleet.gpu.driver_duplicates }}"
"""

RETURN = r"""
_value:
  description: The older ones, as name-version.architecture.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def driver_duplicates(installed: Any) -> list[str]:
    return driver_packages.driver_duplicates(plain(installed))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"driver_duplicates": driver_duplicates}
