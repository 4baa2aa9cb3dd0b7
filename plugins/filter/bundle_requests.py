"""Name what a host needs of a bundle."""

from __future__ import annotations

DOCUMENTATION = r"""
name: bundle_requests
short_description: Name what a host needs of a bundle
version_added: 0.2.0
author: The torchfleet authors
description:
  - Installer, packages of conda and of Python, uv and the driver, each as a request of
    M(torchfleet.gpu.bundle). What is the
    same for two hosts has the same C(key).


positional: truth, variables
options:
  _input:
    description: The plan.
    type: dict
    required: true
  truth:
    description: What the host is.
    type: dict
    required: true
  variables:
    description: The values of the roles' variables, by name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: What does this host need?
  ansible.builtin.debug:
    msg: "{{ torchfleet_plan | torchfleet.gpu.bundle_requests(torchfleet_truth, variables) }}"
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


def bundle_requests(plan: Any, truth: Any, variables: Any) -> list[dict[str, Any]]:
    return bundle.requests(plain(plan), plain(truth), plain(variables))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"bundle_requests": bundle_requests}
