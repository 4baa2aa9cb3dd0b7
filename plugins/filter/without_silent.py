"""Leave out of a wish what does not answer."""

from __future__ import annotations

DOCUMENTATION = r"""
name: without_silent
short_description: Leave out of a wish what does not answer
version_added: 0.2.0
author: The torchfleet authors
description:
  - By what M(torchfleet.gpu.mirror_probe) found, the sources of torch and the repositories of drivers of
    which no mirror answers are left out of the wish. The plan is made again with it.
  - A repository that the wish asks for by its name stays.
positional: probed
options:
  _input:
    description: The wish.
    type: dict
    required: true
  probed:
    description: The result C(groups) of M(torchfleet.gpu.mirror_probe).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say what does not answer
  ansible.builtin.debug:
    msg: "{{ (torchfleet_wish | torchfleet.gpu.without_silent(probed.groups)).warnings }}"
"""

RETURN = r"""
_value:
  description: The C(wish) that is left, and the C(warnings) for the plan; none when everything answers.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import preflight
from ansible_collections.torchfleet.gpu.plugins.plugin_utils.problems import plain


def without_silent(wish: Any, probed: Any) -> dict[str, Any]:
    return preflight.without_silent(plain(wish), plain(probed))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"without_silent": without_silent}
