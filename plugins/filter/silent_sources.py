"""Name the sources of torch that do not answer."""

from __future__ import annotations

DOCUMENTATION = r"""
name: silent_sources
short_description: Name the sources of torch that do not answer
version_added: 0.1.0
author: The torchfleet authors
description:
  - Of what M(torchfleet.gpu.mirror_probe) found, those of C(pytorch_sources) of which no mirror answers. The
    plan is made again without them.

options:
  _input:
    description: The result C(groups) of M(torchfleet.gpu.mirror_probe).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say which do not answer
  ansible.builtin.debug:
    msg: "{{ probed.groups | torchfleet.gpu.silent_sources }}"
"""

RETURN = r"""
_value:
  description:
    - The C(name) of each source, what was C(found) instead of an answer, and the C(warning) for the plan.
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import preflight
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def silent_sources(probed: Any) -> list[dict[str, Any]]:
    return preflight.silent_sources(plain(probed))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"silent_sources": silent_sources}
