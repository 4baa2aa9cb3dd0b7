"""Name the packages that are a driver's."""

from __future__ import annotations

DOCUMENTATION = r"""
name: of_driver
short_description: Name the packages that are a driver's
version_added: 0.2.0
author: The torchfleet authors
description:
  - Container tools and toolkits are none.
options:
  _input:
    description: What the package manager would do, as C(name), C(from) and C(to).
    type: list
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ changes | torchfleet.gpu.of_driver }}"
"""

RETURN = r"""
_value:
  description: The names of the driver's packages.
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def of_driver(changes: Any) -> list[str]:
    return driver_packages.of_driver(plain(changes))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"of_driver": of_driver}
