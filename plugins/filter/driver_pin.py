"""Tell the version that all parts of a driver must have."""

from __future__ import annotations

DOCUMENTATION = r"""
name: driver_pin
short_description: Tell the version that all parts of a driver must have
version_added: 0.2.0
author: The torchfleet authors
description:
  - Where the candidates of a driver are of several versions, all must be of that of the kernel module.
options:
  _input:
    description: The candidates, as P(torchfleet.gpu.apt_candidates#filter) tells them.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ candidates | torchfleet.gpu.driver_pin }}"
"""

RETURN = r"""
_value:
  description: The version; empty where there is only one.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def driver_pin(candidates: Any) -> str:
    return driver_packages.driver_pin(plain(candidates))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"driver_pin": driver_pin}
