"""What preflight asks a host for."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_questions
short_description: Tell what preflight asks a host for
version_added: 0.1.0
author: The torchfleet authors
description:
  - All places that a run writes to, and the names of all mirrors that it may fetch from.
options:
  _input:
    description: The values of the roles' variables, by name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Ask the host what it is
  torchfleet.gpu.gpu_facts:
    disk_paths: "{{ (variables | torchfleet.gpu.preflight_questions).disk_paths }}"
"""

RETURN = r"""
_value:
  description: The arguments C(disk_paths) and C(resolve) of M(torchfleet.gpu.gpu_facts).
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import findings
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def preflight_questions(variables: Any) -> dict[str, Any]:
    return findings.questions(plain(variables))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"preflight_questions": preflight_questions}
