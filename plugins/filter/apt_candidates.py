"""Tell which versions apt offers."""

from __future__ import annotations

DOCUMENTATION = r"""
name: apt_candidates
short_description: Tell which versions apt offers
version_added: 0.2.0
author: The torchfleet authors
description:
  - Reads what C(apt-cache policy) prints.
options:
  _input:
    description: Its output.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ policy.stdout | torchfleet.gpu.apt_candidates }}"
"""

RETURN = r"""
_value:
  description: The candidate version by the name of the package; packages without one are left out.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import driver_packages


def apt_candidates(text: str) -> dict[str, str]:
    return driver_packages.apt_candidates(str(text))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"apt_candidates": apt_candidates}
