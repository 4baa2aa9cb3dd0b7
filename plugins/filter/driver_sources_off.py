"""Switch off the repositories of a file that can bring a driver."""

from __future__ import annotations

DOCUMENTATION = r"""
name: driver_sources_off
short_description: Switch off the repositories of a file that can bring a driver
version_added: 0.3.0
author: The torchfleet authors
description:
  - Knows the files of apt (one line or deb822), dnf and zypper. Other repositories of the file stay on.
options:
  _input:
    description: What the file holds.
    type: str
    required: true
  path:
    description: Its path; the end tells its format.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what the file would be
  ansible.builtin.debug:
    msg: "{{ answer.content | b64decode | torchfleet.gpu.driver_sources_off(answer.source) }}"
"""

RETURN = r"""
_value:
  description: The file as it shall be; the same where nothing is to be switched off.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils.driver_sources import switched_off


def driver_sources_off(content: str, path: str) -> str:
    return switched_off(str(content), str(path))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"driver_sources_off": driver_sources_off}
