"""List what a host needs and a bundle does not carry."""

from __future__ import annotations

DOCUMENTATION = r"""
name: bundle_problems
short_description: List what a host needs and a bundle does not carry
version_added: 0.2.0
author: The torchfleet authors
description:
  - Requests that the manifest does not have, and files of it that are not there.


positional: requests, place
options:
  _input:
    description: The manifest of the bundle.
    type: dict
    required: true
  requests:
    description: What P(torchfleet.gpu.bundle_requests#filter) says of the host.
    type: list
    elements: dict
    required: true
  place:
    description: Where the bundle is.
    type: path
    required: true
  lacking:
    description: The files of it that are not there. Left out, the directory on the controller is looked
      through.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Is all of it there?
  ansible.builtin.assert:
    that: manifest | torchfleet.gpu.bundle_problems(requests, '/srv/bundle') | length == 0
"""

RETURN = r"""
_value:
  description: Each with C(code), C(what), C(found), C(expected) and C(fix).
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import bundle
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import Problem, plain


def bundle_problems(manifest: Any, requests: Any, place: Any, lacking: Any = None) -> list[Problem]:
    return bundle.problems(plain(manifest), plain(requests), plain(place), plain(lacking))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"bundle_problems": bundle_problems}
