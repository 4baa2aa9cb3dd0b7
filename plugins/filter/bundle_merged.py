"""Make one list of what several hosts need."""

from __future__ import annotations

DOCUMENTATION = r"""
name: bundle_merged
short_description: Make one list of what several hosts need
version_added: 0.2.0
author: The torchfleet authors
description:
  - Each request once. Where packages of apt are asked for, those count as installed that are installed on all
    hosts that
    ask, so that what one of them lacks is in the bundle.


positional: _input
options:
  _input:
    description: The lists of requests of the hosts.
    type: list
    elements: list
    required: true
"""

EXAMPLES = r"""
- name: What does the fleet need?
  ansible.builtin.debug:
    msg: "{{ [bundle_requests_of_gpu01, bundle_requests_of_gpu02] | torchfleet.gpu.bundle_merged }}"
"""

RETURN = r"""
_value:
  description: The requests.
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import bundle
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def bundle_merged(lists: Any) -> list[dict[str, Any]]:
    return bundle.merged(plain(list(lists)))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"bundle_merged": bundle_merged}
