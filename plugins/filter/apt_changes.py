"""Tell what apt would do."""

from __future__ import annotations

DOCUMENTATION = r"""
name: apt_changes
short_description: Tell what apt would do
version_added: 0.2.0
author: The torchfleet authors
description:
  - Reads what C(apt-get --simulate) prints.
options:
  _input:
    description: Its output.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ simulated.stdout | torchfleet.gpu.apt_changes }}"
"""

RETURN = r"""
_value:
  description:
    - One mapping for each package with C(name), C(from) (null for a new one) and
      C(to) (null for one that goes).
  type: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages


def apt_changes(text: str) -> list[dict[str, Any]]:
    return driver_packages.apt_changes(str(text))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"apt_changes": apt_changes}
