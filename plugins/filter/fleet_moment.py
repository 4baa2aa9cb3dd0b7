"""The moment that a person means by a day."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_moment
short_description: Tell the last moment of a day that a person names
version_added: 0.1.0
author: The torchfleet authors
options:
  _input:
    description:
      - A day such as V(2026-11-20), V(today), V(yesterday) or V(friday) (the last one that is over), or a
        moment such as V(2026-11-20T18:00:00Z).
    type: str
    required: true
  today:
    description: The day of today, UTC, in ISO 8601. The default is the clock's.
    type: str
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ 'friday' | torchfleet.gpu.fleet_moment }}"
"""

RETURN = r"""
_value:
  description: UTC in ISO 8601; empty where the input is no time.
  type: str
"""

import datetime
from collections.abc import Callable
from typing import Any

from ansible_collections.torchfleet.gpu.plugins.plugin_utils import report


def fleet_moment(told: Any, today: str | None = None) -> str:
    now = datetime.datetime.now(datetime.timezone.utc).date()
    return report.moment(str(told), datetime.date.fromisoformat(str(today)) if today else now) or ""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fleet_moment": fleet_moment}
